"""Containers of quotes, and what is put together from several files."""

import base64
import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from eventlog_kit import agile
from hypothesis import given
from hypothesis import strategies as st
from tpm_kit import (
    Quote,
    ecc_key,
    evidence,
    public_area,
    qualified,
    rsa_key,
    sign,
    sized,
    spki,
    value,
    values,
    with_parts,
)
from unit_x509 import NOW, Authority

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.tee.vtpm.assemble import PIECES, assemble
from kokon.tee.vtpm.entry import AZURE_SNP, AZURE_TDX, TPM, recognise_tpm
from kokon.tee.vtpm.formats import from_attestation, from_bincode, pcr_part
from kokon.tee.vtpm.protobuf import all_bytes, one_bytes, one_number, parse_message
from kokon.tee.vtpm.quote import encode_pcrs, parse_pcrs

ALL = tuple(range(24))
WHOLE = Quote((("sha256", ALL),))
LISTED = [value(index) for index in ALL]


def raw() -> tuple[bytes, bytes]:
    return WHOLE.encode(), sign(WHOLE.encode(), rsa_key(), raw=True)


def code(action: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        action()
    return caught.value.code


def ok(found: Evidence) -> bool:
    return verify(found, Endorsements(), NOW).ok


# KBS JSON


def envelope(**changes: Any) -> dict[str, Any]:
    base = evidence(WHOLE)
    quote = {
        "signature": base64.b64encode(base.parts["signature"]).decode(),
        "message": base64.b64encode(base.report).decode(),
        "pcrs": [value(index).hex() for index in ALL],
    }
    return {"tpm_quote": quote, "ak_public": base64.b64encode(spki(rsa_key())).decode()} | changes


def test_kbs_json_of_a_tpm() -> None:
    found = TPM.from_envelope(envelope())
    assert found == evidence(WHOLE)
    assert ok(found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ak_public": "?"}, "base64-malformed"),
        ({"more": 1}, "field-unknown"),
        ({"tpm_quote": {}}, "field-missing"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"pcrs": ["x"]}}, "hex-malformed"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"pcrs": [1]}}, "field-type"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"pcrs": ["00"]}}, "tpm-malformed"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"pcrs": ["00" * 32, "00" * 20]}}, "tpm-malformed"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"pcrs": ["00" * 32] * 25}}, "field-too-long"),
        ({"tpm_quote": envelope()["tpm_quote"] | {"more": 1}}, "field-unknown"),
    ],
)
def test_json_that_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert code(lambda: TPM.from_envelope(envelope(**changes))) == expected


def test_a_quote_without_values() -> None:
    bare = TPM.from_envelope(envelope(tpm_quote=envelope()["tpm_quote"] | {"pcrs": []}))
    assert bare.parts["pcrs"] == b""


def hexed(version: int) -> dict[str, Any]:
    message, signature = raw()
    quote = {"message": message.hex(), "signature": signature.hex(), "pcrs": [item.hex() for item in LISTED]}
    report = base64.urlsafe_b64encode(b"HCLA\xff\xfe").decode()
    return {"version": version, "tpm_quote": quote, "hcl_report": report}


def listed() -> dict[str, Any]:
    message, signature = raw()
    return {"message": list(message), "signature": list(signature), "pcrs": [list(item) for item in LISTED]}


VCEK = Authority("SEV-VCEK", ca=False).der


def pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode()


def expected(tee: str, version: bytes, certificates: tuple[bytes, ...], **more: bytes) -> Evidence:
    message, signature = raw()
    pcrs = encode_pcrs({"sha256": dict(enumerate(LISTED))})
    base = Evidence(tee, message, certificates, {"signature": signature, "pcrs": pcrs, "version": version})
    return with_parts(base, hcl_report=b"HCLA\xff\xfe", **more)


def test_kbs_json_of_azure_on_snp() -> None:
    vcek = base64.urlsafe_b64encode(VCEK).decode()
    for version in (1, 2):
        for form in (vcek, vcek.rstrip("=")):
            found = AZURE_SNP.from_envelope(hexed(version) | {"vcek": form})
            assert found == expected("az-snp-vtpm", str(version).encode(), (VCEK,))
    old = {"quote": listed(), "report": list(b"HCLA\xff\xfe"), "vcek": pem(VCEK).decode()}
    assert AZURE_SNP.from_envelope(old) == expected("az-snp-vtpm", b"0", (VCEK,))


