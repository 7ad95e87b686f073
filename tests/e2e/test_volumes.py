"""Volumes: what an application was told is safe is still there after a crash, and what the host changed is noticed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust
from kokon.errors import KokonError
from support.world import World, changed_stretch, flip_byte

pytestmark = pytest.mark.vm

FIRST = b"begin!" * 700_000
ENOUGH = 25
TOO_MANY = 2000
JOURNAL = """
import http.server, os
NAME = '/data/journal'
class Journal(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1
    def do_POST(self):
        data = self.rfile.read(int(self.headers['Content-Length']))
        file = os.open(NAME, os.O_WRONLY | os.O_APPEND)
        while data:
            data = data[os.write(file, data):]
        os.fsync(file)
        os.close(file)
        self.answer(b'safe')
    def do_GET(self):
        self.answer(open(NAME, 'rb').read())
    def answer(self, data):
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_):
        pass
with open(NAME, 'a+b') as file:
    file.seek(0)
    print('read', len(file.read()), flush=True)
os.fsync(os.open('/data', os.O_RDONLY))
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Journal).serve_forever()
"""


@dataclass(frozen=True)
class Crashed:
    """A volume whose guest was killed while it wrote: the host's file, how many records were acknowledged,
    and the host's file as it was before the first."""

    document: Path
    file: Path
    acknowledged: int
    ended: dict[str, Any]
    empty: Path

    def copy(self, name: str) -> Path:
        """A copy of the host's file, holes and all."""
        target = self.file.with_name(name)
        os.sync()
        shutil.copyfile(self.file, target)
        return target


def client(world: World, url: str) -> httpx2.Client:
    peer = AttestedPeer(url, read_trust(world.home / "trust.json"))
    return httpx2.Client(transport=AttestedTransport(peer), base_url=url, timeout=30)


def record(number: int) -> bytes:
    return FIRST if number == 0 else f"{number:06}".encode() * 3000


@pytest.fixture(scope="module")
def crashed(world: World) -> Crashed:
    """Records are written, one after the other was acknowledged, until `kill -9` of QEMU comes in between."""
    document = world.admit_program("journal", JOURNAL, "--volume", "data=/data")
    file = world.work / "journal.img"
    running = world.run(document, "--volume", f"data={file}:64M")
    empty = shutil.copyfile(file, world.work / "empty.img")
    count = 0
    enough = threading.Event()

    def pull_the_plug() -> None:
        enough.wait(60)
        os.kill(running["pid"], signal.SIGKILL)

    killer = threading.Thread(target=pull_the_plug)
    killer.start()
    with client(world, running["url"]) as http:
        try:
            while count < TOO_MANY:
                assert http.post("/", content=record(count)).text == "safe"
                count += 1
                if count == ENOUGH:
                    enough.set()
        except (httpx2.TransportError, KokonError):
            pass
    killer.join()
    ended = world.container("journal")
    world.assert_gone("journal", int(running["publish"].rpartition(":")[2]))
    world.ask("rm", "journal")
    return Crashed(document, file, count, ended, empty)


def test_what_was_acknowledged_survives_a_guest_killed_in_the_middle_of_writing(world: World, crashed: Crashed) -> None:
    assert ENOUGH <= crashed.acknowledged < TOO_MANY
    assert (crashed.ended["state"], crashed.ended["code"]) == ("failed", "guest-vanished")
    running = world.run(crashed.document, "--volume", f"data={crashed.copy('again.img')}")
    safe = b"".join(map(record, range(crashed.acknowledged)))
    with client(world, running["url"]) as http:
        kept = http.get("/").content
        assert kept[: len(safe)] == safe
        assert record(crashed.acknowledged).startswith(kept[len(safe) :])
        assert http.post("/", content=b"on we go").text == "safe"
    world.ask("rm", "journal", "--force")


def test_a_changed_block_is_noticed(world: World, crashed: Crashed) -> None:
    file = crashed.copy("changed.img")
    start, end = changed_stretch(crashed.empty, file)
    assert end - start > len(FIRST) // 2, "that is where the first record is"
    flip_byte(file, (start + end) // 2)
    world.run_fails("volume-corrupted", 4, crashed.document, "--volume", f"data={file}")
    assert "serving" not in world.phases("journal")
    assert world.owner.entries()[-1]["code"] == "volume-corrupted"
    world.ask("rm", "journal")


def test_a_volume_stays_closed_to_another_workload(world: World, crashed: Crashed) -> None:
    """The host gives the volume to a workload of the same image that has a key of its own."""
    document = world.admit_program("other", JOURNAL, "--volume", "data=/data")
    file = crashed.copy("given.img")
    world.run_fails("volume-corrupted", 4, document, "--volume", f"data={file}")
    assert "started" not in world.phases("other")
    assert file.read_bytes() == crashed.file.read_bytes()
    world.ask("rm", "other")
