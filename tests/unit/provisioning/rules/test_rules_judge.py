"""What enclaves of a rule's releases get: by the rule as it is now."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from provisioning_factory import DEBUG, MEASUREMENT, POLICY, launch, runtime_digest
from rules_kit import (
    CERTIFICATE,
    END,
    KEK_PATH,
    LOG,
    NOW,
    ONE,
    OWNER,
    SECRET,
    STRANGER,
    TWO,
    VOLUME,
    Guest,
    add,
    codes,
    name,
    pem,
    request,
    rule,
    workload,
)

from kokon.appraisal.policy import Policy
from kokon.appraisal.result import AttestationResult
from kokon.errors import DeniedError, StaleError
from kokon.image.statement import ReferenceEntry
from kokon.jose.jwe import public_jwk
from kokon.provisioning.admission import admit, parse_admission
from kokon.provisioning.kbs.messages import new_nonce, parse_attestation
from kokon.provisioning.kbs.session import Session
from kokon.provisioning.measured import parse_measured
from kokon.provisioning.release import Attempt, Verdict, check_release, judge, refusal
from kokon.provisioning.restrictions import check_restrictions
from kokon.provisioning.rules.compose import assemble, compose, workload_of
from kokon.provisioning.rules.record import Release
from kokon.provisioning.workload import Workload, decode_workload, encode_workload
from kokon.tee.endorsements import Endorsements
from kokon.tee.registry import verify
from kokon.tee.simulated.processor import Processor
from kokon.tee.snp.envelope import to_envelope
from kokon.testing.vendor import FakeVendor

NEWER = bytes(reversed(MEASUREMENT))


def granted(verdict: Verdict) -> Workload:
    assert verdict.granted is not None, codes(verdict)
    return verdict.granted[0]


def granted_result(verdict: Verdict) -> AttestationResult:
    assert verdict.granted is not None, codes(verdict)
    return verdict.granted[1]


def release(version: str, measurement: bytes = MEASUREMENT, *certifiers: Any, port: int = 8080) -> Release:
    entry = ReferenceEntry("simulated", 1, "max,-cx16", measurement)
    made = request(version, *certifiers, statement={"reference": (entry,)}, document={"port": port})
    return add(rule(), made).release


OLD, NEW = release("1.4.2"), release("1.5.0", NEWER, port=8081)


def test_releases_run_beside_each_other(guest: Guest) -> None:
    """A rolling upgrade: old and new at once, neither in the other's place."""
    clinic = workload(rule(), NEW, OLD)
    assert {one.version for one in clinic.releases} == {"1.4.2", "1.5.0"}
    assert clinic == workload(rule(), OLD, NEW)
    assert granted(guest.ask(OLD.document, [clinic])).version == "1.4.2"
    assert granted(guest.ask(NEW.document, [clinic], measurement=NEWER)).version == "1.5.0"
    assert codes(guest.ask(OLD.document, [clinic], measurement=NEWER)) == ["measurement-unknown", "not-affirming"]
    one = granted(guest.ask(OLD.document, [clinic]))
    assert one.name == "clinic"
    assert one.resources == (KEK_PATH, LOG, SECRET, VOLUME)
    verdict = guest.ask(OLD.document, [clinic])
    assert {check.name: check.found for check in verdict.checks}["rule-version"] == "1.4.2"


