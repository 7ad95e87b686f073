"""The identity statement: what an author says about a sealed image, for machines and auditors.

An in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md) with Kokon's own predicate
`https://kokon.dev/identity/v1` (docs/PROTOCOL.md). It travels in a DSSE envelope; `read_statement` is the one way to
trust it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, StaleError, UntrustedError
from kokon.image.dsse import PAYLOAD_LIMIT, Envelope, envelope_from, parse_envelope, verify_envelope
from kokon.image.manifest import LAYERS_LIMIT, check_digest
from kokon.image.version import VERSION_LIMIT, parse_version
from kokon.wire import Fields, canonical_json, parse_json, unhex

if TYPE_CHECKING:
    from collections.abc import Mapping

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://kokon.dev/identity/v1"
MEASUREMENT_SIZE = 48
_KID = re.compile(r"kbs:///(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}/){2}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z")


@dataclass(frozen=True, slots=True)
class Kek:
    """The key that wraps the layer keys: its KBS address, and itself with its author encrypted to the owner (a JWE,
    see `kokon.image.kek`)."""

    kid: str
    jwe: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GuestReference:
    """The guest image that the reference values were computed from: digest (`sha256` hex of guest.json), kernel."""

    digest: str
    kernel_release: str


@dataclass(frozen=True, slots=True)
class ReferenceEntry:
    """A launch measurement (48 bytes) that this image may run under, and the machine shape that leads to it."""

    tee: str
    vcpus: int
    cpu: str
    measurement: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """An author's words about the image whose manifest digest is `subject`. Times are aware, UTC, whole seconds.

    `args` are the image's own arguments; only if `args_may_vary` may a launch give others. `version` is the image's, as
    `kokon.image.version` reads it; "" if the author gave none, and then the statement's bytes do not tell of it.
    """

    subject: str
    name: str
    author: str
    created: datetime
    not_after: datetime
    layers: tuple[str, ...]
    config: str
    kek: Kek
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    args_may_vary: bool = False
    env: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    guest: GuestReference | None = None
    reference: tuple[ReferenceEntry, ...] = ()
    version: str = ""


def check_kid(text: str) -> str:
    """`text` itself if it is a KBS resource address (facts: `kbs:///repository/type/tag`), else `MalformedError`
    (`kid-malformed`)."""
    if not _KID.fullmatch(text):
        raise MalformedError("kid-malformed", "not a KBS resource address", expected="kbs:///a/b/c", found=text[:200])
    return text


def encode_statement(statement: Statement) -> bytes:
    """The statement as canonical JSON: the payload of its envelope. Raises `MalformedError` (`version-malformed`)."""
    predicate: dict[str, Any] = {
        "author": statement.author,
        "created": format_time(statement.created),
        "notAfter": format_time(statement.not_after),
        "layers": list(statement.layers),
        "config": statement.config,
        "entrypoint": list(statement.entrypoint),
        "args": list(statement.args),
        "argsMayVary": statement.args_may_vary,
        "env": list(statement.env),
        "ports": list(statement.ports),
        "volumes": list(statement.volumes),
        "secrets": list(statement.secrets),
        "kek": {"kid": statement.kek.kid, "jwe": dict(statement.kek.jwe)},
        "reference": [
            {"tee": entry.tee, "vcpus": entry.vcpus, "cpu": entry.cpu, "measurement": entry.measurement.hex()}
            for entry in statement.reference
        ],
    }
    if statement.guest is not None:
        predicate["guest"] = {"digest": statement.guest.digest, "kernel_release": statement.guest.kernel_release}
    if statement.version:
        predicate["version"] = parse_version(statement.version).text
    subject = {"name": statement.name, "digest": {"sha256": statement.subject.removeprefix("sha256:")}}
    return canonical_json(
        {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": predicate}
    )


def parse_statement(payload: bytes) -> Statement:
    """The statement in a payload of at most 512 KiB. It proves nothing before its envelope was verified.

    Raises `MalformedError` (`statement-malformed`, `kid-malformed`, `digest-malformed`, `version-malformed`, the codes
    of `kokon.wire`).
    """
    fields = Fields(parse_json(payload, limit=PAYLOAD_LIMIT, what="statement"), "statement")
    kinds = (fields.text("_type"), fields.text("predicateType"))
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise MalformedError(
            "statement-malformed",
            "the statement is not an identity statement",
            expected=f"{STATEMENT_TYPE}, {PREDICATE_TYPE}",
            found=", ".join(kinds),
        )
    name, subject = _subject(fields.array("subject", limit=1))
    predicate = Fields(fields.table("predicate"), "predicate")
    fields.finish()
    guest = predicate.value("guest", default=None)
    statement = Statement(
        subject=subject,
        name=name,
        author=predicate.text("author", limit=256),
        created=parse_time(predicate.text("created", limit=32)),
        not_after=parse_time(predicate.text("notAfter", limit=32)),
        layers=tuple(
            check_digest(text, what="layer digest") for text in _texts(predicate, "layers", limit=LAYERS_LIMIT)
        ),
        config=check_digest(predicate.text("config", limit=128), what="config digest"),
        kek=_kek(predicate.value("kek")),
        entrypoint=_texts(predicate, "entrypoint"),
        args=_texts(predicate, "args"),
        args_may_vary=predicate.flag("argsMayVary", default=False),
        env=_texts(predicate, "env"),
        ports=_texts(predicate, "ports"),
        volumes=_texts(predicate, "volumes"),
        secrets=_texts(predicate, "secrets"),
        guest=None if guest is None else _guest(guest),
        reference=tuple(_reference(entry) for entry in predicate.array("reference", limit=256)),
        version=_version(predicate.optional_text("version", limit=VERSION_LIMIT)),
    )
    predicate.finish()
    return statement


def read_statement(
    envelope: Envelope | bytes | Mapping[str, Any],
    author_pem: str | bytes,
    *,
    subject: str | None,
    now: datetime,
) -> Statement:
    """The statement of an envelope, believed: signed by the author, about the image `subject` (None: any), in date.

    Raises `UntrustedError` (`statement-author-unknown`, `statement-subject-mismatch`), `StaleError`
    (`statement-expired`), and what parsing raises.
    """
    if isinstance(envelope, bytes):
        envelope = parse_envelope(envelope)
    elif not isinstance(envelope, Envelope):
        envelope = envelope_from(envelope)
    statement = parse_statement(verify_envelope(envelope, author_pem))
    if subject is not None and statement.subject != subject:
        raise UntrustedError(
            "statement-subject-mismatch",
            "the statement is about another image",
            expected=subject,
            found=statement.subject,
        )
    check_dates(statement, now)
    return statement


def check_dates(statement: Statement, now: datetime) -> None:
    """Raise `StaleError` (`statement-expired`) unless `now` is before the statement's end.

    A beginning in the future is let through: the guest's clock is the host's, and may be late without harm.
    """
    if now >= statement.not_after:
        raise StaleError(
            "statement-expired",
            "the identity statement has expired",
            expected=f"before {format_time(statement.not_after)}",
            found=format_time(now),
            hint="ask the author to seal the image again, or to sign a new statement",
        )


def format_time(when: datetime) -> str:
    """RFC 3339 in UTC with whole seconds."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`. Raises `MalformedError` (`time-malformed`)."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise MalformedError("time-malformed", "not a time", expected="RFC 3339, UTC, whole seconds", found=text[:40])
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise MalformedError("time-malformed", "no such time", found=text) from error


