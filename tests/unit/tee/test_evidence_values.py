"""Checks and claims as values."""

from tee_kit import Chip

from kokon.tee.evidence import Check, Claims, failed, not_checked, passed


def claims_with(chip: Chip, *checks: Check) -> Claims:
    found = chip.claims()
    return Claims(
        found.tee,
        found.simulated,
        found.root,
        found.product,
        found.measurement,
        found.host_data,
        found.report_data,
        found.debug,
        found.migratable,
        found.vmpl,
        found.chip_id,
        found.reported_tcb,
        checks,
    )


def test_ok_needs_a_check_and_no_failure(chip: Chip) -> None:
    assert not claims_with(chip).ok
    assert claims_with(chip, passed("a")).ok
    assert claims_with(chip, passed("a"), not_checked("b", "b-not-checked")).ok
    bad = failed("c", "c-bad", expected=1, found="x" * 900, hint="do")
    assert not claims_with(chip, passed("a"), bad).ok
    assert claims_with(chip, passed("a"), bad).failures == (bad,)
    assert len(bad.found or "") == 500


def test_plain_values() -> None:
    assert passed("a", 3).as_dict() == {"name": "a", "outcome": "passed", "found": "3"}
    found = failed("c", "c-bad", expected=1, hint="do").as_dict()
    assert found == {"name": "c", "outcome": "failed", "code": "c-bad", "expected": "1", "hint": "do"}
