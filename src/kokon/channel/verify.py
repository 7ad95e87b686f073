"""Is the other end what it should be? The user's appraisal of a guest, pure: bytes, trust and a time in; every
check out.

The chain goes from the chip's root to what runs: hardware evidence, TLS key, freshness, launch document, author's
statement, image, measurement, secrets. Every step is always there, with what could not be checked marked so; only
`Verification.ok` says yes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.channel.certificate import read_certificate
from kokon.channel.trust import UserTrust, key_fingerprint, owner_fingerprint
from kokon.errors import KokonError, StaleError, UntrustedError
from kokon.image.dsse import envelope_from, verify_envelope
from kokon.image.fit import check_fit
from kokon.image.statement import check_dates, format_time, parse_statement
from kokon.launch.document import LaunchDocument, document_digest, parse_document
from kokon.tee.evidence import Check, Claims, failed, not_checked, passed
from kokon.tee.registry import verify as verify_evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kokon.channel.certificate import PeerCertificate
    from kokon.channel.protocol import Answer
    from kokon.image.statement import Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain: stable `name`, a `title` for people, what was checked, and facts worth showing."""

    name: str
    title: str
    checks: tuple[Check, ...]
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def outcome(self) -> str:
        """`failed` if any check failed, `passed` if any passed and none failed, else `not-checked`."""
        outcomes = {check.outcome for check in self.checks}
        return "failed" if "failed" in outcomes else "passed" if "passed" in outcomes else "not-checked"

    def as_dict(self) -> dict[str, Any]:
        """The step as plain JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "outcome": self.outcome,
            "facts": dict(self.facts),
            "checks": [check.as_dict() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one peer at one time. `spki` (DER) is the TLS key that it is about: only connections to that
    key are meant. `launch_document` is the document's SHA-256, hex."""

    at: datetime
    spki: bytes
    simulated: bool
    steps: tuple[Step, ...]
    workload: str | None = None
    image: str | None = None
    author: str | None = None
    measurement: str | None = None
    released: tuple[str, ...] = ()
    started: str | None = None
    root: str = field(default="")
    launch_document: str | None = None

    @property
    def failures(self) -> tuple[Check, ...]:
        """All failed checks, in order."""
        return tuple(check for step in self.steps for check in step.checks if check.outcome == "failed")

    @property
    def ok(self) -> bool:
        """True only if every step passed."""
        return bool(self.steps) and all(step.outcome == "passed" for step in self.steps)

    def require(self) -> None:
        """Raise unless `ok`: `StaleError` (`peer-expired`) if nothing is wrong but dates, else `UntrustedError`
        (`peer-not-verified`)."""
        if self.ok:
            return
        codes = [check.code or check.name for check in self.failures]
        hint = next((check.hint for check in self.failures if check.hint), None)
        found = ", ".join(codes) or "a step that could not be checked"
        if codes and all("expired" in code for code in codes):
            raise StaleError("peer-expired", "what vouched for the guest is out of date", found=found, hint=hint)
        raise UntrustedError(
            "peer-not-verified",
            "the guest could not be verified; nothing was sent to its application",
            expected="every check passed",
            found=found,
            hint=hint,
        )

    def as_dict(self) -> dict[str, Any]:
        """The verdict with every check as plain JSON values."""
        return {
            "ok": self.ok,
            "simulated": self.simulated,
            "at": format_time(self.at),
            "tls-spki-sha384": hashlib.sha384(self.spki).hexdigest() if self.spki else None,
            "root": self.root,
            "workload": self.workload,
            "image": self.image,
            "author": self.author,
            "measurement": self.measurement,
            "launch_document": self.launch_document,
            "released": list(self.released),
            "started": self.started,
            "steps": [step.as_dict() for step in self.steps],
        }


