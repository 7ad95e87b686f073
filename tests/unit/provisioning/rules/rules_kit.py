"""A signer, certifiers, a rule for the signer's images, and guests that a simulated chip launched."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from provisioning_factory import MEASUREMENT, POLICY, Author, attestation, launch, runtime_digest

from kokon.appraisal.policy import Policy
from kokon.image.dsse import certify_envelope, envelope_from
from kokon.image.ecdsa import key_id, public_pem
from kokon.jose.jwe import public_jwk
from kokon.provisioning.admission import parse_admission
from kokon.provisioning.kbs.messages import new_nonce, parse_attestation
from kokon.provisioning.kbs.session import Session
from kokon.provisioning.release import Attempt, Verdict, judge
from kokon.provisioning.rules.accept import Acceptance, accept
from kokon.provisioning.rules.compose import assemble, workload_of
from kokon.provisioning.rules.record import Release
from kokon.provisioning.rules.rule import Rule, parse_rule
from kokon.provisioning.tls import make_certificate
from kokon.provisioning.workload import Workload
from kokon.tee.endorsements import Endorsements
from kokon.tee.registry import verify
from kokon.tee.simulated.processor import Processor

NOW = datetime.now(UTC).replace(microsecond=0)
END = NOW + timedelta(days=60)
OWNER, SERVER, ONE, TWO, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(5))
CERTIFICATE = make_certificate(SERVER, ["127.0.0.1"], NOW).decode()
SIGNER = Author(public_jwk(OWNER), CERTIFICATE)
OTHER = Author(public_jwk(OWNER), CERTIFICATE)
SECRET, VOLUME, LOG = "clinic/secret/db-password", "clinic/volume/data", "clinic/log/token"
KEK_PATH = "default/kek/0123456789abcdef"


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return public_pem(key.public_key())


def name(key: ec.EllipticCurvePrivateKey) -> str:
    return key_id(key.public_key())


def body(workload: str = "clinic", **changes: Any) -> dict[str, Any]:
    """What an owner sends to admit a rule; `changes` to the rule, None to leave a member out."""
    rule = {
        "signer": pem(SIGNER.key),
        "minimum_version": "1.4",
        "resources": [f"kbs:///{SECRET}"],
        "generate": [f"kbs:///{VOLUME}"],
        "not_after": END.isoformat(),
        **changes,
    }
    return {"name": workload, "rule": {key: value for key, value in rule.items() if value is not None}}


def rule(**changes: Any) -> Rule:
    return parse_rule(body(**changes), NOW)


def request(
    version: str | None = "1.4.2",
    *certifiers: ec.EllipticCurvePrivateKey,
    author: Author = SIGNER,
    statement: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """What an operator sends to add the statement of an image."""
    # Its time is the kit's, since the tests of a whole run may come much later than their import.
    dates = {"created": NOW, "not_after": NOW + timedelta(days=30)}
    said = {**dates, **({"version": version} if version else {}), **(statement or {})}
    made = author.request(statement=said, **changes)
    envelope = envelope_from(made["statement"])
    for key in certifiers:
        envelope = certify_envelope(envelope, key)
    return {**made, "statement": envelope.as_dict()}


def add(rule: Rule, made: Mapping[str, Any] | None = None, now: datetime = NOW) -> Acceptance:
    return accept(rule, parse_admission(json.loads(json.dumps(made or request()))), OWNER, CERTIFICATE, now)


def workload(rule: Rule, *releases: Release) -> Workload:
    return assemble(workload_of(rule, NOW), releases)


@dataclass
class Guest:
    """A chip, and what is known about its vendor."""

    processor: Processor
    root: str

    def ask(
        self,
        document: bytes | str,
        known: Iterable[Workload],
        rules: Policy | None = None,
        *,
        measurement: bytes = MEASUREMENT,
        policy: int = POLICY,
        now: datetime = NOW,
    ) -> Verdict:
        """The verdict about a guest that was launched with `document`."""
        data = document.encode() if isinstance(document, str) else document
        session = Session("default", "0.4.0", "snp", new_nonce(secrets.token_bytes), now + timedelta(minutes=5))
        context = launch(self.processor, data, measurement, policy)
        message = attestation(context, session.nonce, ec.generate_private_key(ec.SECP256R1()), data)
        parsed = parse_attestation(json.dumps(message).encode(), "0.4.0")
        evidence = context.evidence(_report_data(message, session.nonce))
        claims = verify(evidence, Endorsements(accepted_simulated=frozenset({self.root})), now)
        workloads = {one.name: one for one in known}
        every = [one for workload in workloads.values() for one in (workload, *workload.releases)]
        pinned = {one.host_data: one for one in every if one.host_data}
        return judge(Attempt(parsed, session, evidence), claims, pinned.get, workloads, rules or Policy(), now)


def _report_data(message: Mapping[str, Any], nonce: str) -> bytes:
    return runtime_digest(message["runtime-data"]["tee-pubkey"], nonce, "") + bytes(16)


def codes(verdict: Verdict) -> list[str | None]:
    return [check.code for check in verdict.checks if check.outcome == "failed"]