def test_kbs_json_of_azure_on_tdx() -> None:
    quote = base64.urlsafe_b64encode(b"\4\0quote").decode()
    for version in (1, 2):
        found = AZURE_TDX.from_envelope(hexed(version) | {"td_quote": quote})
        assert found == expected("az-tdx-vtpm", str(version).encode(), (), td_quote=b"\4\0quote")
    old = {"tpm_quote": listed(), "hcl_report": list(b"HCLA\xff\xfe"), "td_quote": list(b"\4\0quote")}
    assert AZURE_TDX.from_envelope(old) == expected("az-tdx-vtpm", b"0", (), td_quote=b"\4\0quote")


@pytest.mark.parametrize(
    ("change", "expected_code"),
    [
        ({"version": 3}, "field-range"),
        ({"more": 1}, "field-unknown"),
        ({"hcl_report": "*"}, "base64-malformed"),
        ({"vcek": None}, "field-type"),
        ({"tpm_quote": hexed(1)["tpm_quote"] | {"message": ""}}, "hex-malformed"),
    ],
)
def test_azure_json_that_is_refused(change: dict[str, Any], expected_code: str) -> None:
    whole = hexed(1) | {"vcek": base64.urlsafe_b64encode(VCEK).decode()} | change
    assert code(lambda: AZURE_SNP.from_envelope(whole)) == expected_code


@pytest.mark.parametrize("wrong", [[256], [-1], ["0"], [True], [0.5]])
def test_lists_of_other_than_bytes(wrong: list[Any]) -> None:
    old = {"quote": listed(), "report": wrong, "vcek": pem(VCEK).decode()}
    assert code(lambda: AZURE_SNP.from_envelope(old)) == "tpm-malformed"
    old = {"quote": listed() | {"pcrs": [7]}, "report": [], "vcek": ""}
    assert code(lambda: AZURE_SNP.from_envelope(old)) == "tpm-malformed"


def test_an_empty_quote_or_certificate_is_refused() -> None:
    old = {"quote": listed() | {"message": []}, "report": [], "vcek": pem(VCEK).decode()}
    assert code(lambda: AZURE_SNP.from_envelope(old)) == "tpm-malformed"
    assert code(lambda: AZURE_SNP.from_envelope(old | {"vcek": ""})) == "tpm-malformed"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), st.lists, max_leaves=9), st.data())
def test_arbitrary_members_raise_nothing_else(member: Any, data: st.DataObject) -> None:
    whole = hexed(data.draw(st.sampled_from([0, 1]))) | {"vcek": "", "quote": listed()} | envelope()
    whole[data.draw(st.sampled_from(sorted(whole)))] = member
    for reader in (TPM, AZURE_SNP, AZURE_TDX):
        with suppress(MalformedError):
            reader.from_envelope(whole)


# binary containers


def bincode(message: bytes, signature: bytes, pcrs: list[bytes]) -> bytes:
    head = struct.pack("<Q", len(signature)) + signature + struct.pack("<Q", len(message)) + message
    return head + struct.pack("<Q", len(pcrs)) + b"".join(pcrs)