def test_raising_the_minimum_withdraws_at_once(guest: Guest) -> None:
    before = workload(rule(), OLD, NEW)
    terms = {one.version: one.terms() for one in before.releases}
    assert check_release(before, terms["1.4.2"], SECRET, NOW).version == "1.4.2"
    after = workload(rule(minimum_version="1.4.3"), OLD, NEW)
    verdict = guest.ask(OLD.document, [after])
    assert codes(verdict) == ["rule-version-too-low"]
    assert (verdict.granted, verdict.wanted, verdict.code) == (None, (), "rule-version-too-low")
    with pytest.raises(DeniedError) as caught:
        check_release(after, terms["1.4.2"], SECRET, NOW)
    assert (caught.value.code, caught.value.found) == ("rule-version-too-low", "1.4.2")
    # Enclaves of the newer release go on, with the tokens that they have.
    assert check_release(after, terms["1.5.0"], SECRET, NOW).version == "1.5.0"
    assert granted(guest.ask(NEW.document, [after], measurement=NEWER))
    # And lowering it lets them in again.
    assert granted(guest.ask(OLD.document, [workload(rule(minimum_version="1"), OLD)]))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signer": pem(STRANGER)}, "rule-signer-other"),
        ({"image": "127.0.0.1:5000/other"}, "rule-image-other"),
        ({"certifiers": [pem(ONE)]}, "rule-certifier-missing"),
    ],
)
def test_any_change_of_the_rule_counts_at_once(guest: Guest, changes: dict[str, Any], code: str) -> None:
    terms = workload(rule(), OLD).releases[0].terms()
    after = workload(rule(**changes), OLD)
    assert codes(guest.ask(OLD.document, [after])) == [code]
    with pytest.raises(DeniedError) as caught:
        check_release(after, terms, SECRET, NOW)
    assert caught.value.code == code


def test_tees_and_references(guest: Guest) -> None:
    """A rule for hardware has no simulated enclaves, whichever reference values the statement brings."""
    hardware = workload(rule(tees=["snp"]), OLD)
    assert codes(guest.ask(OLD.document, [hardware])) == ["rule-tee-without-reference", "tee-not-allowed"]
    both = (ReferenceEntry("simulated", 1, "max", MEASUREMENT), ReferenceEntry("snp", 1, "EPYC", MEASUREMENT))
    made = add(rule(tees=["snp"]), request(statement={"reference": both})).release
    assert codes(guest.ask(made.document, [workload(rule(tees=["snp"]), made)])) == ["tee-not-allowed"]
    assert granted(guest.ask(made.document, [workload(rule(tees=["snp", "simulated"]), made)]))


def chip_of(processor: Processor) -> bytes:
    report = launch(processor, b"x").evidence(bytes(64)).report
    return report[0x1A0:0x1E0]  # CHIP_ID (SNP ABI, ATTESTATION_REPORT)


def test_chips(guest: Guest, other_guest: Guest) -> None:
    chip = chip_of(guest.processor)
    assert any(chip)
    pinned = workload(rule(chips=["01", chip.hex()]), OLD)
    assert granted(guest.ask(OLD.document, [pinned]))
    assert codes(other_guest.ask(OLD.document, [pinned])) == ["chip-not-allowed"]
    assert granted(other_guest.ask(OLD.document, [workload(rule(), OLD)]))


def test_the_rules_policy(guest: Guest) -> None:
    debug = POLICY | DEBUG
    assert "debug-enabled" in codes(guest.ask(OLD.document, [workload(rule(), OLD)], policy=debug))
    allowing = workload(rule(policy="[allow]\ndebug = true\n"), OLD)
    assert granted(guest.ask(OLD.document, [allowing], policy=debug))
    # It stands in the place of the project's, which allows more here.
    strict = workload(rule(policy="[tcb.snp]\nmicrocode = 255\n"), OLD)
    assert "tcb-too-low" in codes(guest.ask(OLD.document, [strict], Policy(allow_debug=True), policy=debug))
    assert "debug-enabled" in codes(guest.ask(OLD.document, [strict], Policy(allow_debug=True), policy=debug))


def test_the_earlier_end_counts(guest: Guest) -> None:
    soon = NOW + timedelta(hours=1)
    clinic = workload(rule(not_after=soon.isoformat()), OLD)
    assert clinic.releases[0].not_after == soon
    assert workload(rule(), OLD).releases[0].not_after == OLD.not_after < END
    assert codes(guest.ask(OLD.document, [clinic], now=soon)) == ["reference-expired", "not-affirming"]
    with pytest.raises(StaleError) as caught:
        check_release(clinic, clinic.releases[0].terms(), SECRET, soon)
    assert caught.value.code == "reference-expired"


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_rule_without_releases_is_nobodys(guest: Guest) -> None:
    verdict = guest.ask(OLD.document, [workload(rule())])
    assert codes(verdict) == ["workload-unknown"]
    unknown = next(check for check in verdict.checks if check.name == "workload")
    assert unknown.expected == "clinic by its rule, which has no release yet"
    with pytest.raises(DeniedError) as caught:
        check_release(workload(rule()), workload_of(rule(), NOW).terms(), SECRET, NOW)
    assert caught.value.code == "workload-withdrawn"


