"""A container that starts from a block image in a real guest, and what a host may do to the image's disk."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust
from kokon.cli.run import block_image
from kokon.errors import KokonError

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.images import CONFIG, LAYER, digest_of, make_tar
from support.world import World, flip_byte, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("block")]

BLOCK = 4096
PROGRAM = """
import http.server, json, os
open('/written', 'w').write('on scratch')
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = open(self.path, 'rb').read() if self.path != '/root' else b''
        status = os.stat(self.path if self.path != '/root' else '/')
        answer = [found[:40].decode('latin1'), len(found), oct(status.st_mode), status.st_uid, int(status.st_mtime)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
http.server.HTTPServer(('127.0.0.1', 8080), Answer).serve_forever()
"""


class Blocks(World):
    """A world with block images: what `kokon block make` said of each."""

    made: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def world() -> Iterator[Blocks]:
    with Blocks.open() as opened:
        opened.made = {}
        (opened.work / "image.secret").write_bytes(os.urandom(32))
        make(opened, "one")
        make(opened, "two")
        yield opened


def make(world: Blocks, name: str) -> None:
    """A block image of the clinic's Python with a file of its own; all of them under one key and of one size."""
    shutil.copytree(world.work / "image", world.work / name, symlinks=True)
    add_layer(world.work / name, make_tar([("own", None), ("own/name", name.encode()), ("own/large", blocks(name))]))
    destination = f"docker://{world.registry.host}/block-{name}:1"
    world.made[name] = world.ask(
        "block", "make", f"oci:{name}", destination, "--key", "author.key", "--owner", world.owner_key,
        "--image-key", "image.secret", "--vary-args",
    )  # fmt: skip


def blocks(name: str) -> bytes:
    return b"".join(f"{name} {number:08}\n".encode().ljust(BLOCK, b".") for number in range(256))


def add_layer(layout: Path, tar: bytes) -> None:
    """Put one more layer on top of the only image of an OCI layout."""

    def read(digest: str) -> bytes:
        return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = digest_of(data)
        (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(read(index["manifests"][0]["digest"]))
    config = json.loads(read(manifest["config"]["digest"]))
    config["rootfs"]["diff_ids"].append(digest_of(tar))
    manifest["layers"].append(put(tar, LAYER))
    manifest["config"] = put(json.dumps(config).encode(), CONFIG)
    index["manifests"][0].update(put(json.dumps(manifest).encode(), index["manifests"][0]["mediaType"]))
    (layout / "index.json").write_text(json.dumps(index))


def admit(world: Blocks, name: str, image: str) -> Path:
    return world.admit(
        name, "--arg", "python3.11", "--arg=-c", f"--arg={PROGRAM}", image=f"{world.registry.host}/block-{image}:1"
    )


def client(world: Blocks, url: str) -> httpx2.Client:
    peer = AttestedPeer(url, read_trust(world.home / "trust.json"))
    return httpx2.Client(transport=AttestedTransport(peer), base_url=url, timeout=120)


def cached(world: Blocks, name: str = "one") -> Path:
    """The ciphertext of an image in the host's cache, fetched there if need be."""
    (digest,) = world.made[name]["layers"]
    target = world.home / "blocks" / digest.removeprefix("sha256:")
    found = block_image(world.home, admit(world, f"cached-{name}", name).read_bytes())
    assert found == target
    return target


@contextmanager
def tampered(world: Blocks) -> Iterator[Path]:
    """The cached ciphertext, writable, and as it was afterwards."""
    file = cached(world)
    before = file.read_bytes()
    file.chmod(0o600)
    try:
        yield file
    finally:
        file.write_bytes(before)
        file.chmod(0o400)


def test_a_container_starts_from_a_block_image(world: Blocks) -> None:
    running = world.run(admit(world, "good", "one"))
    with client(world, running["url"]) as http:
        assert http.get("/own/name").json()[:2] == ["one", 3]
        assert http.get("/own/large").json()[1] == 256 * BLOCK
        assert http.get("/written").json()[0] == "on scratch"
        assert http.get("/root").json()[2:4] == ["0o40755", 0]
    world.ask("rm", "good", "--force")
    cache = list((world.home / "blocks").glob("[0-9a-f]*"))
    assert [file.stat().st_mode & 0o777 for file in cache] == [0o400]
    before = cache[0].stat()
    assert cached(world) == cache[0]
    assert cache[0].stat() == before


def test_a_flipped_bit_in_what_the_start_reads_is_refused(world: Blocks) -> None:
    with tampered(world) as file:
        flip_byte(file, 1024)
        world.run_fails("image-corrupted", 4, admit(world, "flipped", "one"))


def test_a_flipped_bit_that_is_read_later_ends_the_application(world: Blocks) -> None:
    with tampered(world) as file:
        running = world.run(admit(world, "late", "one"))
        with client(world, running["url"]) as http:
            assert http.get("/own/name").json()[0] == "one"
            checked = world.ask("block", "verify", world.made["one"]["image"], "--image-key", "image.secret")
            for block in range(1, checked["blocks"]):
                flip_byte(file, block * BLOCK + 99)
            with pytest.raises((httpx2.TransportError, httpx2.HTTPStatusError, KokonError)):
                http.get("/own/large").raise_for_status()
        wait_until(lambda: world.container("late")["state"] != "running", 20, "the guest goes on")
        assert world.container("late")["code"] == "image-corrupted"
        assert world.owner.entries()[-1]["code"] == "image-corrupted"
        world.ask("rm", "late")


def test_another_image_under_the_same_key_is_refused(world: Blocks) -> None:
    other = cached(world, "two")
    with tampered(world) as file:
        assert other.stat().st_size == file.stat().st_size
        file.write_bytes(other.read_bytes())
        world.run_fails("image-corrupted", 4, admit(world, "swapped", "one"))
