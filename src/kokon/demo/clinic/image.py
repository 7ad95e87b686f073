"""Builds the clinic's container image as an OCI layout: a layer with Debian's Python, one with program and data."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kokon.demo.canaries import Canaries
from kokon.guest.build.deb import unpack_packages
from kokon.guest.build.packages import download, update
from kokon.guest.build.record import Package, Record, Store, read_record, write_record
from kokon.guest.build.tools import Tools

PACKAGES = (
    "libc6",
    "libexpat1",
    "libffi8",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "liblzma5",
    "libbz2-1.0",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
_LIBRARY = "usr/lib/python3.11/"
# What an HTTP service over SQLite does not need; leaving it out only makes the image smaller.
_UNUSED = tuple(
    _LIBRARY + name
    for name in (
        "asyncio", "concurrent", "ctypes", "curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3",
        "multiprocessing", "pydoc_data", "sqlite3/test", "test", "tkinter", "turtledemo", "unittest", "venv", "wsgiref",
        "xml", "xmlrpc", "__phello__", "config-3.11", "pydoc.py", "turtle.py", "lib-dynload/_codecs",
        "lib-dynload/_test", "lib-dynload/_curses", "lib-dynload/_asyncio", "lib-dynload/_ssl", "lib-dynload/_hashlib",
    )
)  # fmt: skip
_UNUSED_ELSEWHERE = ("usr/lib/x86_64-linux-gnu/gconv", "usr/share", "usr/lib/x86_64-linux-gnu/engines-3")
PATIENTS = (("Ada Example", "1815-12-10"), ("Bertha Sample", "1849-05-03"), ("Carl Muster", "1777-04-30"))


def build_image(canaries: Canaries, cache: Path, target: Path) -> None:
    """Write the clinic's image to the OCI layout `target`, from Debian packages that are kept in `cache`.

    The layer with Python is kept in `cache`. Raises what downloading packages raises.
    """
    runtime = _runtime_layer(cache)
    _write_layout([runtime, gzip.compress(_clinic_layer(canaries), 6, mtime=0)], target)


def _runtime_layer(cache: Path) -> bytes:
    store = Store(cache / "packages")
    packages = _packages(cache, store)
    request = " ".join([*(package.sha256 for package in packages), *_UNUSED])
    kept = cache / f"clinic-runtime-{hashlib.sha256(request.encode()).hexdigest()[:16]}.tar.gz"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "root"
            files = [store.path(package) for package in packages]
            unpack_packages(files, root, _wanted)
            for name in ("bin", "lib", "lib64"):
                (root / name).symlink_to(f"usr/{name}")
            (root / "usr" / "lib64").mkdir(exist_ok=True)
            loader = root / "usr" / "lib64" / "ld-linux-x86-64.so.2"
            if not loader.is_symlink() and not loader.exists():
                loader.symlink_to("../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
            for name in ("tmp", "run", "data", "srv", "proc", "sys", "dev", "etc"):
                (root / name).mkdir(exist_ok=True)
            (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/sbin/nologin\n")
            unpack_packages(files, Path(scratch) / "tools")
            Tools(Path(scratch) / "tools").compile_python(root, sorted((root / _LIBRARY).rglob("*.py")))
            part = kept.with_suffix(".part")
            part.write_bytes(gzip.compress(_tar(root), 6, mtime=0))
            part.replace(kept)
    return kept.read_bytes()


def _packages(cache: Path, store: Store) -> tuple[Package, ...]:
    """The packages of `PACKAGES`, chosen once."""
    request = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()
    path = cache / "clinic-packages.json"
    if path.is_file():
        record = read_record(path)
        if record.request == request and all(map(store.holds, record.packages)):
            return record.packages
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as name:
        area = Path(name).resolve()
        chosen = tuple(download(update(area, lambda _text, _done: None), PACKAGES, store, area / "files"))
    write_record(Record(request, chosen), path)
    return chosen


def _wanted(name: str) -> bool:
    return not name.startswith(_UNUSED + _UNUSED_ELSEWHERE)


def _tar(root: Path) -> bytes:
    """A reproducible tar of a tree: sorted, owned by root, times zero."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, str(path.relative_to(root)), recursive=False, filter=_plain)
    return out.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def _clinic_layer(canaries: Canaries) -> bytes:
    texts = canaries.texts
    half = len(texts["log"]) // 2
    program = Path(__file__).with_name("service.py").read_text()
    for mark, text in (
        ("@PROGRAM@", texts["program"]),
        ("@LOG_FIRST@", texts["log"][:half]),
        ("@LOG_SECOND@", texts["log"][half:]),
    ):
        program = program.replace(mark, text)
    files = {"srv/service.py": program.encode(), "srv/clinic.db": _database(texts)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _database(texts: Mapping[str, str]) -> bytes:
    """Findings are stored backwards, so that the answer's canary exists nowhere before the service answers."""
    findings = (texts["answer"], texts["data"][::-1], "in good health"[::-1])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "clinic.db"
        with sqlite3.connect(path) as records:
            records.execute("create table patients (id integer primary key, name text, born text, finding text)")
            rows = [(i + 1, n, b, f[::-1]) for i, ((n, b), f) in enumerate(zip(PATIENTS, findings, strict=True))]
            records.executemany("insert into patients values (?, ?, ?, ?)", rows)
        records.close()
        return path.read_bytes()


def _write_layout(layers: Sequence[bytes], target: Path) -> None:
    (target / "blobs" / "sha256").mkdir(parents=True)
    plain = [hashlib.sha256(gzip.decompress(layer)).hexdigest() for layer in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Cmd": ["python3.11", "/srv/service.py", "8080"],
            "Env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
            "WorkingDir": "/srv",
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in plain]},
    }
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _blob(target, json.dumps(config).encode(), f"{kind}.config.v1+json"),
        "layers": [_blob(target, layer, f"{kind}.layer.v1.tar+gzip") for layer in layers],
    }
    entry = _blob(target, json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _blob(target: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (target / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
