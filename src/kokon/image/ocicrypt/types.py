"""Media types of layers, and what is compressed how. Pure.

Sources: OCI image-spec 1.1, layer.md; Docker's image manifest v2 schema 2; ocicrypt spec for the suffix (facts oci.md
1.1). Encrypted layers get OCI's names whatever they had before: a Docker manifest knows no encryption.
"""

from __future__ import annotations

from dataclasses import dataclass

from kokon.errors import MalformedError
from kokon.image.manifest import ENCRYPTED_SUFFIX

_OCI = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
WASM = "application/vnd.wasm.content.layer.v1+wasm"

_TYPES = {WASM: (WASM, "")}
for _base, _join, _target in (
    (_OCI, "+", _OCI),
    (_OCI_FOREIGN, "+", _OCI_FOREIGN),
    (_DOCKER, ".", _OCI),
    (_DOCKER, "+", _OCI),
    (_DOCKER_FOREIGN, ".", _OCI_FOREIGN),
):
    _TYPES[_base] = (_target, "")
    for _name in ("gzip", "zstd"):
        _TYPES[f"{_base}{_join}{_name}"] = (_target, _name)


@dataclass(frozen=True, slots=True)
class LayerType:
    """OCI's name of the uncompressed type, compression ("", gzip, zstd), whether it is encrypted."""

    base: str
    compression: str = ""
    encrypted: bool = False

    def __str__(self) -> str:
        packed = f"{self.base}+{self.compression}" if self.compression else self.base
        return packed + (ENCRYPTED_SUFFIX if self.encrypted else "")


def layer_type(media_type: str) -> LayerType:
    """What a layer's media type says. Raises `MalformedError` (`layer-type-unsupported`)."""
    known = _TYPES.get(media_type.removesuffix(ENCRYPTED_SUFFIX))
    if known is None:
        raise MalformedError(
            "layer-type-unsupported",
            "a layer has a media type that Kokon does not read",
            expected=f"{_OCI}, with +gzip or +zstd, or Docker's",
            found=media_type,
        )
    return LayerType(*known, encrypted=media_type.endswith(ENCRYPTED_SUFFIX))