def appraise_peer(
    certificate: bytes,
    answer: Answer,
    nonce: bytes,
    trust: UserTrust,
    now: datetime,
    *,
    image: str | None = None,
    policy: Policy | None = None,
) -> Verification:
    """Appraise the guest that showed `certificate` (DER) and gave `answer` to `nonce` on that very TLS connection.

    `image` is the manifest digest that must run (None: any of a trusted author). Raises nothing for a bad peer:
    every mismatch becomes a failed check, save for a report that cannot be parsed (`MalformedError`).
    """
    claims = verify_evidence(answer.evidence, trust.endorsements, now)
    key_step, peer = _key_step(certificate, claims, trust, now)
    document, document_checks = _attempt("document-parsed", lambda: parse_document(answer.document))
    statement, author_step = _author_step(answer.statement, document, trust, now)
    hardware_step, fresh_step = _hardware_step(claims), _fresh_step(answer, nonce, peer, claims)
    believed = hardware_step.outcome == fresh_step.outcome == "passed"
    steps = (
        hardware_step,
        key_step,
        fresh_step,
        _launch_step(answer, document, document_checks, claims, trust),
        author_step,
        _image_step(document, statement, image),
        _measurement_step(claims, answer, statement, policy or Policy(), now),
        _secrets_step(answer, document, believed=believed),
    )
    return Verification(
        at=now,
        spki=peer.spki if peer else b"",
        simulated=claims.simulated,
        steps=steps,
        workload=document.workload if document else None,
        image=document.image.digest if document else None,
        author=statement.author if statement else None,
        measurement=claims.measurement.hex(),
        released=answer.runtime.released,
        started=answer.runtime.started,
        root=claims.root,
        launch_document=document_digest(answer.document).hex(),
    )


def reappraise_connection(certificate: bytes, verification: Verification, trust: UserTrust, now: datetime) -> None:
    """Is a further connection, whose peer showed `certificate`, to the guest of `verification`?

    The key is compared in constant time, and the certificate's own evidence is verified again. Raises
    `UntrustedError` (`peer-key-changed`, `peer-not-verified`) and what `read_certificate` raises.
    """
    peer = read_certificate(certificate)
    if not hmac.compare_digest(peer.spki, verification.spki):
        raise UntrustedError(
            "peer-key-changed",
            "this connection ends at another TLS key than the one that was verified",
            expected=hashlib.sha384(verification.spki).hexdigest(),
            found=peer.key_digest.hex(),
            hint="if the workload was restarted, verify again; otherwise somebody stands between you and it",
        )
    claims = verify_evidence(peer.evidence, trust.endorsements, now)
    if not claims.ok or claims.measurement.hex() != verification.measurement:
        codes = ", ".join(check.code or check.name for check in claims.failures)
        raise UntrustedError(
            "peer-not-verified",
            "the evidence in the connection's certificate does not hold any more",
            expected=verification.measurement,
            found=codes or claims.measurement.hex(),
        )


def _attempt(name: str, action: Callable[[], T]) -> tuple[T | None, tuple[Check, ...]]:
    """What `action` gives, and the check that it went well."""
    try:
        return action(), (passed(name),)
    except KokonError as error:
        return None, (_failed(name, error),)


def _failed(name: str, error: KokonError) -> Check:
    return Check(name, "failed", error.code, error.expected, error.found, error.hint)


def _same(name: str, code: str, expected: bytes, found: bytes, hint: str | None = None) -> Check:
    if hmac.compare_digest(expected, found):
        return passed(name, found.hex()[:24])
    return failed(name, code, expected=expected.hex(), found=found.hex(), hint=hint)


def _hardware_step(claims: Claims) -> Step:
    facts = (
        ("tee", claims.tee),
        ("product", claims.product),
        ("root", claims.root),
        ("simulated", "yes" if claims.simulated else "no"),
    )
    return Step("hardware", "The chip signed the evidence, and its maker vouches for the chip", claims.checks, facts)


