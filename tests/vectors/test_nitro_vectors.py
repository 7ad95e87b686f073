"""Real AWS Nitro attestation documents: what verifies must verify, and nothing that was made from it may."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import MalformedError
from kokon.tee.anchors import AWS
from kokon.tee.cbor import write_cbor
from kokon.tee.certificates import parse_certificate
from kokon.tee.cose import encode_sign1
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.nitro.document import read_message
from kokon.tee.recognise import recognise
from kokon.tee.registry import verify

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore")]

NEGATIVE = {
    "nitro/bad_sig_veracruz.cbor": ["nitro-signature-invalid"],
    "nitro/custom_root_oyster.cbor": ["root-untrusted"],
}
SAMPLE = "nitro/prod_veracruz.cbor"
LATE = datetime(2026, 11, 23, tzinfo=UTC)


def documents(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [entry for entry in manifest if entry["kind"] == "nitro_doc"]
    assert len(found) >= 14
    return found


def check(data: bytes, now: datetime) -> Claims:
    return verify(Evidence("nitro", data), Endorsements(), now)


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


@pytest.fixture(scope="module")
def sample(vectors: Path, manifest: list[dict[str, Any]]) -> tuple[bytes, datetime]:
    entry = next(entry for entry in manifest if entry["file"] == SAMPLE)
    return (vectors / SAMPLE).read_bytes(), datetime.fromisoformat(entry["expected"]["at_time"])


def test_every_document_gives_its_expected_result(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in documents(manifest):
        data, expected = (vectors / entry["file"]).read_bytes(), entry["expected"]
        claims = check(data, datetime.fromisoformat(expected["at_time"]))
        assert claims.ok == expected["verifies"], (entry["file"], failures(claims))
        assert failures(claims) == NEGATIVE.get(entry["file"], [])
        assert claims.debug == expected.get("debug_mode", False)
        assert not claims.simulated
        if expected["verifies"]:
            assert AWS[claims.root] == "AWS Nitro Enclaves root G1"
            assert claims.product == entry["claims"].get("product", "Nitro")
        if "after_expiry" in expected:
            late = check(data, datetime.fromisoformat(expected["after_expiry"]["at_time"]))
            assert late.ok == expected["after_expiry"]["verifies"]
            assert "certificate-expired" in failures(late)


def test_exactly_within_the_valid_window(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    moment = timedelta(seconds=1)
    for entry in documents(manifest):
        if not entry["expected"]["verifies"]:
            continue
        data = (vectors / entry["file"]).read_bytes()
        start, end = map(datetime.fromisoformat, entry["expected"]["valid_window"])
        assert check(data, start).ok
        assert check(data, end - moment).ok
        assert failures(check(data, end)) == ["certificate-expired"]
        assert "certificate-not-yet-valid" in failures(check(data, start - moment))


def test_every_field_is_read(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in documents(manifest):
        data, known = (vectors / entry["file"]).read_bytes(), entry["claims"]
        message, document = read_message(data)
        claims = check(data, LATE)
        assert (document.module_id, document.digest) == (known["module_id"], known["digest"])
        assert document.timestamp == known["timestamp_ms"]
        assert len(document.pcrs) == known["n_pcrs"]
        named = {str(index): value.hex() for index, value in document.pcrs.items() if any(value)}
        assert named == known["pcrs"]
        for name in ("user_data", "nonce", "public_key"):
            assert (getattr(document, name) or b"").hex() == known[name]
            assert (claims.details[name] or "") == known[name]
        assert claims.report_data.hex() == known["nonce"]
        assert claims.measurement.hex() == known["pcrs"].get("0", "00" * 48)
        assert claims.signer.hex() == known["pcrs"].get("8", "")
        assert {f"pcr{index}": value for index, value in document.pcrs.items()} == claims.registers
        assert (message.payload or b"")[:1] == (b"\xbf" if known["payload_indefinite_map"] else b"\xa9")


def test_recognised_raw_and_wrapped(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in documents(manifest)[:3]:
        data = (vectors / entry["file"]).read_bytes()
        for form in (data, data.hex().encode()):
            assert recognise(form) == Evidence("nitro", data)


def test_the_root_on_file_is_the_pinned_one(vectors: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    root = x509.load_pem_x509_certificate((vectors / "nitro/aws_nitro_root_g1.pem").read_bytes())
    assert parse_certificate(root.public_bytes(Encoding.DER)).fingerprint in AWS


def test_the_tampered_root_does_not_parse(vectors: Path) -> None:
    from cryptography import x509

    pem = (vectors / "nitro/invalid_tampered_root_cert.crt").read_bytes()
    with pytest.raises(ValueError):  # not even the PEM holds a certificate
        x509.load_pem_x509_certificate(pem).public_key()


def flipped(data: bytes, bit: int) -> Iterator[tuple[int, bytes]]:
    for position in range(len(data)):
        yield position, data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_verifies(sample: tuple[bytes, datetime], bit: int) -> None:
    data, now = sample
    assert check(data, now).ok
    refused = malformed = 0
    for position, other in flipped(data, bit):
        try:
            claims = check(other, now)
        except MalformedError:
            malformed += 1
        else:
            assert not claims.ok, (position, bit)
            refused += 1
    assert refused + malformed == len(data)
    assert min(refused, malformed) > 10


def test_no_truncation_verifies(sample: tuple[bytes, datetime]) -> None:
    data, now = sample
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            check(data[:size], now)


@pytest.mark.parametrize("junk", [b"\0", b"\xff", b"\xa0", bytes(1000), b"\0" * 20_000])
def test_no_extension_verifies(sample: tuple[bytes, datetime], junk: bytes) -> None:
    data, now = sample
    with pytest.raises(MalformedError):
        check(data + junk, now)


def test_no_field_of_another_document_verifies(
    sample: tuple[bytes, datetime], vectors: Path, manifest: list[dict[str, Any]]
) -> None:
    data, now = sample
    message, document = read_message(data)
    fields = {name: getattr(document, name) for name in document.__slots__}
    for entry in documents(manifest):
        other_message, other = read_message((vectors / entry["file"]).read_bytes())
        swaps = [
            [message.protected, {}, message.payload, other_message.signature],
            [message.protected, {}, other_message.payload, message.signature],
        ]
        for name in document.__slots__:
            changed = fields | {name: getattr(other, name)}
            if changed != fields:
                payload = write_cbor(changed | {"cabundle": list(changed["cabundle"])})
                swaps.append([message.protected, {}, payload, message.signature])
        for swap in swaps:
            mixed = write_cbor(swap)
            assert mixed == data or not check(mixed, now).ok, entry["file"]


def test_the_tag_changes_nothing(sample: tuple[bytes, datetime]) -> None:
    data, now = sample
    tagged, plain = check(b"\xd2" + data, now), check(data, now)
    assert tagged.ok
    assert tagged.canonical == plain.canonical
    assert encode_sign1(read_message(data)[0]) == data
