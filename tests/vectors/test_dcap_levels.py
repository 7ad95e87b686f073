"""Beside dcap-qvl, an independent verifier in Rust: platforms of our own making with random TCB levels.

Real quotes, whole and altered, are compared in test_dcap_oracle.
"""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "tee"))

from intel_kit import (
    ENCLAVE_REPORT,
    NOW,
    ROOT,
    TD_REPORT,
    TD_REPORT_1_5,
    World,
    collateral_json,
    der_of,
    enclave,
    examine,
    level,
    make_quote,
    module,
)

from kokon.tee.intel.quote import encode_quote

dcap_qvl = pytest.importorskip(
    "dcap_qvl", reason="dcap-qvl IS NOT INSTALLED: TCB levels ARE NOT COMPARED with another verifier"
)


def theirs(raw: bytes, collateral: str) -> tuple[str, set[str]] | None:
    """Status and advisories, None if it was refused."""
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral)
    try:
        found = dcap_qvl.verify_with_root_ca(raw, parsed, der_of(ROOT), int(NOW.timestamp()))
    except ValueError:
        return None
    return found.status, set(found.advisory_ids)


STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)


class Dice:
    """Platforms with random TCB levels, of which about half find one.

    Levels of platforms stand in any order: both verifiers sort them. Those of enclaves stand in Intel's, since dcap-qvl
    takes them as they come.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def advisories(self) -> tuple[str, ...]:
        return tuple({f"INTEL-SA-{self.random.randrange(9):05}" for _ in range(self.random.randrange(3))})

    def levels(self, *, tdx: bool) -> list[dict[str, Any]]:
        pick = self.random.choice
        return [
            level(
                pick(STATUSES),
                (pick((3, 5, 5, 6)), *(5,) * 15),
                pce_svn=pick((10, 11, 12)),
                tdx=(pick((3, 5, 6)), pick((0, 0, 1)), pick((3, 5)), *(0,) * 13) if tdx else None,
                advisories=self.advisories(),
            )
            for _ in range(pick((1, 2, 3)))
        ]

    def enclaves(self, svns: tuple[int, ...]) -> list[dict[str, Any]]:
        statuses = ("UpToDate", "UpToDate", "OutOfDate", "Revoked")
        chosen = sorted(self.random.sample(svns, self.random.choice((1, 2))), reverse=True)
        return [enclave(svn, self.random.choice(statuses), self.advisories()) for svn in chosen]

    def tee_tcb_svn(self) -> bytes:
        pick = self.random.choice
        return bytes([pick((3, 4, 5, 6)), pick((0, 1, 1, 3)), pick((3, 5, 5))]).ljust(16, b"\0")

    def world(self, tee: str) -> World:
        info: dict[str, Any] = {"tcbLevels": self.levels(tdx=tee == "tdx")}
        if tee == "tdx":
            versions = self.random.sample((1, 3), self.random.choice((1, 2)))
            info["tdxModuleIdentities"] = [module(version, *self.enclaves((3, 4, 5, 6, 7))) for version in versions]
        return World(tee, info, {"tcbLevels": self.enclaves((7, 8, 9))})


def test_random_levels() -> None:
    dice = Dice(11)
    accepted = 0
    for round_ in range(900):
        tee = "sgx" if round_ % 3 == 0 else "tdx"
        world = dice.world(tee).endorsements
        body: Any = ENCLAVE_REPORT
        if round_ % 3 == 1:
            body = replace(TD_REPORT, tee_tcb_svn=dice.tee_tcb_svn())
        elif round_ % 3 == 2:
            body = replace(TD_REPORT_1_5, tee_tcb_svn=dice.tee_tcb_svn(), tee_tcb_svn2=dice.tee_tcb_svn())
        raw = encode_quote(make_quote(body, version=(3, 4, 5)[round_ % 3]))
        claims = examine(raw, world)
        mine = (claims.tcb_status, set(claims.advisories)) if claims.ok else None
        assert mine == theirs(raw, collateral_json(world)), (round_, claims.checks)
        accepted += claims.ok
    assert 100 < accepted < 800