def _key_step(
    certificate: bytes, claims: Claims, trust: UserTrust, now: datetime
) -> tuple[Step, PeerCertificate | None]:
    title = "The TLS key was made inside this enclave"
    peer, checks = _attempt("tls-key-bound", lambda: read_certificate(certificate))
    if peer is None:
        return Step("key", title, checks), None
    evidence = peer.evidence
    own, parsed = _attempt("certificate-evidence", lambda: verify_evidence(evidence, trust.endorsements, now))
    if own is None:
        checks += parsed
    elif not own.ok:
        codes = ", ".join(check.code or check.name for check in own.failures)
        checks += (failed("certificate-evidence", "certificate-evidence-refused", found=codes),)
    elif _enclave(own) != _enclave(claims):
        checks += (
            failed(
                "certificate-evidence",
                "certificate-evidence-differs",
                expected=claims.measurement.hex(),
                found=own.measurement.hex(),
                hint="the certificate and the fresh evidence come from different enclaves",
            ),
        )
    else:
        checks += (passed("certificate-evidence"),)
    facts = (("tls-spki-sha384", peer.key_digest.hex()),)
    return Step("key", title, checks, facts), peer


def _enclave(claims: Claims) -> tuple[object, ...]:
    kind = (claims.debug, claims.migratable, claims.vmpl)
    return claims.measurement, claims.host_data, claims.chip_id, *kind


def _fresh_step(answer: Answer, nonce: bytes, peer: PeerCertificate | None, claims: Claims) -> Step:
    hint = "old evidence is being replayed, or somebody stands between you and the guest"
    runtime = answer.runtime
    checks = (
        _same("nonce", "nonce-mismatch", nonce, runtime.nonce, hint),
        _same("fresh-key", "fresh-key-mismatch", peer.key_digest if peer else b"", runtime.key_digest, hint),
        _same("fresh-report-data", "fresh-report-data-mismatch", runtime.report_data(), claims.report_data, hint),
    )
    return Step("fresh", "The evidence answers this connection's question, now", checks)


def _launch_step(
    answer: Answer, document: LaunchDocument | None, parsed: tuple[Check, ...], claims: Claims, trust: UserTrust
) -> Step:
    digest = document_digest(answer.document)
    hint = "the host started the guest with another launch document than the one shown"
    checks = (*parsed, _same("host-data", "launch-document-mismatch", claims.host_data, digest, hint))
    title = "The launch document is the one that the hardware recorded"
    if document is None:
        return Step("launch", title, checks)
    told = (answer.runtime.workload, answer.runtime.image)
    meant = (document.workload, document.image.digest)
    if told == meant:
        checks += (passed("runtime-document"),)
    else:
        checks += (failed("runtime-document", "runtime-mismatch", expected=", ".join(meant), found=", ".join(told)),)
    checks += _owner_checks(document, trust)
    return Step("launch", title, checks, (*_document_facts(document), ("digest", "sha256:" + digest.hex())))


def _owner_checks(document: LaunchDocument, trust: UserTrust) -> tuple[Check, ...]:
    """Whose server released the secrets: any author's image may be admitted by an owner whom the user does not know."""
    if not trust.owners:
        hint = "kokon trust owner FILE, with the owner's certificate, demands that this owner's server gave the secrets"
        return (not_checked("owner-trusted", "owner-not-pinned", hint=hint),)
    found, checks = _attempt("owner-trusted", lambda: owner_fingerprint(document.provisioning.certificate))
    if found is None or found in trust.owners:
        return checks
    hint = "get the certificate of the owner's server by a way that you trust, then: kokon trust owner FILE"
    expected = ", ".join(sorted(trust.owners))
    return (failed("owner-trusted", "owner-untrusted", expected=expected, found=found, hint=hint),)


def _document_facts(document: LaunchDocument) -> tuple[tuple[str, str], ...]:
    """What the owner decided and the author did not sign: users should see it."""
    secrets = (f"{secret.name} as {secret.file or secret.env}" for secret in document.secrets)
    volumes = (f"{volume.name} at {volume.path}" for volume in document.volumes)
    return (
        ("workload", document.workload),
        ("server", document.provisioning.url),
        ("arguments", "" if document.args is None else " ".join(map(repr, document.args))),
        ("variables", ", ".join(name for name, _ in document.env)),
        ("secrets", ", ".join(secrets)),
        ("volumes", ", ".join(volumes)),
    )


