"""Small container images for tests: layers from plain data, as an OCI layout directory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make_tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes | None]], style: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name or TarInfo, content) pairs; a name with content None is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as archive:
        for name, content in members:
            if isinstance(name, str):
                info = member(name, tarfile.DIRTYPE if content is None else tarfile.REGTYPE)
            else:
                info = name
            if content is not None:
                info.size = len(content)
            archive.addfile(info, None if content is None else io.BytesIO(content))
    return out.getvalue()


def write_layout(
    directory: Path,
    layers: list[bytes],
    *,
    compress: bool = True,
    run: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    tag: str = "latest",
) -> str:
    """Write an OCI layout with one image made of these tars; answers the manifest's digest."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": run or {"Env": ["PATH=/bin"], "Cmd": ["/bin/app"], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created_by": "secret build step"} for _ in layers],
        **(extra or {}),
    }
    stored = [
        put(gzip.compress(layer, mtime=0), LAYER + "+gzip") if compress else put(layer, LAYER) for layer in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(json.dumps(config).encode(), CONFIG),
        "layers": stored,
    }
    descriptor = put(json.dumps(manifest).encode(), MANIFEST)
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return str(descriptor["digest"])