def test_the_bincode_form() -> None:
    message, signature = raw()
    whole = bincode(message, signature, LISTED)
    found = recognise_tpm(whole)
    assert found is not None
    assert (found.report, found.parts["signature"]) == (message, signature)
    assert parse_pcrs(found.parts["pcrs"]) == {"sha256": dict(enumerate(LISTED))}
    for size in range(len(whole)):
        assert code(lambda size=size: from_bincode(whole[:size])) == "tpm-malformed"
    assert code(lambda: from_bincode(whole + b"\0")) == "tpm-malformed"
    assert code(lambda: from_bincode(bincode(message, signature, LISTED * 2))) == "tpm-malformed"


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def member(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def quote_message(quote: Quote) -> bytes:
    ((bank, pcrs),) = quote.selections
    number = {"sha1": 4, "sha256": 11, "sha384": 12}[bank]
    entries = b"".join(
        member(2, (member(1, index) if index else b"") + member(2, value(index, bank))) for index in pcrs
    )
    message = quote.encode()
    return member(1, message) + member(2, sign(message, rsa_key())) + member(3, member(1, number) + entries)


def attestation(*quotes: Quote, more: bytes = b"") -> bytes:
    return member(1, public_area(rsa_key())) + b"".join(member(2, quote_message(quote)) for quote in quotes) + more


SIGNER = qualified(public_area(rsa_key()))
BANKS = tuple(Quote(((bank, ALL),), signer=SIGNER) for bank in ("sha1", "sha256", "sha384"))


def test_go_tpm_tools_attestation() -> None:
    log = agile((0, 4, bytes(4)))
    leaf, issuer = Authority("leaf", key=rsa_key(), ca=False).der, VCEK
    more = member(3, log) + member(4, member(1, b"zone")) + member(6, leaf) + member(7, issuer) + member(9, b"\1")
    found = recognise_tpm(attestation(*BANKS, more=more))
    assert found is not None
    assert found.certificates == (leaf, issuer)
    assert (found.parts["event-log"], found.parts["tee-attestation"]) == (log, b"\1")
    assert found.report == BANKS[2].encode()
    assert (found.parts["quote-2"], found.parts["quote-3"]) == (BANKS[1].encode(), BANKS[0].encode())
    assert sorted(parse_pcrs(found.parts["pcrs"])) == ["sha1", "sha256", "sha384"]
    plain = recognise_tpm(attestation(BANKS[1]))
    assert plain is not None
    assert ok(plain)


@pytest.mark.parametrize(
    ("data", "expected_code"),
    [
        (attestation(), "tpm-malformed"),
        (attestation(*BANKS[:1] * 9), "tpm-malformed"),
        (attestation(BANKS[1]) + member(1, b"x"), "protobuf-malformed"),
        (attestation(BANKS[1])[:-1], "protobuf-malformed"),
        (member(2, member(3, member(1, 11) + member(2, member(2, bytes(32))) * 2)), "tpm-malformed"),
        (member(2, member(3, member(1, 11) + member(2, member(2, bytes(31))))), "tpm-malformed"),
        (member(2, member(3, member(1, 99) + member(2, member(2, bytes(32))))), "tpm-malformed"),
        (attestation(BANKS[1]) + member(2, member(3, member(1, 11))), "tpm-malformed"),
        (member(2, 5), "protobuf-malformed"),
        (member(2, member(3, member(1, b"x"))), "protobuf-malformed"),
    ],
)
def test_attestations_that_are_refused(data: bytes, expected_code: str) -> None:
    assert code(lambda: from_attestation(data)) == expected_code


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x08\x80", b"\x08\x80\0", b"\x08" + b"\x80" * 10 + b"\1", b"\x08" + b"\xff" * 9 + b"\2", b"\x0b",
     b"\x0a\5x", b"\x0d123", b"\0\0", b"\x0f", b"\x08\1" * 4097],
)  # fmt: skip
def test_protocol_buffers_that_are_refused(data: bytes) -> None:
    assert code(lambda: parse_message(data)) == "protobuf-malformed"


def test_protocol_buffers() -> None:
    message = parse_message(member(1, 300) + b"\x15\1\0\0\0" + b"\x19" + bytes(7) + b"\1" + member(4, b"x") * 2)
    assert (one_number(message, 1), one_number(message, 2), one_number(message, 3)) == (300, 1, 1 << 56)
    assert (all_bytes(message, 4), one_bytes(message, 5), one_number(message, 5)) == ((b"x", b"x"), b"", 0)
    assert code(lambda: one_bytes(message, 4)) == code(lambda: one_number(message, 4)) == "protobuf-malformed"
    assert code(lambda: all_bytes(message, 1)) == "protobuf-malformed"


@given(st.dictionaries(st.integers(1, 500), st.integers(0, 2**64 - 1) | st.binary(max_size=200), max_size=9))
def test_protocol_buffers_round(fields: dict[int, int | bytes]) -> None:
    data = b"".join(member(number, content) for number, content in fields.items())
    assert parse_message(data) == {number: (content,) for number, content in fields.items()}


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    for reader in (parse_message, from_attestation, from_bincode, recognise_tpm):
        for head in (b"", b"\x0a\x98\x02\0\1\0\x0b", b"\0\1\0\0\0\0\0\0"):
            with suppress(MalformedError):
                reader(head + data)  # type: ignore[operator]


# several files


def test_a_bare_quote_is_recognised() -> None:
    assert recognise_tpm(WHOLE.encode()) == Evidence("tpm", WHOLE.encode())
    assert recognise_tpm(b"another") is None
    assert code(lambda: recognise_tpm(WHOLE.encode() + b"\0")) == "tpm-malformed"


