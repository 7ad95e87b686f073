"""The scratch disk in a real guest: it stands any use, and what the host changes on it ends the application."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust
from kokon.errors import KokonError

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.world import World, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("scratch")]

BLOCK = 4096
FILES = """
import http.server, json, os, random
rnd = random.Random(7)
def forget(name):
    file = os.open(name, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
def write(name, data):
    with open(name, 'wb') as file:
        file.write(data)
def read(name):
    forget(name)
    with open(name, 'rb') as file:
        return file.read()
def raised(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.errno
    return 0
def many():
    os.mkdir('/many')
    content = {f'/many/{n}-' + 'x' * rnd.randrange(100): rnd.randbytes(rnd.randrange(9000)) for n in range(800)}
    for name, data in content.items():
        write(name, data)
    for name in list(content)[::3]:
        os.unlink(name)
        del content[name]
    os.symlink('y' * 200, '/many/link')
    return len(os.listdir('/many')) == len(content) + 1 and all(read(n) == d for n, d in content.items())
def holes():
    with open('/holes', 'w+b') as file:
        for _ in range(100):
            file.seek(rnd.randrange(20 << 20))
            file.write(b'z' * rnd.randrange(1, 5000))
        os.posix_fallocate(file.fileno(), 30 << 20, 5 << 20)
        file.seek((31 << 20) + 5)
        file.write(b'q')
        file.truncate(34 << 20)
    return read('/holes')[(31 << 20) + 5 - 1:][:3] == bytes(1) + b'q' + bytes(1)
def full():
    piece = rnd.randbytes(1 << 20)
    with open('/full', 'wb', buffering=0) as file:
        while raised(file.write, piece) == 0:
            pass
        size = file.tell()
    found = read('/full')
    right = size > 79 << 20 and all(found[n:n + (1 << 20)] == piece[:size - n] for n in range(0, size, 1 << 20))
    del found
    os.unlink('/full')
    write('/again', piece)
    return right and read('/again') == piece
LARGE = rnd.randbytes(4 << 20)
write('/large', LARGE)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip('/')
        found = read('/large') == LARGE if name == 'large' else globals()[name]()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())
http.server.HTTPServer(('127.0.0.1', 8080), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.open() as opened:
        yield opened


def client(world: World, url: str) -> httpx2.Client:
    peer = AttestedPeer(url, read_trust(world.home / "trust.json"))
    return httpx2.Client(transport=AttestedTransport(peer), base_url=url, timeout=120)


def test_files_of_all_kinds_are_read_as_they_were_written(world: World) -> None:
    running = world.run(world.admit_program("files", FILES), "--scratch", "192M")
    with client(world, running["url"]) as http:
        assert {name: http.get(f"/{name}").json() for name in ("large", "many", "holes", "full")} == dict.fromkeys(
            ("large", "many", "holes", "full"), True
        )
    world.ask("rm", "files", "--force")


def test_a_changed_block_ends_the_application(world: World) -> None:
    running = world.run(world.admit_program("changed", FILES), "--scratch", "192M")
    disk = world.home / "containers" / "changed" / "scratch.img"
    with client(world, running["url"]) as http:
        assert http.get("/large").json() is True
        assert flip_everywhere(disk) > 1000
        with pytest.raises((httpx2.TransportError, httpx2.HTTPStatusError, KokonError)):
            http.get("/large").raise_for_status()
    wait_until(lambda: world.container("changed")["state"] != "running", 20, "the guest goes on")
    assert world.container("changed")["code"] == "scratch-corrupted"
    assert world.owner.entries()[-1]["code"] == "scratch-corrupted"
    world.ask("rm", "changed")


def flip_everywhere(disk: Path) -> int:
    """Change one byte of every block that was ever written; how many."""
    with disk.open("r+b", buffering=0) as file:
        count = 0
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            try:
                position = file.seek(position, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break
            block = os.pread(file.fileno(), BLOCK, position)
            if any(block):
                os.pwrite(file.fileno(), bytes([block[9] ^ 1]), position + 9)
                count += 1
            position += BLOCK
    return count