def test_an_unknown_launch_is_told_which_release_comes_nearest(guest: Guest) -> None:
    clinic = workload(rule(), OLD, NEW)
    verdict = guest.ask(OLD.document + "\n# changed", [clinic], measurement=NEWER)
    unknown = next(check for check in verdict.checks if check.name == "workload")
    assert unknown.expected == f"clinic {NEW.host_data.hex()}"
    assert codes(verdict) == ["workload-unknown", "host-data-mismatch"]
    differs = next(check for check in verdict.checks if check.code == "host-data-mismatch")
    assert differs.expected == NEW.host_data.hex()
    both = guest.ask(OLD.document + "\n# changed", [clinic], measurement=bytes(48))
    assert codes(both) == ["workload-unknown", "measurement-unknown", "host-data-mismatch"]
    assert (verdict.granted, verdict.workload, verdict.wanted) == (None, None, ())


def test_others_releases_are_left_out() -> None:
    foreign = replace(OLD, workload="billing")
    assert workload(rule(), foreign).releases == ()


def test_terms_of_a_release() -> None:
    one = compose(rule(), OLD)
    assert one.terms() == compose(rule(minimum_version="9", resources=[]), OLD).terms()
    changed = [
        compose(rule(), NEW),
        compose(rule(tees=["snp"]), OLD),
        compose(rule(chips=["01"]), OLD),
        compose(rule(policy='name = "x"'), OLD),
    ]
    terms = {one.terms(), *(other.terms() for other in changed)}
    assert len(terms) == 5
    clinic = workload(rule(), OLD)
    for other in changed:
        with pytest.raises(DeniedError) as caught:
            check_release(clinic, other.terms(), SECRET, NOW)
        assert caught.value.code == "workload-withdrawn"


def test_only_what_the_rule_grants_now() -> None:
    terms = compose(rule(), OLD).terms()
    assert check_release(workload(rule(), OLD), terms, KEK_PATH, NOW)
    with pytest.raises(DeniedError) as caught:
        check_release(workload(rule(resources=[]), OLD), terms, SECRET, NOW)
    assert caught.value.code == "resource-not-granted"


def test_releases_are_not_in_the_record() -> None:
    clinic = workload(rule(), OLD)
    again = decode_workload(encode_workload(clinic))
    assert again.releases == ()
    assert assemble(again, [OLD]) == clinic


def test_certified_releases_keep_their_certifiers(guest: Guest) -> None:
    made = add(rule(certifiers=[pem(ONE), pem(TWO)]), request("1.4.2", ONE, TWO)).release
    clinic = workload(rule(certifiers=[pem(ONE), pem(TWO)]), made)
    assert granted(guest.ask(made.document, [clinic])).certified_by == (name(ONE), name(TWO))
    # One of them is not believed any more, and another is wanted in its place.
    assert granted(guest.ask(made.document, [workload(rule(certifiers=[pem(TWO)]), made)]))
    after = workload(rule(certifiers=[pem(TWO), pem(STRANGER)]), made)
    assert codes(guest.ask(made.document, [after])) == ["rule-certifier-missing"]
    assert refusal(after.releases[0]) is not None
    assert refusal(clinic.releases[0]) is None


# -- chips and TEEs of other workloads ---------------------------------------------------------------------------------


def exact(**changes: Any) -> Workload:
    return admit(parse_admission(request(**changes)), OWNER, CERTIFICATE, NOW).workload


