"""CoRIM: envelopes of all drafts, signatures, dates, and what of a CoMID becomes a reference value."""

import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.appraisal.corim import Corim, load_public_key, read_corim
from kokon.appraisal.reference import ReferenceValues
from kokon.errors import KokonError, MalformedError, StaleError, UntrustedError
from kokon.tee.cose import sig_structure

NOW = datetime(2026, 11, 23, tzinfo=UTC)
D32, D48, E48 = bytes(range(32)), bytes(range(48)), bytes(range(1, 49))
AMD_CLASS = cbor2.CBORTag(37, uuid.UUID("d05e6d1b-9f46-4ae2-a610-ce3e6ee7e153").bytes)
TDX = {0: {1: "Intel", 2: "TDX"}}
SGX = {0: {1: "Intel", 2: "SGX"}}
SNP = {0: {0: AMD_CLASS}}


def tag(number: int, value: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(number, value)


def dumps(value: Any) -> bytes:
    return cbor2.dumps(value)


def digests(*values: bytes) -> list[list[Any]]:
    return [[{32: 1, 48: 7, 64: 8}[len(value)], value] for value in values]


def measured(mval: dict[Any, Any], mkey: Any = None) -> dict[int, Any]:
    return ({} if mkey is None else {0: mkey}) | {1: mval}


def comid(*triples: Any, **more: Any) -> dict[int, Any]:
    return {1: {0: "module"}, 4: {0: list(triples)} | {int(key[1:]): value for key, value in more.items()}}


def manifest(*comids: Any, **fields: Any) -> dict[int, Any]:
    members = {0: "name", 1: [tag(506, dumps(one)) for one in comids]}
    return members | {int(key[1:]): value for key, value in fields.items()}


def unsigned(*triples: Any, **fields: Any) -> Corim:
    return read_corim(dumps(tag(501, manifest(comid(*triples), **fields))), unsigned=True)


def values(environment: Any, *measurements: Any) -> ReferenceValues:
    (found,) = unsigned([environment, list(measurements)]).values
    return found


def refused(environment: Any, *measurements: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        unsigned([environment, list(measurements)])
    return caught.value.code


@cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def public(private: Any = None, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    found: bytes = (private or key()).public_key().public_bytes(Encoding.DER, form)
    return found


def sign1(payload: bytes, header: dict[Any, Any]) -> list[Any]:
    protected = dumps({1: -35, 3: "application/rim+cbor"} | header)
    r, s = decode_dss_signature(key().sign(sig_structure(protected, payload), ec.ECDSA(SHA384())))
    return [protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")]


def signed(
    members: dict[int, Any] | None = None, header: dict[Any, Any] | None = None, *, tagged: bool = True
) -> bytes:
    members = members or manifest(comid([TDX, [measured({2: digests(D48)})]]))
    payload = dumps(tag(501, members) if tagged else members)
    return dumps(tag(18, sign1(payload, header or {})))


def test_a_signed_manifest() -> None:
    meta = dumps({0: {0: "Author"}, 1: {1: tag(1, 1_900_000_000)}})
    corim = read_corim(signed(header={8: meta}), key=public())
    assert corim.signed
    assert corim.signer == "Author"
    assert corim.identifier == "name"
    (found,) = corim.references(NOW)
    assert found.measurements == (D48,)
    assert found.tee == "tdx"
    assert found.title == "Intel TDX of CoRIM name, signed by Author"
    assert found.not_after == datetime.fromtimestamp(1_900_000_000, UTC)


def test_envelopes_of_earlier_drafts() -> None:
    inner = cbor2.loads(signed(tagged=False))
    forms = [inner, tag(500, inner), tag(502, inner.value), tag(500, tag(502, inner.value)), tag(502, inner)]
    for form in forms:
        assert read_corim(dumps(form), key=public()).values[0].measurements == (D48,)
    plain = tag(501, manifest(comid([TDX, [measured({2: digests(D48)})]])))
    assert read_corim(dumps(tag(500, plain)), unsigned=True).values
    within = dict(plain.value) | {1: [dumps(tag(506, comid([TDX, [measured({2: digests(D48)})]])))]}
    assert read_corim(dumps(tag(501, within)), unsigned=True).values


@pytest.mark.parametrize("change", ["payload", "signature", "header", "key", "no key"])
def test_a_signature_that_does_not_hold(change: str) -> None:
    items = cbor2.loads(signed()).value
    other = dumps(tag(501, manifest(comid([TDX, [measured({2: digests(E48)})]]))))
    if change == "payload":
        items = [*items[:2], other, items[3]]
    elif change == "signature":
        items = [*items[:3], bytes(96)]
    elif change == "header":
        items = [dumps({1: -35, 8: dumps({0: {0: "X"}})}), *items[1:]]
    used = None if change == "no key" else public(ec.generate_private_key(ec.SECP384R1()) if change == "key" else None)
    with pytest.raises(UntrustedError) as caught:
        read_corim(dumps(tag(18, items)), key=used, unsigned=True)
    assert caught.value.code == "corim-signature"


def test_unsigned_only_if_allowed() -> None:
    data = dumps(tag(501, manifest(comid([TDX, [measured({2: digests(D48)})]]))))
    with pytest.raises(UntrustedError) as caught:
        read_corim(data, key=public())
    assert caught.value.code == "corim-unsigned"
    assert not read_corim(data, unsigned=True).signed


@pytest.mark.parametrize(
    "data",
    [
        dumps({0: "name"}),
        dumps(tag(506, b"")),
        dumps(tag(18, sign1(b"", {}))),
        dumps(tag(18, [*sign1(b"", {})[:2], None, b""])),
        dumps(tag(18, sign1(dumps({}), {3: "text/plain"}))),
        dumps(tag(18, sign1(dumps({}), {8: "text"}))),
        dumps(tag(18, sign1(dumps({}), {8: dumps({})}))),
        dumps(tag(18, sign1(dumps({0: "n", 1: []}), {15: 7}))),
        dumps(tag(501, [])),
        dumps(tag(501, {})),
        dumps(tag(501, {0: "name"})),
        dumps(tag(501, {0: "name", 1: []})),
        dumps(tag(501, {0: 5, 1: []})),
        dumps(tag(501, {0: "name", 1: [tag(505, b"")]})),
        dumps(tag(501, {0: "name", 1: [tag(506, "text")]})),
        dumps(tag(501, {0: "name", 1: [tag(506, b"")]})),
        dumps(tag(501, {0: "name", 1: [b"\xa0"]})),
        dumps(tag(501, {0: "name", 1: [7]})),
        dumps(tag(501, manifest(comid(), _4={0: 5, 2: 5}))),
        dumps(tag(501, {0: "name", 1: [tag(506, dumps({4: {}}))]})),
        dumps(tag(501, {0: "name", 1: [tag(505, b"")] * 65})),
        dumps(tag(501, manifest(comid(), _4={0: 5}))),
        dumps(tag(501, manifest(comid(), _4={1: "soon"}))),
        dumps(tag(501, manifest(comid(), _4={1: True}))),
        dumps(tag(501, manifest(comid(), _4={1: 2**62}))),
        dumps(tag(501, manifest(comid(), _4={1: -5}))),
        b"\x00" * 5,
        bytes(2 << 20),
    ],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_corim(data, key=public(), unsigned=True)
    assert caught.value.code in ("corim-malformed", "cbor-malformed", "cbor-too-large")


def test_dates_are_the_narrowest() -> None:
    day = 86_400
    meta = dumps({0: {0: "Author"}, 1: {0: tag(1, 10 * day), 1: tag(1, 90 * day)}})
    header = {8: meta, 15: {1: "issuer", 5: 20.5 * day, 4: 80 * day}}
    members = manifest(comid([TDX, [measured({2: digests(D48)})]]), _4={0: tag(1, 15 * day), 1: 85 * day})
    corim = read_corim(signed(members, header), key=public())
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert corim.not_before == epoch + timedelta(days=20.5)
    assert corim.not_after == epoch + timedelta(days=80)
    assert corim.values[0].not_after == corim.not_after
    with pytest.raises(StaleError) as caught:
        corim.references(epoch + timedelta(days=20))
    assert caught.value.code == "corim-not-yet-valid"
    assert corim.references(epoch + timedelta(days=200)) == corim.values


def test_the_issuer_of_cwt_claims_signs() -> None:
    assert read_corim(signed(header={15: {1: "issuer"}}), key=public()).signer == "issuer"
    assert read_corim(signed(), key=public()).signer == ""


def test_keys_and_certificates() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "author")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key().public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key(), SHA256())
    )
    forms = [certificate.public_bytes(encoding) for encoding in (Encoding.PEM, Encoding.DER)]
    forms.append(key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for form in forms:
        assert read_corim(signed(), key=form).signed
    for form in (b"", b"junk", b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN CERTIFICATE-----", bytes(20_000)):
        with pytest.raises(MalformedError) as caught:
            load_public_key(form)
        assert caught.value.code == "corim-key"


def test_eddsa() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    payload, protected = dumps(manifest(comid([TDX, [measured({2: digests(D48)})]]))), dumps({1: -8})
    message = [protected, {4: b"kid"}, payload, private.sign(sig_structure(protected, payload))]
    assert read_corim(dumps(tag(18, message)), key=public(private)).values


def test_registers_by_name() -> None:
    found = values(
        TDX,
        measured({2: digests(D48)}, "MRTD"),
        measured({2: digests(E48)}, "RTMR1"),
        measured({4: tag(560, D48)}, "rtmr2"),
        measured({2: digests(D48)}, "rtmr2"),
        measured({4: E48}, "rtmr2"),
    )
    assert found.measurements == (D48,)
    assert found.registers == {"rtmr1": (E48,), "rtmr2": (D48, E48)}


def test_integrity_registers() -> None:
    registers = {14: {0: digests(D32), "drtm": digests(D48)}}
    assert values({0: {2: "tpm"}}, measured(registers)).registers == {"pcr0": (D32,), "drtm": (D48,)}
    assert values(TDX, measured(registers)).registers == {"rtmr0": (D32,), "drtm": (D48,)}
    assert values({0: {2: "?"}}, measured(registers, "rtmr")).registers == {"rtmr0": (D32,), "drtm": (D48,)}


def test_pcrs_by_number() -> None:
    found = values({0: {2: "Nitro"}}, measured({2: digests(D48)}, 8))
    assert (found.tee, found.registers) == ("nitro", {"pcr8": (D48,)})


def test_amds_profile() -> None:
    corim = unsigned(
        [
            SNP | {1: tag(560, b"chip"), 2: tag(560, b"group")},
            [
                measured({0: {0: "image"}, 1: tag(553, 4), 2: digests(D48), 3: {3: False}}, 0),
                measured({4: 0}, 2),
                measured({4: tag(560, D48)}, 5),
                measured({1: tag(552, 0xDB16000000000004)}, 7),
                measured({0: {0: "1.55.8"}, 4: tag(560, D32)}, 8),
            ],
        ]
    )
    (found,) = corim.values
    assert found.tee == "snp"
    assert found.measurements == (D48,)
    assert found.security_version == 4
    assert found.signers == (D48,)
    assert found.host_data == D32
    assert found.registers == {}
    assert set(corim.not_compared) == {
        "environment instance",
        "environment group",
        "measurement: version",
        "measurement: flags",
        "amd-2: raw-value",
        "amd-7: svn",
        "host_data: version",
    }


def test_intels_profile() -> None:
    extensions = {-83: digests(D32)[0], -84: tag(60010, [6, digests(D32, D48)]), -73: tag(60010, [2, 5]), -85: 9}
    found = values(SGX, measured(extensions | {-82: b"a", -89: ["INTEL-SA-00001"]}))
    assert found.measurements == (D32,)
    assert found.signers == (D32, D48)
    assert (found.security_version, found.product_id) == (5, 9)
    assert values(SGX, measured({-83: digests(D32)})).measurements == (D32,)
    assert values(SGX, measured({-83: tag(60020, [6, digests(D32)])})).measurements == (D32,)


def test_each_triple_is_one_launch() -> None:
    corim = unsigned(
        [TDX, [measured({2: digests(D48)}, "mrtd"), measured({2: digests(D48)}, "rtmr1")]],
        [TDX, [measured({2: digests(E48)}, "mrtd"), measured({2: digests(E48)}, "rtmr1")]],
        [{0: {2: "quoting enclave"}}, [measured({1: 3})]],
    )
    assert [value.measurements for value in corim.values] == [(D48,), (E48,)]
    assert "quoting enclave without measurements of a launch" in corim.not_compared


def test_what_is_passed_over_is_told() -> None:
    triples = {"_1": [], "_3": []}
    one = comid([TDX, [measured({2: digests(D48)}) | {2: ["key"]}]], **triples)
    members = manifest(one, _2=[{0: "https://example"}], _3=tag(32, "tag:profile"))
    members[1] += [tag(505, b""), tag(508, b"")]
    corim = read_corim(dumps(tag(501, members)), unsigned=True)
    assert set(corim.not_compared) == {
        "triples 1",
        "triples 3",
        "authorized-by",
        "dependent manifests",
        "tag 505",
        "tag 508",
    }
    assert corim.profile == "tag:profile"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (tag(111, bytes.fromhex("6086480186f84d011001")), "2.16.840.1.113741.1.16.1"),
        (tag(111, bytes.fromhex("2b0601")), "1.3.6.1"),
        ([tag(32, "a:b"), "c:d"], "a:b, c:d"),
    ],
)
def test_profiles(value: Any, expected: str) -> None:
    corim = unsigned([TDX, [measured({2: digests(D48)})]], **({} if value is None else {"_3": value}))
    assert corim.profile == expected


@pytest.mark.parametrize("value", ["text", bytes(16), uuid.UUID(int=0)])
def test_identifiers(value: Any) -> None:
    members = manifest(comid([TDX, [measured({2: digests(D48)})]])) | {0: value}
    expected = "text" if value == "text" else str(uuid.UUID(int=0))
    assert read_corim(dumps(tag(501, members)), unsigned=True).identifier == expected


@pytest.mark.parametrize("content", ["", "80", "2a86", "01" * 65])
def test_object_identifiers_that_are_none(content: str) -> None:
    assert refused({0: {0: tag(111, bytes.fromhex(content))}}, measured({2: digests(D48)})) == "corim-malformed"


@pytest.mark.parametrize(
    ("mval", "mkey"),
    [
        ({5: b"mask"}, None),
        ({4: tag(563, [b"value", b"mask"])}, None),
        ({4: "text"}, None),
        ({4: bytes(2000)}, None),
        ({15: tag(564, [1, None])}, None),
        ({99: 1}, None),
        ({"name": 1}, None),
        ({2: [[2, bytes(16)]]}, None),
        ({2: [["md5", bytes(16)]]}, None),
        ({-83: tag(60010, [7, [[1, D32]]])}, None),
        ({-83: tag(60011, [6, [[1, D32]]])}, None),
        ({-83: tag(60010, [1, D32, D32])}, None),
        ({-83: tag(60010, ["member", [[1, D32]]])}, None),
        ({-73: tag(60010, [4, 5])}, None),
        ({2: [[1, D32]]}, 5),
    ],
)
def test_what_would_match_too_much_is_refused(mval: dict[Any, Any], mkey: Any) -> None:
    assert refused(SGX, measured(mval, mkey)) == "corim-unsupported"


def test_two_values_of_host_data() -> None:
    assert refused(SNP, measured({4: D32}, 8), measured({4: bytes(32)}, 8)) == "corim-unsupported"


@pytest.mark.parametrize(
    ("environment", "measurement"),
    [
        ([], measured({2: digests(D48)})),
        ({0: []}, measured({2: digests(D48)})),
        ({0: {2: 7}}, measured({2: digests(D48)})),
        ({0: {0: 7}}, measured({2: digests(D48)})),
        (SGX, []),
        (SGX, {}),
        (SGX, measured({2: []})),
        (SGX, measured({2: {}})),
        (SGX, measured({2: [[1]]})),
        (SGX, measured({2: [[True, D32]]})),
        (SGX, measured({2: [[1, D48]]})),
        (SGX, measured({2: [[1, "text"]]})),
        (SGX, measured({2: [[1, D32]] * 257})),
        (SGX, measured({1: -1})),
        (SGX, measured({1: True})),
        (SGX, measured({1: tag(552, "3")})),
        (SGX, measured({-85: b"x"})),
        (SGX, measured({14: []})),
        (SGX, measured({14: {b"x": digests(D48)}})),
        (SGX, measured({2: digests(D48)}, True)),
        (SGX, measured({2: digests(D48)}, ["x"])),
        (SGX, measured({2: digests(D48)}, "x" * 2000)),
    ],
)
def test_what_no_comid_looks_like(environment: Any, measurement: Any) -> None:
    assert refused(environment, measurement) == "corim-malformed"


@pytest.mark.parametrize("triple", [[], [TDX], [TDX, [], []], "text", {}])
def test_what_no_triple_looks_like(triple: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        unsigned(triple)
    assert caught.value.code == "corim-malformed"


anything = st.recursive(
    st.integers(-100, 100) | st.binary(max_size=48) | st.text(max_size=5) | st.booleans() | st.none() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-90, 20), inner, max_size=5)
        | st.builds(cbor2.CBORTag, st.sampled_from([37, 111, 552, 553, 560, 60010]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(anything, anything, anything)
def test_anything_in_a_manifest_is_read_or_refused(environment: Any, mkey: Any, mval: Any) -> None:
    forms = [
        tag(501, manifest(comid([environment, [{0: mkey, 1: mval}]]))),
        tag(501, manifest(comid([TDX, [{0: mkey, 1: {2: digests(D48), 4: mval}}]]), _3=environment)),
        tag(501, manifest(mval, _4=environment)),
        tag(501, {0: mkey, 1: environment}),
        tag(18, [dumps({1: -35, 15: environment, 8: dumps(mval)}), {}, dumps(mkey), bytes(96)]),
        tag(501, mval),
        environment,
    ]
    for form in forms:
        try:
            read_corim(dumps(form), key=public(), unsigned=True)
        except KokonError as error:
            assert error.code.startswith(("corim-", "cbor-", "cose-"))  # noqa: PT017


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(KokonError):
        read_corim(data, key=public(), unsigned=True)


@given(st.lists(st.binary(min_size=48, max_size=48), min_size=1, max_size=5, unique=True))
def test_what_is_written_is_read(found: list[bytes]) -> None:
    assert values(TDX, measured({2: digests(*found)}, "mrtd")).measurements == tuple(found)


def test_no_flipped_bit_of_a_signed_manifest_is_accepted() -> None:
    data = signed()
    good = read_corim(data, key=public())
    for position in range(len(data)):
        other = data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]
        try:
            assert read_corim(other, key=public()) == good
        except KokonError:
            continue