def test_pieces_in_any_order() -> None:
    base = evidence(WHOLE)
    log = agile((0, 4, bytes(4)))
    pieces = [pem(spki(rsa_key()), "PUBLIC KEY"), log, b"".join(LISTED), base.parts["signature"], base.report]
    for order in (pieces, pieces[::-1]):
        found = assemble(order)
        assert found == with_parts(base, event_log=log)
    found = assemble(pieces[:1] + pieces[2:])
    assert ok(found)
    assert assemble([base.report]) == Evidence("tpm", base.report)


@pytest.mark.parametrize(
    "key", [public_area(rsa_key()), sized(public_area(rsa_key())), spki(rsa_key()), pem(spki(rsa_key()), "PUBLIC KEY")]
)
def test_keys_in_every_form(key: bytes) -> None:
    quote = Quote(signer=SIGNER)
    found = assemble([quote.encode(), sign(quote.encode(), rsa_key(), raw=True), key])
    assert ok(with_parts(found, pcrs=encode_pcrs({"sha256": values((0, 1, 7))})))


def test_an_elliptic_key() -> None:
    quote = Quote(signer=qualified(public_area(ecc_key())))
    for key in (public_area(ecc_key()), sized(public_area(ecc_key())), spki(ecc_key())):
        assert ok(assemble([quote.encode(), sign(quote.encode(), ecc_key()), key]))


def test_containers_and_certificates_are_pieces_too() -> None:
    message, signature = raw()
    found = assemble([bincode(message, signature, LISTED), pem(VCEK)])
    assert (found.report, found.certificates) == (message, (VCEK,))
    assert assemble([message, VCEK, VCEK]).certificates == (VCEK,)
    found = assemble([attestation(*BANKS)])
    assert found == from_attestation(attestation(*BANKS))
    two = assemble([BANKS[0].encode(), BANKS[1].encode(), sign(BANKS[0].encode(), rsa_key())])
    assert (two.parts["quote-2"], "signature-2" in two.parts) == (BANKS[1].encode(), False)


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_lists_of_values(bank: str) -> None:
    data = b"".join(value(index, bank) for index in ALL)
    found = assemble([WHOLE.encode(), data])
    assert parse_pcrs(found.parts["pcrs"]) == {bank: values(ALL, bank)}
    assert pcr_part([]) == b""


def test_pieces_that_make_nothing() -> None:
    message, signature = raw()
    assert code(lambda: assemble([])) == "tpm-pieces-incomplete"
    assert code(lambda: assemble([signature])) == "tpm-pieces-incomplete"
    assert code(lambda: assemble([message, signature, signature])) == "tpm-pieces-incomplete"
    assert code(lambda: assemble([message] * 9)) == "tpm-pieces-incomplete"
    assert code(lambda: assemble([message, b"nothing"])) == "tpm-piece-unknown"
    assert code(lambda: assemble([message, spki(rsa_key()), spki(rsa_key(1))])) == "tpm-piece-twice"
    assert code(lambda: assemble([message] + [VCEK] * PIECES)) == "tpm-piece-twice"
    assert assemble([message, spki(rsa_key()), spki(rsa_key())]).parts["ak"] == spki(rsa_key())


def test_a_certificate_that_is_as_long_as_a_signature() -> None:
    made = (Authority("x" * (1 + size % 64), ca=False).der for size in range(1000))
    der = next(item for item in made if len(item) == 384)
    assert assemble([WHOLE.encode(), der]).certificates == (der,)


def test_what_only_begins_like_der_is_unknown() -> None:
    for wrong in (b"0", b"0\x82", b"0\x05x", VCEK[:-1]):
        assert code(lambda wrong=wrong: assemble([wrong])) == "tpm-piece-unknown"


@given(st.binary(max_size=200))
def test_arbitrary_pieces_raise_nothing_else(data: bytes) -> None:
    heads = (b"", b"\x30\x82", b"-----BEGIN PUBLIC KEY-----", b"HCLA", b"\xffTCG", b"\0\x14\0\x0b", b"\0\1\0\x0b")
    for head in heads:
        with suppress(MalformedError):
            assemble([head + data])


def test_json_text_of_the_whole() -> None:
    from kokon.tee.recognise import recognise

    assert recognise(json.dumps(envelope()).encode()) == evidence(WHOLE)
    assert recognise(WHOLE.encode().hex().encode()) == Evidence("tpm", WHOLE.encode())
