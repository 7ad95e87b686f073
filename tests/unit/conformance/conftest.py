"""The fake broker on a loopback port, and this repository's own server as its tests start it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conformance_kit import CHIP, Trial
from fake_broker import ADMIN_TOKEN, Broker, Host, hosting

from kokon.conformance.connection import Budget
from kokon.conformance.evidence import Attester, Sample, Snp, fitted_digest
from kokon.conformance.options import DEFAULT_INIT_DATA, DEFAULT_MEASUREMENT, Options, parse_target
from kokon.conformance.run import Report, run

PROVISIONING = Path(__file__).parents[1] / "provisioning"


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with hosting() as host:
        yield host


@pytest.fixture
def trial(host: Host) -> Trial:
    """Runs the suite against a broker with the given faults; no waiting: sleeping moves the broker's clock."""

    def go(*faults: str, tee: str = "sample", **changes: Any) -> Report:
        broker = host.serve(Broker(*faults, tee=tee, chip=CHIP))
        usual = {"admin_token": ADMIN_TOKEN, "change_policies": True, "tee": tee}
        options = Options(**{"target": parse_target(host.url), **usual, **changes})
        attester: Attester = Sample()
        if tee == "snp":
            attester = Snp(CHIP, fitted_digest(DEFAULT_INIT_DATA), DEFAULT_MEASUREMENT)

        def sleep(seconds: float) -> None:
            broker.offset += timedelta(seconds=seconds)

        budget = Budget(options.requests, options.seconds, sleep=sleep)
        return run(options, attester, budget=budget, now=broker.now)

    return go


@pytest.fixture(scope="session")
def provisioning() -> Any:
    """What tests/unit/provisioning/conftest.py defines."""
    sys.path.insert(0, str(PROVISIONING))
    spec = importlib.util.spec_from_file_location("provisioning_conftest", PROVISIONING / "conftest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["provisioning_conftest"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module
