"""The images that benchmarks run: made here, so that every machine measures the same."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kokon.errors import HostError

PORT = 8080
PAGE = b"measured\n"
_TYPE = "application/vnd.oci.image"


def busybox_program() -> bytes:
    """Debian's static busybox. Raises `HostError` (`bench-tool-missing`)."""
    path = shutil.which("busybox")
    if path is None:
        raise HostError("bench-tool-missing", "busybox is not installed", hint="apt-get install busybox-static")
    return Path(path).resolve().read_bytes()


def busybox_image(target: Path) -> Path:
    """The small image: one layer with busybox (2 MB) and a page; its httpd serves `PAGE` at / on `PORT`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data, mode in (("bin/busybox", busybox_program(), 0o755), ("srv/index.html", PAGE, 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    command = ["/bin/busybox", "httpd", "-f", "-p", str(PORT), "-h", "/srv"]
    plain = out.getvalue()
    layer, diff_id = gzip.compress(plain, 6, mtime=0), hashlib.sha256(plain).hexdigest()
    (target / "blobs" / "sha256").mkdir(parents=True)
    write_layout(target, put_blob(target, layer, f"{_TYPE}.layer.v1.tar+gzip"), diff_id, {"Cmd": command})
    return target


def write_layout(target: Path, layer: Mapping[str, Any], diff_id: str, run: Mapping[str, Any]) -> None:
    """Configuration, manifest and index of an image of one layer, given its descriptor and diff_id (hex)."""
    write_layers(target, [layer], [diff_id], run)


def write_layers(
    target: Path, layers: Sequence[Mapping[str, Any]], diff_ids: Sequence[str], run: Mapping[str, Any]
) -> None:
    """The same for several layers, the lowest first."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}" for diff_id in diff_ids]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": put_blob(target, json.dumps(config).encode(), f"{_TYPE}.config.v1+json"),
        "layers": list(layers),
    }
    entry = put_blob(target, json.dumps(manifest).encode(), f"{_TYPE}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def put_blob(target: Path, data: bytes, media_type: str) -> dict[str, Any]:
    """Write a blob of the layout `target`; its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (target / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
