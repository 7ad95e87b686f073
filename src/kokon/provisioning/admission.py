"""Admission: what must hold before the server remembers a workload and keeps its keys. Pure.

Nothing that the sender claims to have checked is believed: the image manifest's digest, the author's signature of it,
the identity statement with its subject and dates, the launch document and how they fit together are all checked here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from kokon.errors import DeniedError, StaleError, UntrustedError
from kokon.image.fit import check_fit
from kokon.image.kek import open_kek
from kokon.image.manifest import parse_manifest
from kokon.image.open import check_statement
from kokon.image.signature import verify_signature
from kokon.image.statement import Statement, format_time, read_statement
from kokon.launch.document import LaunchDocument, document_digest, parse_document
from kokon.provisioning.kbs.paths import check_path, resource_path
from kokon.provisioning.restrictions import read_activations, read_chips, read_policy, read_tees
from kokon.provisioning.workload import Workload, parse_policy
from kokon.wire import Fields, unb64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

ADMISSION_LIMIT = 8 << 20
"""Bytes of an admission request: a manifest of 4 MiB in base64 and the rest."""
MANIFEST_LIMIT = 4 << 20
SKEW = timedelta(minutes=5)

Kind = Literal["key", "token"]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """What the owner asks to admit; bytes exactly as the registry and the launch have them.

    `signature` is the author's DER signature over `signed` (cosign's simple signing payload); `resources` are paths
    granted besides those that the launch document asks for. `platform` is the text of a policy in the place of the
    project's, `tees` and `chips` are what it may run on.
    """

    name: str
    document: bytes
    manifest: bytes
    signed: bytes
    signature: bytes
    statement: Mapping[str, Any]
    allow_debug: bool = False
    minimum_tcb: tuple[tuple[str, int], ...] = ()
    resources: tuple[str, ...] = ()
    platform: str = ""
    tees: tuple[str, ...] = ()
    chips: tuple[bytes, ...] = ()
    max_activations: int | None = None


@dataclass(frozen=True, slots=True)
class Papers:
    """What an admission request holds, once all of it was checked: launch document, statement, the layer key and the
    path where it is kept."""

    document: LaunchDocument
    statement: Statement
    kek_path: str
    kek: bytes = field(repr=False)

    def generate(self) -> tuple[tuple[str, Kind], ...]:
        """What the server makes for the launch document: the token of its log, and keys of volumes."""
        volumes = (resource_path(volume.key) for volume in self.document.volumes)
        return ((resource_path(self.document.log_key), "token"), *((path, "key") for path in volumes))


@dataclass(frozen=True, slots=True)
class Admission:
    """A workload to remember, the layer key to keep at `kek_path`, and what to generate unless it is there already."""

    workload: Workload
    kek_path: str
    kek: bytes = field(repr=False)
    generate: tuple[tuple[str, Kind], ...]


def parse_admission(value: Any) -> AdmissionRequest:
    """An admission request from JSON values. Raises `MalformedError` as `kokon.wire`, and (`resource-path`,
    `tee-not-known`, `chip-malformed`), `UsageError` as policy files do."""
    fields = Fields(value, "admission request")
    signature = Fields(fields.table("signature"), "signature")
    allow_debug, minimum_tcb = parse_policy(fields.table("policy", default={}))
    resources = fields.array("resources", default=[], limit=256)
    request = AdmissionRequest(
        name=fields.text("name", limit=64),
        document=fields.text("launch_document", limit=MANIFEST_LIMIT).encode(),
        manifest=unb64(fields.text("manifest", limit=ADMISSION_LIMIT), what="manifest", limit=MANIFEST_LIMIT),
        signed=unb64(signature.text("payload", limit=128 << 10), what="signature payload", limit=64 << 10),
        signature=unb64(signature.text("signature", limit=2048), what="signature", limit=1024),
        statement=fields.table("statement"),
        allow_debug=allow_debug,
        minimum_tcb=minimum_tcb,
        resources=tuple(resource_path(uri) if isinstance(uri, str) else check_path("") for uri in resources),
        platform=read_policy(fields, "platform"),
        tees=read_tees(fields),
        chips=read_chips(fields),
        max_activations=read_activations(fields),
    )
    signature.finish()
    fields.finish()
    return request


def admit(request: AdmissionRequest, owner: ec.EllipticCurvePrivateKey, certificate: str, now: datetime) -> Admission:
    """What to remember of `request`; `certificate` is this server's own (PEM), `owner` its key for layer keys.

    Raises as `examine`.
    """
    papers = examine(request, owner, certificate, now)
    document, statement = papers.document, papers.statement
    asked = [resource_path(uri) for uri in document.resources()]
    workload = Workload(
        name=document.workload,
        document=request.document.decode(),
        host_data=document_digest(request.document),
        image=document.image.digest,
        author=document.image.author,
        author_name=statement.author,
        statement=request.statement,
        measurements=tuple((entry.tee, entry.measurement) for entry in statement.reference),
        not_after=statement.not_after,
        resources=tuple(dict.fromkeys((papers.kek_path, *asked, *request.resources))),
        allow_debug=request.allow_debug,
        minimum_tcb=request.minimum_tcb,
        admitted=now,
        platform=request.platform,
        max_activations=request.max_activations,
        version=statement.version,
        tees=request.tees,
        chips=request.chips,
    )
    return Admission(workload, papers.kek_path, papers.kek, papers.generate())


def examine(request: AdmissionRequest, owner: ec.EllipticCurvePrivateKey, certificate: str, now: datetime) -> Papers:
    """What `request` holds, if everything in it fits together; `certificate` and `owner` as for `admit`.

    Raises `UntrustedError` (`image-digest-mismatch`, `statement-image-mismatch`, `kek-not-opened`,
    `kek-of-another-author`, and those of signature and statement), `StaleError` (`statement-expired`,
    `statement-not-yet-valid`), `DeniedError` (`workload-name-mismatch`, `server-mismatch`,
    `statement-secret-missing`, `statement-without-reference`, `env-not-allowed`, `kek-path-refused`,
    `log-path-refused`), and `MalformedError` for what cannot be parsed.
    """
    document = parse_document(request.document)
    _check_document(document, request, certificate)
    statement = _check_image(document, request, now)
    _check_reference(statement)
    check_fit(document, statement)
    kek_path = _kek_path(statement)
    return Papers(document, statement, kek_path, open_kek(statement.kek.jwe, document.image.author, owner))


def _check_document(document: LaunchDocument, request: AdmissionRequest, certificate: str) -> None:
    if document.workload != request.name:
        raise DeniedError(
            "workload-name-mismatch",
            "the launch document is for a workload of another name",
            expected=request.name,
            found=document.workload,
        )
    if document.provisioning.certificate.strip() != certificate.strip():
        raise DeniedError(
            "server-mismatch",
            "the launch document pins another provisioning server's certificate",
            hint="make the launch document with this server's certificate",
        )
    _check_log_path(document)


def log_path(workload: str) -> str:
    """Where the token is that opens the log of a workload's containers. People can ask for it, as for no other
    resource, so no other resource may take its place."""
    return f"{workload}/log/token"


def _check_log_path(document: LaunchDocument) -> None:
    expected = log_path(document.workload)
    if resource_path(document.log_key) != expected:
        raise DeniedError(
            "log-path-refused",
            "the launch document wants another resource as the token of the log, which people can read",
            expected=f"kbs:///{expected}",
            found=document.log_key,
        )


def _check_image(document: LaunchDocument, request: AdmissionRequest, now: datetime) -> Statement:
    found = "sha256:" + hashlib.sha256(request.manifest).hexdigest()
    if not hmac.compare_digest(found, document.image.digest):
        raise UntrustedError(
            "image-digest-mismatch",
            "the image manifest is not the one that the launch document names",
            expected=document.image.digest,
            found=found,
        )
    author = document.image.author
    verify_signature(document.image.digest, request.signed, request.signature, author)
    statement = read_statement(request.statement, author, subject=document.image.digest, now=now)
    if statement.created > now + SKEW:
        raise StaleError(
            "statement-not-yet-valid",
            "the identity statement is from the future",
            expected=f"until {format_time(now)}",
            found=format_time(statement.created),
            hint="check the clocks of the author and of this server",
        )
    check_statement(statement, parse_manifest(request.manifest))
    return statement


def _check_reference(statement: Statement) -> None:
    if not statement.reference:
        raise DeniedError(
            "statement-without-reference",
            "the identity statement has no reference values: no enclave could ever be recognised",
            hint="seal the image again with a guest image, so that its launch measurement is known",
        )


def _kek_path(statement: Statement) -> str:
    """An author decides where the layer key goes, so it must not be where an owner's secret may be."""
    path = resource_path(statement.kek.kid)
    if path.split("/")[:2] != ["default", "kek"]:
        raise DeniedError(
            "kek-path-refused",
            "the author wants the layer key kept where secrets of others may be",
            expected="kbs:///default/kek/...",
            found=statement.kek.kid,
        )
    return path