def _subject(members: list[Any]) -> tuple[str, str]:
    if len(members) != 1:
        raise MalformedError("statement-malformed", "the statement needs one subject", found=len(members))
    fields = Fields(members[0], "subject")
    digest = Fields(fields.table("digest"), "subject digest")
    name = fields.text("name", default="", limit=1024)
    subject = check_digest("sha256:" + digest.text("sha256", limit=64), what="subject digest")
    digest.finish()
    fields.finish()
    return name, subject


def _version(text: str | None) -> str:
    return "" if text is None else parse_version(text).text


def _kek(value: Any) -> Kek:
    fields = Fields(value, "kek")
    kek = Kek(kid=check_kid(fields.text("kid", limit=512)), jwe=fields.table("jwe"))
    fields.finish()
    return kek


def _guest(value: Any) -> GuestReference:
    fields = Fields(value, "guest")
    guest = GuestReference(fields.text("digest", limit=128), fields.text("kernel_release", limit=128))
    fields.finish()
    return guest


def _reference(value: Any) -> ReferenceEntry:
    fields = Fields(value, "reference")
    entry = ReferenceEntry(
        tee=fields.text("tee", limit=32),
        vcpus=fields.integer("vcpus", low=1, high=1024),
        cpu=fields.text("cpu", limit=128),
        measurement=unhex(fields.text("measurement", limit=128), what="reference measurement", size=MEASUREMENT_SIZE),
    )
    fields.finish()
    return entry


def _texts(fields: Fields, name: str, limit: int = 256) -> tuple[str, ...]:
    members = fields.array(name, default=[], limit=limit)
    for member in members:
        if not isinstance(member, str) or len(member) > 1 << 16:
            raise MalformedError("statement-malformed", f"{name!r} of the statement must hold texts")
    return tuple(members)
