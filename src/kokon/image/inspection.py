"""What a sealed image in a registry says about itself, checked as far as the caller's knowledge goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, MalformedError, UnreachableError
from kokon.image.fetch import hexdigest
from kokon.image.keyprovider import parse_packet
from kokon.image.layer import AGENT_ANNOTATION, JWE_ANNOTATION, recipients
from kokon.image.manifest import CONFIG_LIMIT, ENCRYPTED_SUFFIX, parse_config, parse_index, parse_manifest
from kokon.image.open import check_statement, fetch_statement
from kokon.image.sbom.document import MEDIA_TYPES, SBOM_LIMIT, parse_sbom
from kokon.image.signature import fetch_signature, signature_tag
from kokon.image.statement import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from kokon.image.fetch import Fetcher
    from kokon.image.manifest import Descriptor
    from kokon.image.statement import Statement

SBOMS_LIMIT = 4
"""Bills of materials that are looked at."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image's digest and description as JSON values; `checks`: name to `passed`, `not-checked` or a code."""

    digest: str
    layers: tuple[dict[str, Any], ...]
    config: dict[str, Any]
    checks: dict[str, str]
    statement: dict[str, Any] | None = field(default=None)
    sboms: tuple[dict[str, Any], ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "digest": self.digest,
            "layers": list(self.layers),
            "config": self.config,
            "checks": self.checks,
            "statement": self.statement,
            "sboms": list(self.sboms),
        }


def inspect_image(fetcher: Fetcher, pointer: str, author: str | None, now: datetime) -> Inspection:
    """Look at the image behind a tag or digest. With the author's key (PEM) signature and statement are verified,
    without it they are only looked for, and the statement is not shown: nothing would say whose words it holds.

    Raises `UnreachableError` (`image-not-found`) and what fetching and parsing the image itself raise; what is wrong
    with signature and statement stands in `checks`.
    """
    found = fetcher.manifest(pointer) if pointer.startswith("sha256:") else fetcher.tagged(pointer)
    if found is None:
        raise UnreachableError(
            "image-not-found",
            "the registry does not have this image",
            expected=pointer,
            hint="check the image's name and tag, and that it was pushed to this registry",
        )
    digest = hexdigest(found[0])
    manifest = parse_manifest(found[0])
    config = parse_config(fetcher.blob(manifest.config.digest, manifest.config.size, CONFIG_LIMIT))
    checks = {"manifest": "passed", "configuration": "passed"}
    statements: list[Statement] = []
    if author is None:
        checks["signature"] = "image-unsigned" if fetcher.tagged(signature_tag(digest)) is None else "not-checked"
        index = fetcher.referrers(digest)
        checks["statement"] = "statement-missing" if not (index and parse_index(index)) else "not-checked"
    else:

        def statement() -> None:
            statements.append(fetch_statement(fetcher, digest, author, now)[0])
            check_statement(statements[0], manifest)

        checks["signature"] = _outcome(lambda: fetch_signature(fetcher, digest, author))
        checks["statement"] = _outcome(statement)
    shown = statements[0] if checks["statement"] == "passed" else None
    return Inspection(
        digest=digest,
        layers=tuple(_layer(layer) for layer in manifest.layers),
        config={
            "architecture": config.architecture,
            "entrypoint": list(config.entrypoint),
            "command": list(config.command),
            "environment": [name for name, _ in config.environment],
            "ports": list(config.ports),
            "volumes": list(config.volumes),
            "user": config.user,
        },
        checks=checks,
        statement=None if shown is None else _statement(shown),
        sboms=tuple(_sboms(fetcher, digest, author)),
    )


def _sboms(fetcher: Fetcher, digest: str, author: str | None) -> Iterator[dict[str, Any]]:
    """The bills of materials that are attached to the image, and whether the author signed each."""
    index = fetcher.referrers(digest)
    entries = () if index is None else parse_index(index)
    kinds = {media_type: kind for kind, media_type in MEDIA_TYPES.items()}
    attached = [entry.descriptor for entry in entries if entry.descriptor.artifact_type in kinds]
    for descriptor in attached[:SBOMS_LIMIT]:
        count: list[int] = []

        def check(descriptor: Descriptor = descriptor, count: list[int] = count) -> None:
            manifest = parse_manifest(fetcher.manifest(descriptor.digest)[0])
            if len(manifest.layers) != 1 or manifest.subject != digest:
                raise MalformedError("sbom-unknown", "what is attached is no bill of materials of this image")
            layer = manifest.layers[0]
            count.append(parse_sbom(fetcher.blob(layer.digest, layer.size, SBOM_LIMIT)).packages)
            if author is not None:
                fetch_signature(fetcher, descriptor.digest, author)

        outcome = _outcome(check)
        if author is None and outcome == "passed":
            outcome = "not-checked"
        yield {
            "digest": descriptor.digest,
            "format": kinds[descriptor.artifact_type or ""],
            "packages": count[0] if count else None,
            "signature": outcome,
        }


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except KokonError as error:
        return error.code
    return "passed"


def _layer(descriptor: Descriptor) -> dict[str, Any]:
    encrypted = descriptor.media_type.endswith(ENCRYPTED_SUFFIX)
    packets = recipients(descriptor.annotations, AGENT_ANNOTATION)
    return {
        "digest": descriptor.digest,
        "size": descriptor.size,
        "encrypted": encrypted,
        "keys": [parse_packet(packet).kid for packet in packets],
        "jwe_recipients": len(recipients(descriptor.annotations, JWE_ANNOTATION)),
    }


def _statement(statement: Statement) -> dict[str, Any]:
    guest = statement.guest
    return {
        "author": statement.author,
        "version": statement.version,
        "created": format_time(statement.created),
        "not_after": format_time(statement.not_after),
        "kek": statement.kek.kid,
        "args_may_vary": statement.args_may_vary,
        "env": list(statement.env),
        "volumes": list(statement.volumes),
        "secrets": list(statement.secrets),
        "guest": None if guest is None else {"digest": guest.digest, "kernel_release": guest.kernel_release},
        "reference": [
            {"tee": entry.tee, "vcpus": entry.vcpus, "cpu": entry.cpu, "measurement": entry.measurement.hex()}
            for entry in statement.reference
        ],
    }
