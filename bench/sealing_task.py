"""One task of `bench.sealing` in a process of its own: `python -m bench.sealing_task TASK AREA REGISTRY`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.images import write_layout

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_BLOCK = 1 << 20


class _Gzip(io.RawIOBase):
    """A file that gzips what is written to it, without trying to compress, and knows both digests."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self._deflate = zlib.compressobj(0, zlib.DEFLATED, 31)
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    def write(self, data: Buffer, /) -> int:
        block = bytes(data)
        self.plain.update(block)
        self._put(self._deflate.compress(block))
        return len(block)

    def finish(self) -> None:
        self._put(self._deflate.flush())
        self._file.close()

    def _put(self, data: bytes) -> None:
        self.packed.update(data)
        self.size += len(data)
        self._file.write(data)


class _Random(io.RawIOBase):
    """Bytes that do not compress: one random block again and again, farther apart than deflate looks back."""

    def __init__(self) -> None:
        super().__init__()
        self._block = os.urandom(_BLOCK)

    def read(self, size: int = -1) -> bytes:
        return self._block[: max(0, size)]


def prepare(area: Path, size: int) -> None:
    """An OCI layout in `area`/image with one layer of `size` bytes: a gzipped tar of files of 64 MiB."""
    target = area / "image"
    (target / "blobs" / "sha256").mkdir(parents=True)
    part = area / "layer.part"
    out = _Gzip(part)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        left = size
        while left > 0:
            member = tarfile.TarInfo(f"data/{left:012}")
            member.size = min(left, 64 << 20)
            archive.addfile(member, _Random())
            left -= member.size
    out.finish()
    digest = out.packed.hexdigest()
    part.rename(target / "blobs" / "sha256" / digest)
    layer = {"mediaType": _TYPE, "digest": f"sha256:{digest}", "size": out.size}
    write_layout(target, layer, out.plain.hexdigest(), {"Cmd": ["/none"]})


def _layer(area: Path) -> Path:
    return max((area / "image" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


def copy(area: Path, _registry: str) -> float:
    """Read, hash and write the layer: what nobody can do without."""
    begin = time.monotonic()
    digest = hashlib.sha256()
    with _layer(area).open("rb") as source, (area / "copy").open("wb") as target:
        while data := source.read(_BLOCK):
            digest.update(data)
            target.write(data)
    seconds = time.monotonic() - begin
    (area / "copy").unlink()
    return seconds


def seal(area: Path, registry: str) -> float:
    """What `kokon seal` does: check, encrypt, push, sign, state."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.seal import Claims
    from kokon.image.seal import seal as seal_image
    from kokon.image.source import open_source
    from kokon.jose.jwe import public_jwk

    author, owner = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    at = datetime.now(UTC)
    reference = parse_reference(f"{registry}/large:1")
    begin = time.monotonic()
    with open_source(f"oci:{area / 'image'}") as source, Registry(reference.registry) as client:
        claims = Claims(created=at, not_after=at + timedelta(days=1))
        sealed = seal_image(source, client, reference, author, public_jwk(owner), claims)
    seconds = time.monotonic() - begin
    public = author.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    state = {"digest": sealed.digest, "author": public, "kek": _kek(sealed.statement.kek.jwe, public, owner).hex()}
    (area / "sealed.json").write_text(json.dumps(state))
    return seconds


def _kek(jwe: Any, author: str, owner: Any) -> bytes:
    from kokon.image.kek import open_kek

    return open_kek(jwe, author, owner)


def unseal(area: Path, registry: str) -> float:
    """What the agent does: pull and check the ciphertext, check its MAC, decrypt, unpack."""
    from kokon.image.fetch import Fetcher
    from kokon.image.open import pull_image, unseal_layers
    from kokon.image.unpack import Limits
    from kokon.launch.document import ImageRef

    state = json.loads((area / "sealed.json").read_text())
    image = ImageRef(f"http://{registry}", "large", state["digest"], state["author"])
    work = area / "unsealing"
    work.mkdir()
    begin = time.monotonic()
    with Fetcher(image.registry, image.repository) as fetcher:
        pulled = pull_image(image, fetcher, work, now=datetime.now(UTC))
    keks = {kid: bytes.fromhex(state["kek"]) for kid in pulled.kek_ids()}
    unseal_layers(pulled, keks, work / "rootfs", limits=Limits())
    seconds = time.monotonic() - begin
    shutil.rmtree(work)
    return seconds


def skopeo(area: Path, registry: str) -> float:
    """The same encryption and push by skopeo (containers/image with ocicrypt), for one JWE recipient."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = rsa.generate_private_key(65537, 3072).public_key()
    (area / "recipient.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    words = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--encryption-key",
             f"jwe:{area / 'recipient.pem'}", f"oci:{area / 'image'}", f"docker://{registry}/other:1"]  # fmt: skip
    begin = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


TASKS: dict[str, Callable[[Path, str], float]] = {"copy": copy, "seal": seal, "unseal": unseal, "skopeo": skopeo}


def peak(task: str) -> int:
    """KiB: our own highest resident set, or that of the program that we ran."""
    if task == "skopeo":
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    name, directory, address = sys.argv[1:]
    taken = TASKS[name](Path(directory), address)
    print(json.dumps({"seconds": taken, "kilobytes": peak(name)}))