def test_an_admitted_document_may_name_them_too(guest: Guest, other_guest: Guest) -> None:
    chip = chip_of(guest.processor)
    pinned = exact(chips=[chip.hex()], tees=["simulated"], max_activations=3, platform="[allow]\ndebug = true\n")
    assert decode_workload(encode_workload(pinned)) == pinned
    assert (pinned.max_activations, pinned.version) == (3, "1.4.2")
    assert granted(guest.ask(pinned.document, [pinned], policy=POLICY | DEBUG))
    assert codes(other_guest.ask(pinned.document, [pinned])) == ["chip-not-allowed"]
    hardware = exact(tees=["snp", "tdx"])
    assert codes(guest.ask(hardware.document, [hardware])) == ["tee-not-allowed"]
    terms = {exact().terms(), pinned.terms(), exact(tees=["snp"]).terms(), exact(chips=["01"]).terms()}
    assert len(terms) == 4


def measured(workload_name: str, **changes: Any) -> Workload:
    references = f'[[reference]]\ntee = "simulated"\nmeasurement = "{MEASUREMENT.hex()}"\n'
    value = {"name": workload_name, "references": references, "resources": [f"kbs:///{SECRET}"]}
    return parse_measured({**value, "not_after": END.isoformat(), **changes}, NOW)


def test_guests_known_by_measurement_may_be_pinned_too(guest: Guest, other_guest: Guest) -> None:
    """Two workloads of the same measurement, each on its own machine: each guest is its own workload."""
    chips = [chip_of(one.processor).hex() for one in (guest, other_guest)]
    known = [measured("ape", chips=chips[:1]), measured("zebra", chips=chips[1:], tees=["simulated"])]
    assert granted(guest.ask(OLD.document, known)).name == "ape"
    assert granted(other_guest.ask(OLD.document, known)).name == "zebra"
    verdict = other_guest.ask(OLD.document, known[:1])
    assert codes(verdict) == ["workload-unknown", "chip-not-allowed"]
    assert codes(guest.ask(OLD.document, [measured("ape", tees=["snp"])])) == ["workload-unknown", "tee-not-allowed"]
    assert decode_workload(encode_workload(known[1])) == known[1]


@pytest.mark.parametrize("masked", [b"", bytes(64)])
def test_a_masked_chip_is_none_of_those_named(guest: Guest, masked: bytes) -> None:
    result = granted_result(guest.ask(OLD.document, [workload(rule(), OLD)]))
    pinned = measured("ape", chips=[result.claims.chip_id.hex()])
    hidden = replace(result.claims, chip_id=masked)
    assert [check.outcome for check in check_restrictions(pinned, result.claims)] == ["passed"]
    assert [check.code for check in check_restrictions(pinned, hidden)] == ["chip-not-allowed"]
    assert check_restrictions(measured("ape"), hidden) == ()


def test_nobody_is_asked_about_the_chip_of_a_withdrawn_release() -> None:
    """Genuine hardware whose certificate is not there: only for a release that is let in is a vendor asked."""
    vendor, key = FakeVendor(NOW), ec.generate_private_key(ec.SECP256R1())
    session = Session("default", "0.4.0", "snp", new_nonce(secrets.token_bytes), NOW + timedelta(minutes=5))
    report_data = runtime_digest(public_jwk(key), session.nonce, "") + bytes(16)
    evidence = vendor.snp(
        certificates="none", report_data=report_data, host_data=OLD.host_data, measurement=MEASUREMENT
    )
    message = {
        "init-data": {"format": "toml", "body": OLD.document},
        "runtime-data": {"nonce": session.nonce, "tee-pubkey": public_jwk(key)},
        "tee-evidence": {"primary_evidence": to_envelope(evidence), "additional_evidence": ""},
    }
    attempt = Attempt(parse_attestation(json.dumps(message).encode(), "0.4.0"), session, evidence)
    claims = verify(evidence, Endorsements(), NOW)

    def wanted(clinic: Workload) -> bool:
        release = clinic.releases[0]
        verdict = judge(attempt, claims, {release.host_data: release}.get, {"clinic": clinic}, Policy(), NOW)
        assert (verdict.workload, verdict.granted) == (release, None)
        return bool(verdict.wanted)

    assert wanted(workload(rule(), OLD))
    assert not wanted(workload(rule(minimum_version="2"), OLD))
