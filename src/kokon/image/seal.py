"""Seal an image: encrypt its layers, sign it, state what it is, push all of it. The author's one operation.

The configuration stays readable in the registry (so it is with ocicrypt), so it is cut down to what running needs:
history, labels and details of the build are dropped. The user's tag is set last: it never names an image without its
signature and statement.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import UsageError
from kokon.image.dsse import ENVELOPE_TYPE, IN_TOTO_TYPE, Envelope, sign_envelope
from kokon.image.encrypt import LayerEncryptor, gzip_layer
from kokon.image.kek import seal_kek
from kokon.image.layer import KEY_SIZE
from kokon.image.manifest import (
    CONFIG_LIMIT,
    CONFIG_TYPE,
    ENCRYPTED_SUFFIX,
    LAYER_GZIP_TYPE,
    MANIFEST_TYPE,
    Descriptor,
)
from kokon.image.registry import descriptor_of, manifest_bytes
from kokon.image.sign import push_signature
from kokon.image.statement import GuestReference, Kek, ReferenceEntry, Statement, encode_statement
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from kokon.image.fetch import Progress
    from kokon.image.manifest import ImageConfig
    from kokon.image.reference import Reference
    from kokon.image.registry import Registry
    from kokon.image.sbom.document import Sbom
    from kokon.image.source import Source

DAYS_LIMIT = 3660
_CONFIG_KEPT = ("architecture", "os", "os.version", "variant", "created")
_RUN_DROPPED = ("Labels", "Hostname", "Domainname", "Image", "OnBuild", "AttachStdin", "AttachStdout", "AttachStderr")


@dataclass(frozen=True, slots=True)
class Claims:
    """What the author says beyond the image itself. `author` is a name for people; `env` names variables that may
    vary, `args_may_vary` lets a launch give arguments of its own; `secrets` names those that the application expects;
    `reference` holds accepted launch measurements; `version` is the image's, or ""; `sbom` is attached and signed."""

    created: datetime
    not_after: datetime
    author: str = ""
    env: tuple[str, ...] = ()
    args_may_vary: bool = False
    secrets: tuple[str, ...] = ()
    guest: GuestReference | None = None
    reference: tuple[ReferenceEntry, ...] = field(default=())
    version: str = ""
    sbom: Sbom | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed image: the pinned reference, the signed statement, and the digest of the statement's manifest."""

    reference: Reference
    statement: Statement
    envelope: Envelope
    referrer: str

    @property
    def digest(self) -> str:
        """The digest of the image's manifest."""
        return self.statement.subject


def seal(
    source: Source,
    registry: Registry,
    destination: Reference,
    author_key: EllipticCurvePrivateKey,
    owner: Mapping[str, Any],
    claims: Claims,
    progress: Progress | None = None,
) -> Sealed:
    """Encrypt every layer of `source` under fresh keys for `owner` (public JWK), push, sign, and attach the statement.

    `progress(done, total)` counts bytes of source layers. Constant memory. Raises `UntrustedError`
    (`blob-digest-mismatch`, `layer-diff-id-mismatch`), what the registry client and `encrypt_to` raise. A failure
    leaves unreferenced blobs in the registry at most, never a tag.
    """
    kek, sealed_kek = new_kek(author_key, owner)
    layers = tuple(_push_layers(source, registry, destination.repository, owner, (kek, sealed_kek.kid), progress))
    return publish(source, registry, destination, author_key, layers, sealed_kek, claims)


def new_kek(author_key: EllipticCurvePrivateKey, owner: Mapping[str, Any]) -> tuple[bytes, Kek]:
    """A fresh key for an image (32 bytes), and the same as the statement has it: sealed to the `owner`, at an address
    of its own."""
    kek, kid = os.urandom(KEY_SIZE), f"kbs:///default/kek/{os.urandom(16).hex()}"
    return kek, Kek(kid, seal_kek(kek, author_key.public_key(), owner))


