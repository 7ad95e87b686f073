"""What an application finds that looks for a way out of its container, in a real guest: nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.world import World

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("isolation")]

ESCAPE = """
import errno, http.server, json, os, pathlib, socket, struct, subprocess
inherited = sorted(os.listdir('/proc/self/fd'))
def call(number, first=0):
    # The image has neither a compiler nor ctypes: a program of 120 + 33 bytes, whose exit status is the errno.
    code = struct.pack('<BIBI', 0xb8, number, 0xbf, first)
    code += bytes.fromhex('31f631d24531d24531c00f05f7d889c7b83c0000000f05')
    size = 120 + len(code)
    magic = bytes.fromhex('7f454c46020101')
    head = struct.pack('<16sHHIQQQIHHHHHH', magic, 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack('<IIQQQQQQ', 1, 5, 0, 0x400000, 0x400000, size, size, 4096)
    with open('/call', 'wb') as file:
        file.write(head + segment + code)
    os.chmod('/call', 0o700)
    return subprocess.run(['/call']).returncode
def raised(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.errno
    return 0
def refused(path):
    try:
        with open(path, 'r+b', buffering=0) as file:
            file.write(b'1')
    except OSError:
        return True
    return False
def status(name):
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(line for line in lines if line.startswith(name + ':')).split()[1]
def reach(address, port):
    with socket.socket() as sock:
        sock.settimeout(5)
        return raised(sock.connect, (address, port))
devices = {'console', 'core', 'fd', 'full', 'mqueue', 'null', 'ptmx', 'pts', 'random', 'shm', 'stderr', 'stdin',
           'stdout', 'tty', 'urandom', 'zero'}
EPERM = errno.EPERM
checks = {
    'descriptors': lambda: inherited == ['0', '1', '2', '3'],  # the last is the listing's own
    'devices': lambda: set(os.listdir('/dev')) <= devices,
    'make a device': lambda: raised(os.mknod, '/vda', 0o60600, os.makedev(254, 0)) == EPERM,
    'capabilities': lambda: [int(status(f'Cap{name}'), 16) for name in ('Eff', 'Bnd', 'Amb')] == [0x800405fb] * 2 + [0],
    'privileges': lambda: (status('NoNewPrivs'), status('Seccomp')) == ('1', '2'),
    'user namespace': lambda: call(56, 0x10000000 | 17) == errno.ENOSPC,
    'system calls': lambda: call(102) == 0,
    'unshare': lambda: call(272, 0x10000000) == EPERM,
    'mount': lambda: call(165) == EPERM,
    'module': lambda: call(313) == EPERM,
    'bpf': lambda: call(321) == EPERM,
    'processes': lambda: [n for n in os.listdir('/proc') if n.isdigit()] == ['1'],
    'sysctl': lambda: refused('/proc/sys/kernel/core_pattern') and refused('/proc/sys/user/max_user_namespaces'),
    'sysrq': lambda: refused('/proc/sysrq-trigger'),
    'cgroup': lambda: refused('/sys/fs/cgroup/memory.max') and refused('/sys/fs/cgroup/cgroup.procs'),
    'memory': lambda: not os.path.exists('/proc/kcore') or not os.path.getsize('/proc/kcore'),
    'consoles': lambda: not pathlib.Path('/proc/consoles').read_text(),
    'ports': lambda: not os.listdir('/sys/class/virtio-ports'),
    'interfaces': lambda: os.listdir('/sys/class/net') == ['lo'],
    'the front door': lambda: reach('10.0.2.15', 8443) == errno.ENETUNREACH,
    'its loopback': lambda: reach('127.0.0.1', 8443) == errno.ECONNREFUSED,
    'the host': lambda: reach('10.0.2.2', 80) == errno.ENETUNREACH,
    'named sockets': lambda: len(pathlib.Path('/proc/net/unix').read_text().splitlines()) == 1,
    'packets': lambda: raised(socket.socket, socket.AF_PACKET, socket.SOCK_RAW) == EPERM,
    'vsock': lambda: raised(socket.socket, 40, socket.SOCK_STREAM) == errno.EAFNOSUPPORT,
    'kernel crypto': lambda: raised(socket.socket, 38, socket.SOCK_SEQPACKET) == errno.EAFNOSUPPORT,
    'swap': lambda: len(pathlib.Path('/proc/swaps').read_text().splitlines()) == 1,
}
def result(check):
    try:
        return check()
    except Exception as error:
        return repr(error)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({name: result(check) for name, check in checks.items()}).encode())
http.server.HTTPServer(('127.0.0.1', 8080), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.open() as opened:
        yield opened


def test_there_is_no_way_out_of_the_container(world: World) -> None:
    url = world.run(world.admit_program("escape", ESCAPE))["url"]
    peer = AttestedPeer(url, read_trust(world.home / "trust.json"))
    with httpx2.Client(transport=AttestedTransport(peer), base_url=url, timeout=60) as http:
        found = http.get("/").json()
    assert len(found) > 20
    assert {name: result for name, result in found.items() if result is not True} == {}
    assert (world.home / "containers" / "escape" / "console.log").read_bytes() == b""
