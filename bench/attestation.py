"""Attestation: verifying and appraising evidence, and whole handshakes with a provisioning server of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from bench.images import PORT, busybox_image
from bench.parties import parties
from bench.setting import Setting
from bench.table import Row, median
from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.errors import HostError
from kokon.guest.agent.kbs import Connection, KeyBroker
from kokon.host.processor import DEFAULT_POLICY
from kokon.launch.document import document_digest, parse_document
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.tee.simulated.keys import load_processor, root_fingerprint
from kokon.tee.simulated.measure import measure_guest
from kokon.tee.simulated.processor import GuestContext


def attestation(setting: Setting) -> list[Row]:
    """Rows per second: one thread verifying, then one client shaking hands; client and server share this machine."""
    seconds = 0.5 if setting.quick else 3.0
    processor = load_processor(setting.home / "processor")
    endorsements = Endorsements(accepted_simulated=frozenset({root_fingerprint(processor.certificates[-1])}))
    measurement = measure_guest(setting.guest, 1)
    with parties(setting, "attestation") as people:
        document = people.admit(
            busybox_image(setting.directory("attestation-image")), "attested", setting.guest, PORT
        ).read_bytes()
        guest = processor.launch(measurement, document_digest(document), DEFAULT_POLICY, os.urandom(32))
        reference = ReferenceValues((measurement,), host_data=document_digest(document))
        evidence = guest.evidence(bytes(64))
        checks = _rate(setting, seconds, lambda: _check(evidence, endorsements, reference))
        shakes = _rate(setting, seconds, lambda: _shake(document, guest))
    return [
        Row("evidence verified and appraised, one thread", checks, "1/s"),
        Row("attestation handshakes, one client", shakes, "1/s"),
    ]


def _rate(setting: Setting, seconds: float, step: Callable[[], None]) -> float:
    step()
    return round(median([_once(seconds, step) for _ in range(setting.runs)]), 1)


def _once(seconds: float, step: Callable[[], None]) -> float:
    count, begin = 0, time.monotonic()
    while (taken := time.monotonic() - begin) < seconds:
        step()
        count += 1
    return count / taken


def _check(evidence: Evidence, endorsements: Endorsements, reference: ReferenceValues) -> None:
    """Certificates, signature and report as bytes, to a result: what a verifier does for one guest."""
    now = datetime.now(UTC)
    result = appraise(verify(evidence, endorsements, now), reference, Policy(), now)
    if not result.claims.ok or any(check.outcome == "failed" for check in result.checks):
        raise HostError("bench-not-affirmed", "the evidence was not accepted", found=result.status)


def _shake(document: bytes, guest: GuestContext) -> None:
    """TLS, challenge, a fresh key and evidence, appraisal, token: the agent's own client, run here."""
    server = parse_document(document).provisioning
    connection = Connection(server, lambda host, port: (host, port))
    try:
        KeyBroker(connection, guest.evidence, document.decode()).attest()
    finally:
        connection.close()
