"""Is the other end what it should be? The user's appraisal of a guest, pure: bytes, trust and a time in; every
check out.

The chain goes from the chip's root to what runs: hardware evidence, TLS key, freshness, launch document, author's
statement, image, measurement, secrets. Every step is always there, with what could not be checked marked so; only
`Verification.ok` says yes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from kokon.appraisal.appraise import appraise
from kokon.appraisal.lacking import check_missing, worth_fetching
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.step import Step
from kokon.channel.certificate import read_certificate
from kokon.channel.trust import UserTrust, key_fingerprint, owner_fingerprint
from kokon.errors import KokonError, StaleError, UnreachableError, UntrustedError
from kokon.image.dsse import envelope_from, verify_envelope
from kokon.image.fit import check_fit
from kokon.image.statement import check_dates, format_time, parse_statement
from kokon.launch.document import LaunchDocument, document_digest, parse_document
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, failed, not_checked, passed
from kokon.tee.registry import verify as verify_evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kokon.appraisal.lacking import Completion
    from kokon.appraisal.result import AttestationResult
    from kokon.channel.certificate import PeerCertificate
    from kokon.channel.protocol import Answer
    from kokon.image.statement import Statement
    from kokon.tee.evidence import Evidence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one peer at one time. `spki` (DER) is the TLS key that it is about: only connections to that
    key are meant. `launch_document` is the document's SHA-256, hex. `endorsements` are those that were used, also what
    was fetched."""

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
    endorsements: Endorsements = field(default_factory=Endorsements, repr=False)

    @property
    def failures(self) -> tuple[Check, ...]:
        """All failed checks, in order."""
        return tuple(check for step in self.steps for check in step.checks if check.outcome == "failed")

    @property
    def ok(self) -> bool:
        """True only if every step passed."""
        return bool(self.steps) and all(step.outcome == "passed" for step in self.steps)

    def require(self) -> None:
        """Raise unless `ok`: `StaleError` (`peer-expired`) if nothing is wrong but dates, `UnreachableError`
        (`peer-endorsements-missing`) if nothing but that a vendor's word could not be had, else `UntrustedError`
        (`peer-not-verified`)."""
        if self.ok:
            return
        codes = [check.code or check.name for check in self.failures]
        hint = next((check.hint for check in self.failures if check.hint), None)
        found = ", ".join(codes) or "a step that could not be checked"
        if codes and all("expired" in code for code in codes):
            raise StaleError("peer-expired", "what vouched for the guest is out of date", found=found, hint=hint)
        if codes and set(codes) == {"endorsement-missing"}:
            raise UnreachableError(
                "peer-endorsements-missing",
                "what the chip's maker says about it could not be had, so the guest could not be verified",
                expected=self.failures[0].expected,
                found=self.failures[0].found,
                hint=hint,
            )
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
    complete: Completion | None = None,
) -> Verification:
    """Appraise the guest that showed `certificate` (DER) and gave `answer` to `nonce` on that very TLS connection.

    `image` is the manifest digest that must run (None: any of a trusted author), `policy` what is demanded of the
    platform (None: the strict one). `complete` is called if endorsements are lacking that may be worth fetching; None:
    nothing is fetched. Raises nothing for a bad peer: every mismatch becomes a failed check, save for a report that
    cannot be parsed (`MalformedError`); and what `complete` raises.
    """
    verifier = _Verifier(policy or Policy(), now, complete)
    claims, endorsements = verifier.verify(answer.evidence, trust.endorsements)
    key_step, peer, endorsements = _key_step(certificate, claims, verifier, endorsements)
    document, document_checks = _attempt("document-parsed", lambda: parse_document(answer.document))
    statement, author_step = _author_step(answer.statement, document, trust, now)
    result = appraise(claims, _reference_values(claims, answer, statement), verifier.policy, now)
    hardware_step, fresh_step = _hardware_step(result), _fresh_step(answer, nonce, peer, claims)
    believed = hardware_step.outcome == fresh_step.outcome == "passed"
    steps = (
        hardware_step,
        key_step,
        fresh_step,
        _launch_step(answer, document, document_checks, claims, trust),
        author_step,
        _image_step(document, statement, image),
        _measurement_step(result, statement),
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
        endorsements=endorsements,
    )


