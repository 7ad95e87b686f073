"""Forged evidence: every way to be untrustworthy has its code, and nothing forged is ever accepted."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_kit import NOW, PSS, Chip, certificate_der, failures

from kokon.errors import MalformedError
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need
from kokon.tee.registry import verify
from kokon.tee.simulated.certificates import AUTHORITY_LIFETIME, CHIP_LIFETIME, CLOCK_SKEW, make_ark, make_ask
from kokon.tee.simulated.processor import TCB
from kokon.tee.snp.report import SIGNED_SIZE


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )


SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def subject_of(der: bytes) -> x509.Name:
    return x509.load_der_x509_certificate(der).subject


def open_questions(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.checks if check.outcome == "not-checked"]


def test_genuine_evidence_of_an_accepted_chip(chip: Chip) -> None:
    claims = chip.claims()
    assert claims.ok
    assert claims.simulated
    assert claims.root == chip.root
    assert claims.product == "Simulated"
    assert claims.reported_tcb == TCB
    assert open_questions(claims) == ["crl-missing"]


def test_a_simulated_root_is_refused_unless_named(chip: Chip) -> None:
    evidence = chip.evidence()
    claims = verify(evidence, Endorsements(), NOW)
    assert failures(claims) == ["simulated-root-refused"]
    assert claims.simulated
    hint = claims.failures[0].hint or ""
    assert chip.root in hint
    assert "--accept-simulated" in hint
    assert not verify(evidence, Endorsements(accepted_simulated=frozenset({"0" * 64})), NOW).ok


def authority(
    chip: Chip, subject: x509.Name, key: rsa.RSAPublicKey, issuer: x509.Name | None = None, depth: int | None = None
) -> bytes:
    """A certificate authority's certificate, signed by the chip's root key under any name."""
    unsigned = builder(subject, issuer or subject, key)
    unsigned = unsigned.add_extension(x509.BasicConstraints(True, depth), True).add_extension(SIGNS, True)
    return chip.rebuilt(unsigned, chip.ark)


def test_any_other_root_is_untrusted(chip: Chip) -> None:
    evil = name("ARK-Milan")
    vcek, ask, _ark = chip.evidence().certificates
    chain = (
        vcek,
        authority(chip, subject_of(ask), chip.ask.public_key(), evil, 0),
        authority(chip, evil, chip.ark.public_key()),
    )
    claims = verify(replace(chip.evidence(), certificates=chain), Endorsements(), NOW)
    assert failures(claims) == ["root-untrusted"]
    assert not claims.simulated


@settings(max_examples=60, deadline=None)
@given(st.integers(0, SIGNED_SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_signed_part_never_verifies(chip: Chip, position: int, change: int) -> None:
    raw = bytearray(chip.evidence().report)
    raw[position] ^= change
    try:
        claims = chip.claims(bytes(raw))
    except MalformedError:
        return
    assert "snp-signature-invalid" in failures(claims)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 143), st.integers(1, 255))
def test_a_changed_byte_of_the_signature_never_verifies(chip: Chip, position: int, change: int) -> None:
    raw = bytearray(chip.evidence().report)
    raw[SIGNED_SIZE + position] ^= change
    assert failures(chip.claims(bytes(raw))) == ["snp-signature-invalid"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2), st.integers(0, 1500), st.integers(1, 255))
def test_a_changed_byte_of_a_certificate_never_verifies(chip: Chip, which: int, position: int, change: int) -> None:
    chain = list(chip.evidence().certificates)
    der = bytearray(chain[which])
    der[position % len(der)] ^= change
    chain[which] = bytes(der)
    try:
        claims = chip.claims(chain=tuple(chain))
    except MalformedError:
        return
    assert not claims.ok


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 1400))
def test_certificates_cut_and_spliced_are_malformed_or_fail(chip: Chip, junk: bytes, place: int) -> None:
    chain = chip.evidence().certificates
    for der in (chain[0][:place], chain[0][:place] + junk + chain[0][place:], chain[0] + junk, junk):
        if der in chain:
            continue
        try:
            assert not chip.claims(chain=(der, *chain[1:])).ok
        except MalformedError:
            continue


@pytest.mark.parametrize("report", [bytes(144), b"\xff" * 144])
def test_absurd_signatures(chip: Chip, report: bytes) -> None:
    raw = chip.evidence().report
    assert failures(chip.claims(raw[:SIGNED_SIZE] + report + raw[SIGNED_SIZE + 144 :])) == ["snp-signature-invalid"]


def test_no_certificates(chip: Chip) -> None:
    claims = chip.claims(chain=())
    assert open_questions(claims) == ["snp-certificate-missing", "crl-missing"]
    assert not claims.failures
    assert not claims.ok
    assert claims.root == ""
    assert claims.product == "Simulated"
    components = (("microcode", "1"), ("product", "Simulated"), ("snp", "1"), ("tee", "1"))
    chip_id = ("chip-id", claims.chip_id.hex())
    assert claims.needs == (Need("vcek", (("bootloader", "1"), chip_id, *components)),)


@pytest.mark.parametrize("count", [1, 2])
def test_incomplete_chain(chip: Chip, count: int) -> None:
    claims = chip.claims(chain=chip.evidence().certificates[:count])
    assert open_questions(claims) == ["chain-incomplete", "crl-missing"]
    assert not claims.failures
    assert claims.root == ""
    assert claims.needs[0] == Need("amd-chain", (("kind", "vcek"), ("product", "Simulated")))
    assert not claims.ok


def test_leaf_directly_under_the_root(chip: Chip) -> None:
    vcek, _ask, ark = chip.evidence().certificates
    claims = chip.claims(chain=(vcek, ark))
    assert open_questions(claims) == ["chain-incomplete", "crl-missing"]
    assert not claims.ok


def test_root_alone(chip: Chip) -> None:
    ark = chip.evidence().certificates[2]
    claims = chip.claims(chain=(ark,))
    assert open_questions(claims) == ["snp-certificate-missing", "crl-missing"]
    assert not claims.ok


def test_too_many_certificates(chip: Chip) -> None:
    with pytest.raises(MalformedError) as caught:
        chip.claims(chain=chip.evidence().certificates * 3)
    assert caught.value.code == "certificate-count"


def test_another_signer_of_the_intermediate(chip: Chip) -> None:
    vcek, _ask, ark = chip.evidence().certificates
    other = rsa.generate_private_key(65537, 2048)
    unsigned = builder(subject_of(_ask), subject_of(ark), chip.ask.public_key())
    forged = chip.rebuilt(unsigned.add_extension(x509.BasicConstraints(True, 0), True), other)
    assert "chain-broken" in failures(chip.claims(chain=(vcek, forged, ark)))


def test_weak_root_key(chip: Chip) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    ark = parse_certificate(certificate_der(make_ark(weak, NOW)))
    assert not ark.issued(ark)


def test_only_the_signature_parameters_of_amd_will_do(chip: Chip) -> None:
    vcek, ask, ark = chip.evidence().certificates
    unsigned = builder(subject_of(ask), subject_of(ark), chip.ask.public_key())
    unsigned = unsigned.add_extension(x509.BasicConstraints(True, 0), True).add_extension(SIGNS, True)
    plain = certificate_der(unsigned.sign(chip.ark, SHA384()))
    assert failures(chip.claims(chain=(vcek, plain, ark))) == ["snp-signature-parameters"]
    salt = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=32)
    short = certificate_der(unsigned.sign(chip.ark, SHA384(), rsa_padding=salt))
    assert failures(chip.claims(chain=(vcek, short, ark))) == ["chain-broken", "snp-signature-parameters"]


def test_intermediate_that_is_no_authority(chip: Chip) -> None:
    vcek, ask, ark = chip.evidence().certificates
    usage = x509.load_der_x509_certificate(ask).extensions.get_extension_for_class(x509.KeyUsage).value
    unsigned = builder(subject_of(ask), subject_of(ark), chip.ask.public_key())
    no_ca = chip.rebuilt(unsigned.add_extension(usage, True), chip.ark)
    no_signing = chip.rebuilt(unsigned.add_extension(x509.BasicConstraints(True, 0), True), chip.ark)
    for forged in (no_ca, no_signing):
        assert failures(chip.claims(chain=(vcek, forged, ark))) == ["not-an-authority"]


def test_root_whose_path_is_too_short(chip: Chip) -> None:
    vcek, ask, ark = chip.evidence().certificates
    usage = x509.load_der_x509_certificate(ark).extensions.get_extension_for_class(x509.KeyUsage).value
    unsigned = builder(subject_of(ark), subject_of(ark), chip.ark.public_key())
    short = unsigned.add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage, True)
    assert failures(chip.claims(chain=(vcek, ask, chip.rebuilt(short, chip.ark)))) == ["not-an-authority"]


def test_leaf_that_is_an_authority(chip: Chip) -> None:
    vcek, ask, ark = chip.evidence().certificates
    genuine = x509.load_der_x509_certificate(vcek)
    usage = x509.load_der_x509_certificate(ask).extensions.get_extension_for_class(x509.KeyUsage).value
    unsigned = builder(genuine.subject, genuine.issuer, chip.ask.public_key())
    unsigned = unsigned.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
    for extension in genuine.extensions:
        unsigned = unsigned.add_extension(extension.value, False)
    claims = chip.claims(chain=(chip.rebuilt(unsigned, chip.ask), ask, ark))
    assert {"not-an-authority", "snp-signature-invalid"} == set(failures(claims))


def test_leaf_of_another_curve(chip: Chip) -> None:
    _vcek, ask, ark = chip.evidence().certificates
    other = chip.vcek(public=ec.generate_private_key(ec.SECP256R1()).public_key())
    assert failures(chip.claims(chain=(other, ask, ark))) == ["snp-signature-invalid"]


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW - timedelta(days=2), "certificate-not-yet-valid"),
        (NOW + CHIP_LIFETIME, "certificate-expired"),
        (NOW + AUTHORITY_LIFETIME, "certificate-expired"),
    ],
)
def test_validity(chip: Chip, now: datetime, code: str) -> None:
    assert set(failures(chip.claims(now=now))) == {code}


def test_validity_at_its_edges(chip: Chip) -> None:
    assert chip.claims(now=NOW - CLOCK_SKEW).ok
    assert chip.claims(now=NOW - CLOCK_SKEW + CHIP_LIFETIME - timedelta(seconds=1)).ok
    assert failures(chip.claims(now=NOW - CLOCK_SKEW + CHIP_LIFETIME)) == ["certificate-expired"]


def test_certificates_for_another_tcb_product_or_chip(chip: Chip) -> None:
    _vcek, ask, ark = chip.evidence().certificates
    cases = {
        "snp-tcb-mismatch": chip.vcek(tcb=TCB | {"microcode": 2}),
        "snp-product-mismatch": chip.vcek(product="Milan-B0"),
        "snp-chip-id-mismatch": chip.vcek(chip_id=bytes(64)),
    }
    for code, vcek in cases.items():
        assert failures(chip.claims(chain=(vcek, ask, ark))) == [code]


def test_short_hardware_id_is_padded(chip: Chip) -> None:
    _vcek, ask, ark = chip.evidence().certificates
    short = bytes(range(8))
    report = chip.signed(chip_id=short + bytes(56))
    assert chip.claims(report, (chip.vcek(chip_id=short), ask, ark)).ok
    other = chip.signed(chip_id=short + bytes(55) + b"\1")
    assert failures(chip.claims(other, (chip.vcek(chip_id=short), ask, ark))) == ["snp-chip-id-mismatch"]


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"signature_algorithm": 2}, {"snp-signature-algorithm"}),
        ({"key_info": 2}, {"snp-chip-key-masked"}),
        ({"key_info": 1 << 2}, {"snp-signing-key-mismatch"}),
        ({"key_info": 7 << 2}, {"snp-signing-key-mismatch"}),
        ({"cpuid": (0x19, 1, 1)}, {"snp-product-mismatch"}),
        ({"cpuid": (0x77, 1, 1)}, {"snp-product-mismatch"}),
        ({"reported_tcb": bytes(8)}, {"snp-tcb-mismatch"}),
    ],
)
def test_genuinely_signed_reports_that_do_not_fit(chip: Chip, changes: dict[str, object], codes: set[str]) -> None:
    assert set(failures(chip.claims(chip.signed(**changes)))) == codes


def test_all_mismatches_are_collected(chip: Chip) -> None:
    _vcek, ask, ark = chip.evidence().certificates
    raw = bytearray(chip.signed(key_info=2, reported_tcb=bytes(8)))
    raw[0x90] ^= 1
    claims = verify(
        Evidence("snp", bytes(raw), (chip.vcek(product="Genoa"), ask, ark)), Endorsements(), NOW + CHIP_LIFETIME
    )
    assert set(failures(claims)) == {
        "snp-chip-key-masked",
        "certificate-expired",
        "simulated-root-refused",
        "snp-signature-invalid",
        "snp-product-mismatch",
        "snp-tcb-mismatch",
    }


def test_claims_are_the_reports(chip: Chip) -> None:
    claims = chip.claims(chip.signed(vmpl=2, policy=0xF0000, measurement=b"m" * 48))
    assert claims.ok
    assert (claims.vmpl, claims.debug, claims.migratable, claims.measurement) == (2, True, True, b"m" * 48)


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"x" * 20000])
def test_certificates_that_do_not_parse(chip: Chip, der: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        chip.claims(chain=(der,))
    assert caught.value.code == "certificate-malformed"


def test_the_algorithm_outside_the_signature_counts_too(chip: Chip) -> None:
    der = chip.evidence().certificates[0]
    place = der.rindex(bytes.fromhex("0609608648016503040202"))
    forged = der[: place + 10] + b"\3" + der[place + 11 :]
    with pytest.raises(MalformedError) as caught:
        parse_certificate(forged)
    assert caught.value.code == "certificate-malformed"


def test_certificates_with_critical_extensions(chip: Chip) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    unsigned = builder(name("a"), name("a"), chip.ark.public_key()).add_extension(unknown, True)
    with pytest.raises(MalformedError) as caught:
        parse_certificate(chip.rebuilt(unsigned, chip.ark))
    assert caught.value.code == "certificate-malformed"


def test_the_registry_knows_its_tees(chip: Chip) -> None:
    with pytest.raises(MalformedError) as caught:
        verify(replace(chip.evidence(), tee="abacus"), chip.endorsements, NOW)
    assert caught.value.code == "tee-unknown"


def test_another_simulated_chip_under_the_same_name(chip: Chip) -> None:
    other = rsa.generate_private_key(65537, 4096)
    ark = certificate_der(make_ark(other, NOW))
    ask = certificate_der(make_ask(other, chip.ask.public_key(), NOW))
    claims = chip.claims(chain=(chip.evidence().certificates[0], ask, ark))
    assert open_questions(claims) == ["chain-incomplete", "crl-missing"]
    assert not claims.ok
    same = parse_certificate(chip.evidence().certificates[1])
    unsigned = builder(subject_of(same.der), subject_of(chip.evidence().certificates[2]), other.public_key())
    unsigned = unsigned.add_extension(x509.BasicConstraints(True, 0), True).add_extension(SIGNS, True)
    forged = certificate_der(unsigned.sign(other, SHA384(), rsa_padding=PSS))
    claims = chip.claims(chain=(chip.evidence().certificates[0], forged, chip.evidence().certificates[2]))
    assert failures(claims) == ["chain-broken", "chain-broken"]
