"""Whether a statement becomes a release of a workload: all that admission checks, and then what the rule says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from kokon.errors import DeniedError, StaleError
from kokon.image.dsse import certified_by, envelope_from
from kokon.launch.document import document_digest
from kokon.provisioning.admission import AdmissionRequest, Kind, Papers, examine
from kokon.provisioning.kbs.paths import resource_path
from kokon.provisioning.rules.record import Release
from kokon.provisioning.rules.standing import check_standing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from kokon.provisioning.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A release to remember, the layer key to keep at `kek_path`, and what to generate unless it is there already."""

    release: Release
    kek_path: str
    kek: bytes = field(repr=False)
    generate: tuple[tuple[str, Kind], ...]


def accept(
    rule: Rule, request: AdmissionRequest, owner: ec.EllipticCurvePrivateKey, certificate: str, now: datetime
) -> Acceptance:
    """The release that `request` is under `rule`; `owner` and `certificate` as for `admission.admit`.

    Raises as `admission.examine`, `StaleError` (`rule-expired`), and `DeniedError` (`workload-name-mismatch`,
    `request-beyond-rule`, `resource-beyond-rule`, and the codes of `check_standing`).
    """
    _check_request(rule, request, now)
    papers = examine(request, owner, certificate, now)
    release = _release(rule, request, papers, now)
    for check in check_standing(rule, release):
        if check.outcome == "failed" and check.code is not None:
            raise DeniedError(
                check.code,
                "the workload's rule does not let this statement in",
                expected=check.expected,
                found=check.found,
                hint=check.hint,
            )
    _check_resources(rule, papers)
    generate = tuple((path, kind) for path, kind in papers.generate() if kind == "token" or path in rule.generate)
    return Acceptance(release, papers.kek_path, papers.kek, generate)


def _check_request(rule: Rule, request: AdmissionRequest, now: datetime) -> None:
    """That it is for this workload, and asks for nothing that is the rule's to grant."""
    if now >= rule.not_after:
        raise StaleError(
            "rule-expired",
            "the workload's rule has expired",
            expected=f"before {rule.not_after.isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint="the owner admits a new rule",
        )
    if request.name != rule.name:
        raise DeniedError(
            "workload-name-mismatch", "the statement is for another workload", expected=rule.name, found=request.name
        )
    asked = {
        "policy.allow_debug": request.allow_debug,
        "policy.minimum_tcb": request.minimum_tcb,
        "resources": request.resources,
        "platform": request.platform,
        "tees": request.tees,
        "chips": request.chips,
        "max_activations": request.max_activations is not None,
    }
    beyond = [name for name, value in asked.items() if value]
    if beyond:
        raise DeniedError(
            "request-beyond-rule",
            "what enclaves get and where they run is decided by the workload's rule",
            expected="none of these members",
            found=", ".join(beyond),
            hint="leave them out, or have the owner change the rule",
        )


def _release(rule: Rule, request: AdmissionRequest, papers: Papers, now: datetime) -> Release:
    document, statement = papers.document, papers.statement
    return Release(
        workload=rule.name,
        host_data=document_digest(request.document),
        document=request.document.decode(),
        image=document.image.digest,
        image_name=statement.name,
        version=statement.version,
        author=document.image.author,
        author_name=statement.author,
        statement=request.statement,
        measurements=tuple((entry.tee, entry.measurement) for entry in statement.reference),
        kek_path=papers.kek_path,
        not_after=statement.not_after,
        added=now,
        certified_by=certified_by(envelope_from(request.statement), rule.certifiers),
    )


def _check_resources(rule: Rule, papers: Papers) -> None:
    """That the launch document wants what the rule grants and nothing else, each for what it is for. The log's token
    has its own place (`admission.examine`)."""
    document = papers.document
    secrets = {resource_path(secret.resource) for secret in document.secrets}
    volumes = {resource_path(volume.key) for volume in document.volumes}
    beyond = secrets - {*rule.resources} | volumes - {*rule.resources, *rule.generate}
    if beyond:
        raise DeniedError(
            "resource-beyond-rule",
            "the launch document asks for resources that the workload's rule does not grant",
            expected=", ".join(rule.granted()),
            found=", ".join(sorted(beyond)),
            hint="secrets must be among the rule's resources, keys of volumes there or in generate",
        )
