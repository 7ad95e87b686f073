"""`kokon.tee` is the library's entrance, and costs nothing until it is used."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

import kokon.tee
from kokon.tee.recognise import recognise
from kokon.testing.vendor import FakeVendor


def test_every_name_is_there() -> None:
    assert set(kokon.tee.__all__) == set(kokon.tee._PLACES)
    for name in kokon.tee.__all__:
        assert getattr(kokon.tee, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prove'"):
        kokon.tee.prove  # noqa: B018


def test_from_bytes_to_claims() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    vendor = FakeVendor(now)
    made = vendor.snp()
    evidence = recognise(made.report)
    assert evidence is not None
    assert kokon.tee.verify(evidence, vendor.endorsements(made), now).ok


def test_importing_it_loads_no_cryptography() -> None:
    program = "import sys, kokon.tee; sys.exit('cryptography' in sys.modules or 'kokon.tee.registry' in sys.modules)"
    assert subprocess.run([sys.executable, "-I", "-c", program], check=False).returncode == 0