def _author_step(
    envelope: Mapping[str, Any], document: LaunchDocument | None, trust: UserTrust, now: datetime
) -> tuple[Statement | None, Step]:
    title = "An author whom you trust signed the image's identity"
    if document is None:
        return None, Step("author", title, (not_checked("author-trusted", "document-malformed"),))
    fingerprint, checks = _attempt("author-key", lambda: key_fingerprint(document.image.author))
    if fingerprint is not None and fingerprint not in trust.fingerprints():
        refusal = failed(
            "author-trusted",
            "author-untrusted",
            expected=", ".join(sorted(trust.fingerprints())) or "an author that you trust",
            found=fingerprint,
            hint="get the author's public key by a way that you trust, then: kokon trust author FILE",
        )
        return None, Step("author", title, (*checks, refusal))
    if fingerprint is not None:
        checks += (passed("author-trusted", fingerprint),)
    author = document.image.author
    statement, signed = _attempt(
        "statement-signature", lambda: parse_statement(verify_envelope(envelope_from(envelope), author))
    )
    checks += signed
    if statement is None:
        return None, Step("author", title, checks)
    in_date = _attempt("statement-date", lambda: check_dates(statement, now))[1]
    facts = (
        ("author", statement.author),
        ("key", fingerprint or ""),
        ("created", format_time(statement.created)),
        ("not-after", format_time(statement.not_after)),
    )
    return statement, Step("author", title, (*checks, *in_date), facts)


def _image_step(document: LaunchDocument | None, statement: Statement | None, image: str | None) -> Step:
    title = "The image is the one that the author named, launched as the author allows"
    if document is None or statement is None:
        return Step("image", title, (not_checked("image-named", "no-statement"),))
    digest = document.image.digest
    if statement.subject == digest:
        checks: tuple[Check, ...] = (passed("image-named", digest),)
    else:
        checks = (failed("image-named", "statement-subject-mismatch", expected=statement.subject, found=digest),)
    if image is None:
        checks += (not_checked("image-pinned", "image-not-pinned", hint="--image REF@sha256:... demands one image"),)
    elif image == digest:
        checks += (passed("image-pinned", digest),)
    else:
        checks += (failed("image-pinned", "image-not-expected", expected=image, found=digest),)
    checks += _attempt("launch-allowed", lambda: check_fit(document, statement))[1]
    facts = (("repository", f"{document.image.registry}/{document.image.repository}"), ("digest", digest))
    return Step("image", title, checks, facts)


def _measurement_step(
    claims: Claims, answer: Answer, statement: Statement | None, policy: Policy, now: datetime
) -> Step:
    title = "Firmware, kernel, agent and settings are the ones that the author vouches for"
    facts: tuple[tuple[str, str], ...] = (("measurement", claims.measurement.hex()),)
    if statement is None:
        return Step("measurement", title, (not_checked("measurement", "no-statement"),), facts)
    kind = "simulated" if claims.simulated else claims.tee
    reference = ReferenceValues(
        measurements=tuple(entry.measurement for entry in statement.reference if entry.tee == kind),
        not_after=statement.not_after,
        host_data=document_digest(answer.document),
    )
    result = appraise(claims, reference, policy, now)
    checks = result.appraised
    if result.status != "affirming" and all(check.outcome != "failed" for check in result.checks):
        checks += (failed("appraisal", "appraisal-not-affirming", expected="affirming", found=result.status),)
    if statement.guest:
        facts += (("guest-image", statement.guest.digest), ("kernel", statement.guest.kernel_release))
    return Step("measurement", title, checks, facts)


def _secrets_step(answer: Answer, document: LaunchDocument | None, *, believed: bool) -> Step:
    """The guest's word on its secrets: worth nothing unless the evidence vouches for it (`believed`)."""
    title = "The owner's server released these secrets to this enclave, before the application was started"
    released = ", ".join(answer.runtime.released) or "none"
    declared = {secret.name for secret in document.secrets} if document else set()
    missing = sorted(declared - set(answer.runtime.released))
    if not believed:
        return Step("secrets", title, (not_checked("secrets", "evidence-refused"),))
    if answer.runtime.started is not None and missing:
        check = failed("secrets", "secrets-missing", expected=", ".join(sorted(declared)), found=released)
    else:
        check = passed("secrets", released)
    return Step("secrets", title, (check,), (("released", released), ("started", answer.runtime.started or "not yet")))
