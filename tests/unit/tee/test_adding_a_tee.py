"""A new TEE is a package with one `Tee` and a line in the registry: docs/ADDING_A_TEE.md, played with a toy."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from tee_kit import NOW

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.errors import InternalError, MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, canonical_digest, failed, passed
from kokon.tee.recognise import recognise
from kokon.tee.registry import TEES, Tee, tee, verify

MAGIC = b"ABACUS\0\0"
KEY = b"the maker's key"
ROOT = hashlib.sha256(KEY).hexdigest()
# The line in the registry.
WITH_TOY = TEES | {"abacus": "test_adding_a_tee:ABACUS"}


def make(measurement: bytes) -> bytes:
    return MAGIC + measurement + hmac.digest(KEY, measurement, "sha256")


def parse(evidence: Evidence) -> tuple[bytes, bytes]:
    if len(evidence.report) != 72 or not evidence.report.startswith(MAGIC):
        raise MalformedError("toy-malformed", "no abacus report")
    return evidence.report[8:40], evidence.report[40:]


def verify_abacus(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    measurement, tag = parse(evidence)
    good = hmac.compare_digest(tag, hmac.digest(KEY, measurement, "sha256"))
    root = passed("root") if ROOT in endorsements.accepted_simulated else failed("root", "simulated-root-refused")
    signature = passed("signature") if good else failed("signature", "toy-signature")
    return Claims(
        tee="abacus",
        simulated=True,
        root=ROOT,
        product="wooden",
        measurement=measurement,
        host_data=b"",
        report_data=b"",
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(signature, root),
        canonical=canonical_digest("abacus", measurement, KEY),
    )


def recognise_abacus(data: bytes) -> Evidence | None:
    return Evidence("abacus", data) if data.startswith(MAGIC) else None


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    raise MalformedError("toy-malformed", "the abacus speaks no JSON", found=len(value))


ABACUS = Tee("abacus", verify_abacus, recognise_abacus, from_envelope, lambda evidence: {"size": len(evidence.report)})


def test_a_toy_tee_is_recognised_verified_and_appraised() -> None:
    evidence = recognise(make(bytes(32)).hex().encode(), WITH_TOY)
    assert evidence is not None
    endorsements = Endorsements(accepted_simulated=frozenset({ROOT}))
    claims = verify(evidence, endorsements, NOW, WITH_TOY)
    assert claims.ok
    assert appraise(claims, ReferenceValues((bytes(32),)), Policy(), NOW).ok
    assert not appraise(claims, ReferenceValues((b"\1" * 32,)), Policy(), NOW).ok
    assert not verify(evidence, Endorsements(), NOW, WITH_TOY).ok


def test_without_the_line_nobody_knows_it() -> None:
    assert recognise(make(bytes(32))) is None
    with pytest.raises(MalformedError, match="tee-unknown"):
        verify(Evidence("abacus", b""), Endorsements(), NOW)


def test_a_line_that_names_no_tee() -> None:
    with pytest.raises(InternalError, match="tee-entry"):
        tee("abacus", {"abacus": "test_adding_a_tee:MAGIC"})
