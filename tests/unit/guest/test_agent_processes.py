"""PID 1's children, and work beside the main thread. In a process of its own: the reaper waits for every child."""

import subprocess
import sys
import textwrap

import pytest

from kokon.errors import InternalError, UntrustedError
from kokon.guest.agent.reap import exit_status
from kokon.guest.agent.tasks import Task

PROGRAM = """
import os, sys, time
from kokon.guest.agent.reap import Children
children = Children()
assert children.run(["sh", "-c", "exit 7"]) == 7
assert children.run(["sh", "-c", "read x; test $x = key"], b"key\\n") == 0
assert children.run(["sh", "-c", "kill -9 $$"]) == 137
reading, writing = os.pipe()
pid = children.spawn(["sh", "-c", "echo out; echo err >&2; echo $PATH"], stdout=writing, stderr=writing)
os.close(writing)
assert os.waitstatus_to_exitcode(children.wait(pid)) == 0
assert os.read(reading, 1000) == b"out\\nerr\\n/usr/sbin:/usr/bin:/sbin:/bin\\n"
slow = children.spawn(["sleep", "30"])
assert children.wait(slow, 0.05) is None
os.kill(slow, 15)
assert os.waitstatus_to_exitcode(children.wait(slow)) == -15
try:
    children.spawn(["/nonexistent/program"])
except FileNotFoundError:
    pass
# A process that a child left to us, adopted before and after it ended.
import ctypes
ctypes.CDLL(None).prctl(36, 1)
for delay in ("0.3", "0"):
    r, w = os.pipe()
    parent = children.spawn(["sh", "-c", f"(sleep {delay}; exit 5) & echo $!"], stdout=w)
    os.close(w)
    orphan = int(os.read(r, 100))
    children.wait(parent)
    if delay == "0":
        time.sleep(0.3)
    children.adopt(orphan)
    assert os.waitstatus_to_exitcode(children.wait(orphan, 5)) == 5
print("fine")
"""


def test_children_are_started_reaped_and_adopted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (9, 137), (15, 143)])
def test_statuses_are_as_shells_show_them(status: int, code: int) -> None:
    assert exit_status(status) == code


def test_a_task_hands_over_its_result() -> None:
    assert Task(lambda: 42, "t").result() == 42


def test_a_task_hands_over_its_error() -> None:
    def work() -> int:
        raise UntrustedError("volume-corrupted", "x")

    with pytest.raises(UntrustedError):
        Task(work, "t").result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unknown_exception_does_not_leave_the_task() -> None:
    def work() -> int:
        raise RuntimeError("patient 7")

    with pytest.raises(InternalError) as caught:
        Task(work, "t").result()
    assert caught.value.code == "internal-error"
    assert "patient" not in str(caught.value)
