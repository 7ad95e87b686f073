"""Encrypting, decrypting and copying a large image, beside Debian's skopeo with the same layers in the same run.

Commands as users type them, their start included. Layers are of bytes that do not compress, and nobody is asked to
compress them: what is measured is ciphers, digests, reading and writing, on the same file system or registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.images import put_blob, write_layers
from bench.sealing_task import prepare
from bench.setting import Setting
from bench.table import Row, against, median
from kokon.demo.services import start_registry
from kokon.errors import HostError

SIZE = 512 << 20
QUICK_SIZE = 32 << 20
LAYERS = 8
_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class _Run:
    """What one command took: seconds of the clock, and its highest resident set in bytes."""

    seconds: float
    peak: int


def encryption(setting: Setting) -> list[Row]:
    """Rows for one layer of 512 MB, for as much in 8 layers, and for a registry; ratios to skopeo's throughput."""
    if shutil.which("skopeo") is None:
        setting.note("SKIPPED: skopeo is not installed")
        return []
    size = QUICK_SIZE if setting.quick else SIZE
    area = setting.directory("encryption")
    _keys(area)
    rows: list[Row] = []
    for count in (1, LAYERS):
        name = f"{size >> 20} MiB" + (f" in {count} layers" if count > 1 else "")
        setting.note(f"encryption: {name}")
        _image(area / f"image-{count}", size, count)
        rows += _compared(setting, area, f"image-{count}", name, size)
    setting.note("encryption: a registry")
    prepare(area, size)
    with _Registries(area) as registries:
        rows += _copied(setting, area, registries, size)
    return rows


class _Registries(ExitStack):
    """Registries, each new: whoever finds a layer in another repository need not send it."""

    def __init__(self, area: Path) -> None:
        super().__init__()
        self._area = area
        self._count = 0
        self.image = ""

    def new(self) -> None:
        """Start another; `image` is where to push to."""
        self._count += 1
        registry = start_registry(self._area / f"registry-{self._count}")
        self.callback(registry.stop)
        self.image = f"docker://{registry.url}/image:1"


def _compared(setting: Setting, area: Path, image: str, name: str, size: int) -> list[Row]:
    """Both tools encrypt the image and decrypt what they encrypted."""
    source, sealed, opened = (f"oci:{area / image}:1", f"oci:{area / 'sealed'}:1", f"oci:{area / 'opened'}:1")
    public, private = str(area / "public.pem"), str(area / "private.pem")
    ours = _kokon()
    theirs = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers"]
    return [
        *_rows(
            setting,
            f"encrypt {name}",
            size,
            [*theirs, "--encryption-key", f"jwe:{public}", source, sealed],
            [*ours, "encrypt", source, sealed, "--recipient", f"jwe:{public}"],
            lambda: shutil.rmtree(area / "sealed", ignore_errors=True),
        ),
        *_rows(
            setting,
            f"decrypt {name}",
            size,
            [*theirs, "--decryption-key", private, sealed, opened],
            [*ours, "decrypt", sealed, opened, "--key", private],
            lambda: shutil.rmtree(area / "opened", ignore_errors=True),
        ),
    ]


def _copied(setting: Setting, area: Path, registries: _Registries, size: int) -> list[Row]:
    """Both tools push an image of one layer and pull it. It is compressed: what is not, skopeo would compress."""
    source, pulled = f"oci:{area / 'image'}:1", f"oci:{area / 'pulled'}:1"
    theirs = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    ours = [*_kokon(), "copy"]
    return [
        *_rows(
            setting,
            "push",
            size,
            lambda: [*theirs, source, registries.image],
            lambda: [*ours, source, registries.image],
            registries.new,
        ),
        *_rows(
            setting,
            "pull",
            size,
            lambda: [*theirs, registries.image, pulled],
            lambda: [*ours, registries.image, pulled],
            lambda: shutil.rmtree(area / "pulled", ignore_errors=True),
        ),
    ]


_Command = Sequence[str] | Callable[[], Sequence[str]]


def _rows(
    setting: Setting, name: str, size: int, theirs: _Command, ours: _Command, clean: Callable[[], None]
) -> list[Row]:
    """The two commands in turn, so that a slow moment meets both; what ours made is left there."""
    taken: dict[str, list[_Run]] = {"skopeo": [], "kokon": []}
    for _ in range(1 if setting.quick else setting.runs):
        for tool, command in (("skopeo", theirs), ("kokon", ours)):
            clean()
            taken[tool].append(_run(command() if callable(command) else command))
    speed = {tool: round(size / 1e6 / median([run.seconds for run in runs]), 1) for tool, runs in taken.items()}
    base = Row(f"{name}: skopeo", speed["skopeo"], "MB/s")
    peak = max(run.peak for run in taken["kokon"])
    return [
        base,
        against(Row(f"{name}: kokon", speed["kokon"], "MB/s"), base),
        Row(f"{name}: peak memory", round(peak / 1e6, 1), "MB"),
    ]


def _run(command: Sequence[str]) -> _Run:
    """`VmHWM` is looked at while it runs: what `wait4` tells counts what the parent held when it forked."""
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    status = Path(f"/proc/{process.pid}/status")
    while True:
        try:
            _, said = process.communicate(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            peak = max([peak, *(int(line.split()[1]) << 10 for line in marks)])
    seconds = time.monotonic() - begin
    if process.returncode:
        raise HostError("bench-task-failed", f"{command[0]} failed", found=said.decode(errors="replace")[-600:])
    return _Run(seconds, peak)


def _kokon() -> list[str]:
    return [sys.executable, "-m", "kokon"]


def _keys(area: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (area / "public.pem").write_bytes(public)
    (area / "private.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _image(target: Path, size: int, count: int) -> None:
    """An OCI layout with `count` plain layers of random bytes, each a tar with one file, of `size` bytes together."""
    (target / "blobs" / "sha256").mkdir(parents=True)
    layers, diff_ids = [], []
    for number in range(count):
        header = _header(f"data-{number}", size // count)
        data = header + os.urandom(size // count) + bytes(-(size // count) % 512 + 1024)
        layers.append(put_blob(target, data, _TYPE))
        diff_ids.append(hashlib.sha256(data).hexdigest())
    write_layers(target, layers, diff_ids, {"Cmd": ["/none"]})


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)
