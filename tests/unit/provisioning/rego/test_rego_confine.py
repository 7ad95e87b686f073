"""What a confined process cannot do, tried in one."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys

import pytest

TRIES = {
    "file": "open('/etc/hostname')",
    "socket": "socket.socket()",
    "pipe": "os.pipe()",
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "kill": "os.kill(os.getppid(), 0)",
    "memory of others": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0) == -1 and fail()",
    "trace": "libc.ptrace(16, os.getppid(), None, None) == -1 and fail()",
    "limits of others": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "delete": "os.unlink('/tmp/nothing')",
    "more descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
    "address space": "mmap.mmap(-1, 512 << 20)",
}
MAIN = """
import ctypes, json, mmap, os, resource, signal, socket, sys
from kokon.provisioning.rego.confine import confine, limit_cpu, take_pipes
libc = ctypes.CDLL(None, use_errno=True)
requests, answers = take_pipes()
def fail():
    raise OSError(ctypes.get_errno(), "")
found = {"filtered": confine(256 << 20), "environment": dict(os.environ)}
for name, code in json.loads(sys.argv[1]).items():
    try:
        eval(code)
        found[name] = "done"
    except (OSError, ValueError, MemoryError) as error:
        found[name] = type(error).__name__
os.write(answers, json.dumps(found).encode())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "KOKON_CANARY": "canary"}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment, check=False)


def test_what_is_given_up() -> None:
    found = json.loads(run(MAIN, json.dumps(TRIES)).stdout)
    assert found.pop("environment") == {}
    if platform.machine() != "x86_64":
        pytest.skip("no system call filter here")
    assert found.pop("filtered") is True
    assert {name for name in TRIES if found[name] == "done"} == set(), found


def test_the_canary_would_be_seen() -> None:
    """The tries do succeed in a process that is not confined."""
    code = MAIN.replace("confine(256 << 20)", "None").replace("take_pipes()", "(0, 1)")
    tries = {name: TRIES[name] for name in ("file", "socket", "pipe", "kill", "address space", "more descriptors")}
    found = json.loads(run(code, json.dumps(tries)).stdout)
    assert {found[name] for name in tries} == {"done"}
    assert found["environment"]["KOKON_CANARY"] == "canary"


def test_cpu_time_is_limited_from_now_on() -> None:
    code = """
import os, resource
from kokon.provisioning.rego.confine import confine, limit_cpu, take_pipes
take_pipes(); confine(256 << 20)
for _ in range(3):
    limit_cpu(1)
soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
os._exit(soft if hard == resource.RLIM_INFINITY else 99)
"""
    assert run(code).returncode == 2


def test_a_hard_limit_that_is_there_already_stays() -> None:
    code = """
import os, resource
from kokon.provisioning.rego.confine import limit_cpu
resource.setrlimit(resource.RLIMIT_CPU, (50, 50))
limit_cpu(100)
os._exit(resource.getrlimit(resource.RLIMIT_CPU)[0])
"""
    assert run(code).returncode == 50
    assert resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY


def test_standard_output_leads_nowhere() -> None:
    code = """
import os, sys
from kokon.provisioning.rego.confine import take_pipes
requests, answers = take_pipes()
os.write(1, b"printed"); os.write(2, b"printed")
os.write(answers, b"answered " + os.read(requests, 9))
"""
    done = subprocess.run([sys.executable, "-c", code], input=b"asked", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"answered asked", b"")