def publish(
    source: Source,
    registry: Registry,
    destination: Reference,
    author_key: EllipticCurvePrivateKey,
    layers: tuple[Descriptor, ...],
    kek: Kek,
    claims: Claims,
    artifact_type: str | None = None,
) -> Sealed:
    """The image of layers that are in the registry already: its manifest, signature, statement and bill of materials,
    and last its tag. Raises what the registry client raises."""
    repository = destination.repository
    config = minimal_config(source.config_bytes)
    registry.upload_bytes(repository, config)
    manifest = manifest_bytes(descriptor_of(CONFIG_TYPE, config), layers, artifact_type=artifact_type)
    image = descriptor_of(MANIFEST_TYPE, manifest)
    registry.put_manifest(repository, image.digest, manifest)
    name = f"{destination.host}/{repository}"
    push_signature(registry, repository, image.digest, name, author_key)
    statement = Statement(
        subject=image.digest,
        name=name,
        layers=tuple(layer.digest for layer in layers),
        config=descriptor_of(CONFIG_TYPE, config).digest,
        kek=kek,
        **_of_claims(claims),
        **_of_config(source.config),
    )
    envelope = sign_envelope(encode_statement(statement), author_key)
    data = json.dumps(envelope.as_dict(), separators=(",", ":")).encode()
    referrer = registry.attach(repository, image, IN_TOTO_TYPE, data, ENVELOPE_TYPE)
    if claims.sbom is not None:
        bill = registry.attach(repository, image, claims.sbom.media_type, claims.sbom.data, claims.sbom.media_type)
        push_signature(registry, repository, bill, name, author_key)
    registry.put_manifest(repository, destination.tag or "latest", manifest)
    return Sealed(destination.with_digest(image.digest), statement, envelope, referrer)


def check_days(days: int) -> int:
    """`days` itself if a statement may live that long, else `UsageError` (`validity-range`)."""
    if not 1 <= days <= DAYS_LIMIT:
        raise UsageError(
            "validity-range", "a statement cannot live that long", expected=f"1..{DAYS_LIMIT} days", found=days
        )
    return days


def minimal_config(data: bytes) -> bytes:
    """The image configuration with nothing but what running the image takes. Raises as `parse_json` does."""
    document = parse_json(data, limit=CONFIG_LIMIT, what="image configuration")
    kept = {name: document[name] for name in _CONFIG_KEPT if document.get(name)}
    run = document.get("config") or {}
    kept["config"] = {name: value for name, value in run.items() if name not in _RUN_DROPPED and value}
    kept["rootfs"] = {"type": "layers", "diff_ids": document["rootfs"]["diff_ids"]}
    return json.dumps(kept, separators=(",", ":"), sort_keys=True).encode()


def _push_layers(
    source: Source,
    registry: Registry,
    repository: str,
    owner: Mapping[str, Any],
    kek: tuple[bytes, str],
    progress: Progress | None,
) -> Iterator[Descriptor]:
    total = sum(layer.size for layer in source.layers)
    done = 0
    for layer, diff_id in zip(source.layers, source.config.diff_ids, strict=True):
        encryptor = LayerEncryptor()
        plain = _counted(layer.read(), progress, done, total)
        packed = gzip_layer(plain, diff_id, is_gzip=layer.gzip)
        digest, size = registry.upload(repository, encryptor.chunks(packed))
        yield Descriptor(LAYER_GZIP_TYPE + ENCRYPTED_SUFFIX, digest, size, encryptor.annotations(owner, kek[0], kek[1]))
        done += layer.size


def _counted(chunks: Iterator[bytes], progress: Progress | None, done: int, total: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done, total)


def _of_claims(claims: Claims) -> dict[str, Any]:
    return {
        "author": claims.author,
        "created": claims.created.replace(microsecond=0),
        "not_after": claims.not_after.replace(microsecond=0),
        "env": claims.env,
        "args_may_vary": claims.args_may_vary,
        "secrets": claims.secrets,
        "guest": claims.guest,
        "reference": claims.reference,
        "version": claims.version,
    }


def _of_config(config: ImageConfig) -> dict[str, Any]:
    return {
        "entrypoint": config.entrypoint,
        "args": config.command,
        "ports": config.ports,
        "volumes": config.volumes,
    }
