"""The KBS protocol's "sample" TEE: evidence that nobody signed, for trying the protocol out without hardware.

It proves nothing. It is refused unless the caller accepts the word "sample" where fingerprints of simulated roots are
accepted, and then it is simulated, has no root and says so in its checks. (Confidential Containers, sample attester.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, canonical_digest, failed, not_checked
from kokon.tee.registry import Tee
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64

ACCEPTED: Final = "sample"
"""What stands in `Endorsements.accepted_simulated` in a fingerprint's place."""

_LIMIT: Final = 4096


def _fields(evidence: Evidence) -> tuple[str, bytes]:
    fields = Fields(parse_json(evidence.report, limit=_LIMIT, what="the sample evidence"), "the sample evidence")
    version = fields.text("svn", limit=64)
    data = fields.text("report_data", default="", limit=256)
    fields.finish()
    return version, unb64(data, what="report_data", limit=64)


def verify(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """Claims with nothing behind them. Raises `MalformedError` for what is not the sample's JSON."""
    del now
    version, report_data = _fields(evidence)
    if ACCEPTED in endorsements.accepted_simulated:
        check = not_checked("signature", "sample-unsigned", "nobody signs sample evidence: anyone can make it")
    else:
        check = failed(
            "signature",
            "sample-refused",
            expected="evidence signed by hardware",
            found="sample evidence, which nobody signs",
            hint=f"for a trial of the protocol: --accept-simulated {ACCEPTED}",
        )
    return Claims(
        tee="sample",
        simulated=True,
        root="",
        product="sample",
        measurement=b"",
        host_data=b"",
        report_data=report_data,
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(check,),
        details=describe(evidence) | {"svn": version},
        canonical=canonical_digest("sample", evidence.report, b""),
    )


def recognise(data: bytes) -> Evidence | None:
    """Sample evidence has no form but JSON."""
    del data
    return None


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    """From the protocol's object. Raises `MalformedError` if it is another TEE's."""
    if "svn" not in value or not set(value) <= {"svn", "report_data"}:
        raise MalformedError("sample-malformed", "not sample evidence", expected="svn, report_data")
    evidence = Evidence("sample", canonical_json(dict(value)))
    _fields(evidence)
    return evidence


def describe(evidence: Evidence) -> dict[str, Any]:
    """The two fields."""
    version, report_data = _fields(evidence)
    return {"svn": version, "report_data": b64(report_data)}


SAMPLE: Final = Tee("sample", verify, recognise, from_envelope, describe)
