"""A TPM's quote to claims: every check, as passed and as failed."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from eventlog_kit import agile, digest
from tpm_kit import (
    Quote,
    codes,
    ecc_key,
    evidence,
    found,
    public_area,
    qualified,
    rsa_key,
    sign,
    spki,
    values,
    with_parts,
)
from unit_x509 import NOW, Authority

from kokon.errors import MalformedError
from kokon.tee import anchors
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need, canonical_digest
from kokon.tee.registry import tee, verify
from kokon.tee.vtpm.quote import encode_pcrs

EMPTY = Endorsements()
UNBOUND = (Need("ak", required=False),)


def check(evidence: Evidence, endorsements: Endorsements = EMPTY) -> Claims:
    claims = verify(evidence, endorsements, NOW)
    json.dumps(dict(claims.details))
    json.dumps(tee(evidence.tee).describe(evidence))
    return claims


def test_a_quote_whose_key_nobody_vouches_for_verifies_and_is_needed() -> None:
    claims = check(evidence())
    assert claims.ok
    assert claims.needs == UNBOUND
    assert found(claims, "attestation key").code == "tpm-ak-unbound"
    assert (claims.root, claims.simulated, claims.product, claims.signer) == ("", False, "", b"")
    assert claims.report_data == b"nonce"
    assert claims.measurement == hashlib.sha256(b"".join(values((0, 1, 7)).values())).digest()
    assert claims.registers["pcr7"] == claims.registers["sha256:pcr7"] == values((7,))[7]
    assert "pcr2" not in claims.registers
    assert claims.canonical == canonical_digest("tpm", Quote().encode(), spki(rsa_key()))
    quote = claims.details["quotes"][0]
    assert (quote["clock"], quote["reset_count"], quote["restart_count"], quote["safe"]) == (77, 3, 1, True)
    assert quote["pcr_selection"] == {"sha256": [0, 1, 7]}
    assert claims.details["tpm"]["pcr00"] == values((0,))[0].hex()
    assert found(claims, "PCR selection").found == "sha256: 0-1, 7"


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (rsa_key(), {}),
        (rsa_key(), {"raw": True}),
        (rsa_key(), {"pss": 32}),
        (rsa_key(), {"pss": 222}),
        (ecc_key(), {}),
        (ecc_key("secp384r1"), {}),
    ],
)
def test_every_kind_of_signature(key: object, options: dict[str, object]) -> None:
    claims = check(evidence(key=key, **options))  # type: ignore[arg-type]
    assert claims.ok
    assert found(claims, "quote signature").outcome == "passed"
    forged = evidence(key=key, **options)  # type: ignore[arg-type]
    forged = replace(forged, report=Quote(nonce=b"other").encode())
    assert codes(check(forged)) == ["tpm-signature"]


@pytest.mark.parametrize("name", ["sha384", "sha512"])
def test_other_hashes(name: str) -> None:
    quote = Quote(((name, (0, 4)), ("sha256", (4,))), hash=name)
    claims = check(evidence(quote))
    assert claims.ok
    assert found(claims, "PCR bank").found == f"{name}, sha256"
    assert claims.registers["pcr4"] == values((4,), name)[4]
    assert claims.registers["sha256:pcr4"] == values((4,))[4]


def test_a_signature_with_sha1_is_refused() -> None:
    claims = check(evidence(Quote(hash="sha1")))
    assert codes(claims) == ["tpm-signature-algorithm"]


@pytest.mark.parametrize("scheme", [0x14, 0x18])
def test_a_signature_of_another_scheme_than_the_key(scheme: int) -> None:
    key, other = (ecc_key(), rsa_key()) if scheme == 0x14 else (rsa_key(), ecc_key())
    base = evidence(key=key)
    changed = with_parts(base, signature=sign(base.report, other))
    assert codes(check(changed)) == ["tpm-signature"]


def test_another_key_than_signed() -> None:
    assert codes(check(with_parts(evidence(), ak=spki(rsa_key(1))))) == ["tpm-signature"]


def test_without_key_or_signature_it_is_undecided() -> None:
    claims = check(with_parts(evidence(), ak=None))
    assert (claims.ok, claims.failures, claims.needs) == (False, (), (Need("ak"),))
    assert found(claims, "quote signature").code == "tpm-ak-missing"
    claims = check(with_parts(evidence(), signature=None))
    assert (claims.ok, claims.failures) == (False, ())
    assert Need("signature") in claims.needs
    assert found(claims, "quote signature").code == "tpm-signature-missing"


def test_no_quote_is_no_evidence() -> None:
    with pytest.raises(MalformedError) as caught:
        verify(Evidence("tpm", b""), EMPTY, NOW)
    assert caught.value.code == "tpm-malformed"


def test_weak_keys() -> None:
    claims = check(evidence(key=rsa_key(bits=1024)))
    assert codes(claims) == ["tpm-ak-weak"]


def test_a_quote_of_nothing() -> None:
    claims = check(evidence(Quote((("sha256", ()),))))
    assert codes(claims) == ["tpm-pcr-selection"]
    assert claims.measurement == b""


def test_values_must_be_those_quoted() -> None:
    lie = encode_pcrs({"sha256": values((0, 1)) | {7: bytes(32)}})
    claims = check(with_parts(evidence(), pcrs=lie))
    assert codes(claims) == ["tpm-pcr-digest"]
    assert claims.registers == {}
    assert found(claims, "PCR values").code == "tpm-pcr-unproven"


def test_the_place_of_a_value_is_what_the_selection_says() -> None:
    shown = {0: values((0,))[0], 1: values((1,))[1], 8: values((7,))[7]}
    claims = check(with_parts(evidence(), pcrs=encode_pcrs({"sha256": shown})))
    assert found(claims, "PCR digest").code == "tpm-pcrs-missing"
    assert claims.registers == {}


def test_without_values_the_digest_is_the_measurement() -> None:
    claims = check(with_parts(evidence(), pcrs=None))
    assert claims.ok
    assert found(claims, "PCR digest").code == "tpm-pcrs-missing"
    assert claims.measurement == hashlib.sha256(b"".join(values((0, 1, 7)).values())).digest()
    assert check(with_parts(evidence(Quote(hash="sha384")), pcrs=None)).measurement == b""


def test_values_that_no_quote_covers_are_named_and_left_out() -> None:
    claims = check(with_parts(evidence(), pcrs=encode_pcrs({"sha256": values((0, 1, 2, 3, 7))})))
    assert claims.ok
    assert found(claims, "PCR values").found == "sha256: 2-3"
    assert "pcr2" not in claims.registers


def test_sha1_alone_is_refused() -> None:
    claims = check(evidence(Quote((("sha1", (0, 1)),))))
    assert codes(claims) == ["tpm-sha1-only"]


def test_a_bank_of_unknown_algorithm() -> None:
    base = evidence()
    message = base.report.replace(b"\0\x0b\x03\x83", b"\x77\x77\x03\x83")
    claims = check(with_parts(replace(base, report=message), signature=sign(message, rsa_key())))
    assert found(claims, "PCR digest").code == "tpm-pcrs-missing"
    assert found(claims, "PCR bank").found == "0x7777"


def several(*quotes: Quote) -> Evidence:
    first, *others = quotes
    banks = {bank: values(pcrs, bank) for quote in quotes for bank, pcrs in quote.selections}
    parts = {"pcrs": encode_pcrs(banks)}
    for number, quote in enumerate(others, 2):
        parts |= {f"quote-{number}": quote.encode(), f"signature-{number}": sign(quote.encode(), rsa_key())}
    base = evidence(first)
    return replace(base, parts=dict(base.parts) | parts)


def test_several_quotes() -> None:
    both = several(Quote(), Quote((("sha384", (0, 7)),)))
    claims = check(both)
    assert claims.ok
    assert (found(claims, "nonce of all quotes").outcome, found(claims, "boot of all quotes").outcome) == (
        "passed",
    ) * 2
    assert claims.registers["pcr0"] == values((0,), "sha384")[0]
    assert codes(check(with_parts(both, signature_2=both.parts["signature"]))) == ["tpm-signature"]
    second = Quote((("sha384", (0, 7)),))
    assert codes(check(several(Quote(), replace(second, nonce=b"x")))) == ["tpm-quotes-nonce"]
    assert codes(check(several(Quote(), replace(second, resets=4)))) == ["tpm-quotes-boot"]
    assert codes(check(several(Quote(), replace(second, restarts=4)))) == ["tpm-quotes-boot"]


@pytest.mark.parametrize("parent", [0x4000000B, 0x40000001, 0x4000000C, 0x40000007])
def test_the_public_area_is_bound_by_its_name(parent: int) -> None:
    area = public_area(rsa_key())
    base = evidence(Quote(signer=qualified(area, parent)))
    claims = check(with_parts(base, ak=None, ak_public=area))
    assert claims.ok
    assert found(claims, "attestation key name").outcome == "passed"
    assert found(claims, "attestation key attributes").outcome == "passed"
    assert "fixedTPM" in claims.details["ak_attributes"]


def test_a_public_area_that_was_changed() -> None:
    area = public_area(rsa_key())
    base = with_parts(evidence(Quote(signer=qualified(area))), ak=None)
    for bit in range(8 * len(area)):
        changed = bytearray(area)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            claims = verify(with_parts(base, ak_public=bytes(changed)), EMPTY, NOW)
        except MalformedError:
            continue
        assert not claims.ok, bit
    assert codes(check(with_parts(base, ak_public=public_area(rsa_key(), 0x50472)))) == ["tpm-ak-name"]
    odd = bytearray(area)
    odd[2:4] = b"\0\x27"
    assert codes(check(with_parts(base, ak_public=bytes(odd)))) == ["tpm-ak-name"]


@pytest.mark.parametrize("attributes", [0x40072, 0x10072, 0x50070, 0x50052, 0x50062, 0x70072])
def test_keys_that_sign_anything_are_refused(attributes: int) -> None:
    area = public_area(rsa_key(), attributes)
    claims = check(with_parts(evidence(Quote(signer=qualified(area))), ak_public=area))
    assert codes(claims) == ["tpm-ak-attributes"]


def test_two_different_keys_in_one_piece_of_evidence() -> None:
    area = public_area(rsa_key())
    base = evidence(Quote(signer=qualified(area)))
    assert check(with_parts(base, ak_public=area)).ok
    assert codes(check(with_parts(base, ak_public=area, ak=spki(rsa_key(1))))) == ["tpm-ak-differs"]


def test_an_enrolled_key() -> None:
    enrolled = Endorsements(enrolled_keys=frozenset({hashlib.sha256(spki(rsa_key())).hexdigest()}))
    claims = check(evidence(), enrolled)
    assert (claims.ok, claims.needs) == (True, ())
    assert found(claims, "attestation key").outcome == "passed"


ROOT = Authority("Kokon simulated EK root")
ISSUER = Authority("intermediate", ROOT)
LEAF = Authority("a TPM", ISSUER, key=rsa_key(), ca=False)


def certified(leaf: Authority = LEAF) -> Evidence:
    return replace(evidence(), certificates=(leaf.der, ISSUER.der))


def accepted(*certificates: bytes, crls: tuple[bytes, ...] = ()) -> Endorsements:
    return Endorsements(certificates, crls, accepted_simulated=frozenset({ROOT.certificate.fingerprint}))


def test_a_certified_key(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = check(certified(), accepted(ROOT.der, b"no certificate"))
    assert (claims.ok, claims.needs, claims.simulated) == (True, (), True)
    assert claims.root == ROOT.certificate.fingerprint
    assert [item["name"] for item in claims.details["ak_certificate"]] == ["a TPM", "intermediate", ROOT.common]
    assert codes(check(certified(), Endorsements((ROOT.der,)))) == ["simulated-root-refused"]
    monkeypatch.setattr(anchors, "TPM", {ROOT.certificate.fingerprint: "a cloud"})
    claims = check(certified(), Endorsements((ROOT.der,)))
    assert (claims.ok, claims.simulated, claims.product) == (True, False, "a cloud")


def test_the_certificate_may_be_all_there_is_of_the_key() -> None:
    claims = check(with_parts(certified(), ak=None), accepted(ROOT.der))
    assert claims.ok
    assert claims.canonical == check(certified(), accepted(ROOT.der)).canonical


def test_a_chain_that_does_not_reach_a_root_vouches_for_nothing() -> None:
    claims = check(certified(), Endorsements())
    assert (claims.ok, claims.needs, claims.root) == (True, UNBOUND, "")
    assert "intermediate" in (found(claims, "attestation key").hint or "")
    foreign = Authority("a TPM", ISSUER, key=rsa_key(1), ca=False)
    assert check(certified(foreign), accepted(ROOT.der)).needs == UNBOUND


def test_what_can_be_wrong_with_the_chain() -> None:
    other = Authority("somebody's root")
    claims = check(certified(Authority("a TPM", other, key=rsa_key(), ca=False)), Endorsements((other.der,)))
    assert codes(claims) == ["root-untrusted"]
    old = replace(LEAF, start=NOW - timedelta(days=9), end=NOW)
    assert codes(check(certified(old), accepted(ROOT.der))) == ["certificate-expired"]
    assert check(certified(old), accepted(ROOT.der, LEAF.der)).ok
    assert codes(check(certified(replace(LEAF, ca=True)), accepted(ROOT.der))) == ["not-an-authority"]
    forged = replace(LEAF, parent=replace(ISSUER, key=ecc_key()))
    assert codes(check(certified(forged), accepted(ROOT.der))) == ["chain-broken"]
    listed = accepted(ROOT.der, crls=(ISSUER.crl(LEAF.serial).der,))
    assert codes(check(certified(), listed)) == ["certificate-revoked"]
    assert check(certified(), accepted(ROOT.der, crls=(ISSUER.crl(99).der, b"no list"))).ok


EVENTS = (0, 8, b"v\0"), (4, 13, b"grub_cmd: a"), (4, 13, b"b"), (0, 4, bytes(4))


def measured(*events: tuple[int, int, bytes], changed: dict[int, bytes] | None = None) -> Evidence:
    """A quote of PCRs 0, 4 and 10 after these events."""
    pcrs = {0: bytes(32), 4: bytes(32), 10: bytes(32), 11: bytes(32)}
    for register, _kind, data in events:
        pcrs[register] = digest("sha256", pcrs[register] + digest("sha256", data))
    pcrs |= changed or {}
    quote = Quote((("sha256", tuple(pcrs)),), digest=digest("sha256", b"".join(pcrs.values())))
    return with_parts(evidence(quote), pcrs=encode_pcrs({"sha256": pcrs}), event_log=agile(*events))


def test_the_event_log_leads_to_the_pcrs() -> None:
    claims = check(measured(*EVENTS, changed={10: b"\1" * 32}))
    assert claims.ok
    assert found(claims, "event log: pcr0").outcome == found(claims, "event log: pcr4").outcome == "passed"
    assert found(claims, "event log: pcr10").code == "event-log-silent"
    assert not [check for check in claims.checks if "pcr11" in check.name]
    log = claims.details["uefi_event_logs"]
    assert (log["count"], log["algorithms"], log["events"][1]["type"]) == (5, ["sha256"], "EV_S_CRTM_VERSION")


def test_a_log_that_was_changed() -> None:
    claims = check(with_parts(measured(*EVENTS), event_log=agile(*EVENTS[:2], *EVENTS[3:])))
    assert codes(claims) == ["event-log-mismatch"]
    claims = check(with_parts(measured(*EVENTS), event_log=agile(*EVENTS, (7, 4, bytes(4)))))
    assert found(claims, "event log: other registers").code == "event-log-unproven"
    lie = agile(*EVENTS)
    lie = lie[:-4] + b"\xff" * 4
    claims = check(with_parts(measured(*EVENTS), event_log=lie))
    assert claims.ok
    assert (found(claims, "event data").code, found(claims, "event data").found) == ("event-log-data", "events 4")
    with pytest.raises(MalformedError) as caught:
        check(with_parts(measured(*EVENTS), event_log=b""))
    assert caught.value.code == "event-log-malformed"


def test_logs_and_quotes_without_a_common_bank() -> None:
    claims = check(with_parts(measured(*EVENTS), event_log=agile(*EVENTS, names=("sha384",))))
    assert (found(claims, "event log").code, found(claims, "event log").outcome) == (
        "event-log-algorithm",
        "not-checked",
    )


def test_several_banks_in_one_log() -> None:
    registers = {
        bank: {4: digest(bank, bytes(len(digest(bank, b""))) + digest(bank, b"a"))} for bank in ("sha1", "sha256")
    }
    listed = b"".join(registers[bank][4] for bank in registers)
    quote = Quote((("sha1", (4,)), ("sha256", (4,))), digest=digest("sha256", listed))
    log = agile((4, 13, b"a"), names=("sha1", "sha256"))
    claims = check(with_parts(evidence(quote), pcrs=encode_pcrs(registers), event_log=log))
    assert claims.ok
    assert (
        found(claims, "event log: pcr4 (sha256)").outcome == found(claims, "event log: pcr4 (sha1)").outcome == "passed"
    )


def test_hardware_reports_beside_a_quote_are_not_evaluated() -> None:
    claims = check(with_parts(evidence(), tee_attestation=b"x"))
    assert found(claims, "hardware report beside the quote").code == "tpm-tee-attestation"


@pytest.mark.parametrize("key", [rsa_key(), ecc_key()], ids=["rsa", "ecc"])
def test_no_bit_can_be_changed(key: object) -> None:
    base = evidence(key=key)  # type: ignore[arg-type]
    pieces = {"report": base.report} | dict(base.parts)
    for name, data in pieces.items():
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            made = (
                replace(base, report=bytes(changed)) if name == "report" else with_parts(base, **{name: bytes(changed)})
            )
            try:
                claims = verify(made, EMPTY, NOW)
            except MalformedError:
                continue
            proven = claims.ok and (claims.registers or name != "pcrs")
            assert not proven, (name, bit)


def test_every_length() -> None:
    base = evidence()
    for name, data in ({"report": base.report} | dict(base.parts)).items():
        for made in (*(data[:size] for size in range(len(data))), data + b"\0", data + data):
            other = replace(base, report=made) if name == "report" else with_parts(base, **{name: made})
            try:
                claims = verify(other, EMPTY, NOW)
            except MalformedError:
                continue
            assert not claims.ok or not claims.registers, name