def reappraise_connection(
    certificate: bytes, verification: Verification, trust: UserTrust, now: datetime, policy: Policy | None = None
) -> None:
    """Is a further connection, whose peer showed `certificate`, to the guest of `verification`?

    The key is compared in constant time, and the certificate's own evidence is verified again, with the endorsements
    that were used before; nothing is fetched. Raises `UntrustedError` (`peer-key-changed`, `peer-not-verified`) and
    what `read_certificate` raises.
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
    verifier = _Verifier(policy or Policy(), now, None)
    fetched = replace(verification.endorsements, accepted_simulated=frozenset(), enrolled_keys=frozenset())
    claims, _ = verifier.verify(peer.evidence, trust.endorsements | fetched)
    objections = verifier.objections(claims)
    if objections or claims.measurement.hex() != verification.measurement:
        codes = ", ".join(check.code or check.name for check in objections)
        raise UntrustedError(
            "peer-not-verified",
            "the evidence in the connection's certificate does not hold any more",
            expected=verification.measurement,
            found=codes or claims.measurement.hex(),
        )


@dataclass(frozen=True, slots=True)
class _Verifier:
    """How hardware's evidence is verified: by which policy, at which time, and where what is lacking comes from."""

    policy: Policy
    now: datetime
    complete: Completion | None

    def verify(self, evidence: Evidence, endorsements: Endorsements) -> tuple[Claims, Endorsements]:
        """The claims, and all endorsements that were used."""
        claims = verify_evidence(evidence, endorsements, self.now)
        if self.complete is None or not worth_fetching(claims):
            return claims, endorsements
        return self.complete(lambda pool: verify_evidence(evidence, pool, self.now), endorsements, self.now)

    def objections(self, claims: Claims) -> tuple[Check, ...]:
        """Why the evidence itself does not hold, whatever it measured: failed checks that the policy does not excuse,
        or that something is missing."""
        result = appraise(claims, (), self.policy, self.now)
        bad = tuple(check for check in result.verified if check.outcome == "failed")
        return bad or check_missing(result, "certificate-evidence")


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


def _hardware_step(result: AttestationResult) -> Step:
    """The checks of verification as the policy sees them, and whether anything was missing for them."""
    claims = result.claims
    facts = (
        ("tee", claims.tee),
        ("product", claims.product),
        ("root", claims.root),
        ("simulated", "yes" if claims.simulated else "no"),
    )
    title = "The chip signed the evidence, and its maker vouches for the chip"
    return Step("hardware", title, (*result.verified, *check_missing(result)), facts)


def _key_step(
    certificate: bytes, claims: Claims, verifier: _Verifier, endorsements: Endorsements
) -> tuple[Step, PeerCertificate | None, Endorsements]:
    title = "The TLS key was made inside this enclave"
    peer, checks = _attempt("tls-key-bound", lambda: read_certificate(certificate))
    if peer is None:
        return Step("key", title, checks), None, endorsements
    evidence = peer.evidence
    own, parsed = _attempt("certificate-evidence", lambda: verifier.verify(evidence, endorsements))
    if own is None:
        checks += parsed
    else:
        endorsements = own[1]
        checks += (_certificate_check(own[0], claims, verifier),)
    facts = (("tls-spki-sha384", peer.key_digest.hex()),)
    return Step("key", title, checks, facts), peer, endorsements


def _certificate_check(own: Claims, claims: Claims, verifier: _Verifier) -> Check:
    """Whether the certificate's evidence holds, and is of the same enclave as the fresh one."""
    objections = verifier.objections(own)
    codes = [check.code or check.name for check in objections]
    if codes == ["endorsement-missing"]:
        return objections[0]
    if codes:
        return failed("certificate-evidence", "certificate-evidence-refused", found=", ".join(codes))
    if _enclave(own) != _enclave(claims):
        return failed(
            "certificate-evidence",
            "certificate-evidence-differs",
            expected=claims.measurement.hex(),
            found=own.measurement.hex(),
            hint="the certificate and the fresh evidence come from different enclaves",
        )
    return passed("certificate-evidence")


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


def _reference_values(claims: Claims, answer: Answer, statement: Statement | None) -> tuple[ReferenceValues, ...]:
    """What the author said that this measures to, of the kind that the evidence is: real or simulated."""
    if statement is None:
        return ()
    kind = "simulated" if claims.simulated else claims.tee
    values = ReferenceValues(
        measurements=tuple(entry.measurement for entry in statement.reference if entry.tee == kind),
        not_after=statement.not_after,
        host_data=document_digest(answer.document),
    )
    return (values,)


def _measurement_step(result: AttestationResult, statement: Statement | None) -> Step:
    title = "Firmware, kernel, agent and settings are the ones that the author vouches for"
    facts: tuple[tuple[str, str], ...] = (("measurement", result.claims.measurement.hex()),)
    if statement is None:
        return Step("measurement", title, (not_checked("measurement", "no-statement"),), facts)
    checks = result.appraised
    if result.status != "affirming" and not result.failures and not result.missing:
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
