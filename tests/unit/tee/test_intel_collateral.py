"""Intel's collateral: documents, PEM, and the forms in which collateral is handed around."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_kit import (
    CA,
    FMSPC,
    NOW,
    QE_SIGNER,
    ROOT,
    SIGNING,
    World,
    collateral_json,
    der_of,
    document,
    enclave,
    level,
    lists,
    module,
    pem,
    qe_identity,
    standing,
    tcb_info,
)

from kokon.errors import MalformedError
from kokon.tee.intel.collateral import COLLATERAL_LIMIT, is_signed_by, read_collateral, read_signed_document
from kokon.tee.intel.documents import LEVELS_LIMIT, parse_qe_identity, parse_tcb_info
from kokon.tee.intel.known import certificates
from kokon.tee.intel.pem import BLOCKS_LIMIT, CERTIFICATE, CRL, PEM_LIMIT, read_blocks


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def codes(function: Any, data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        function(data)
    return caught.value.code


def sent(content: dict[str, Any], *, spaces: bool = False, swapped: bool = False) -> bytes:
    """As Intel's service sends it, perhaps with other white space and order around the object."""
    signed = document(content)
    name = b"tcbInfo" if signed.kind == "tcb-info" else b"enclaveIdentity"
    parts = [b'"%s":%s' % (name, signed.body), b'"signature":"%s"' % signed.signature.hex().encode()]
    if swapped:
        parts.reverse()
    comma, colon = (b" ,\n\t", b'" : ') if spaces else (b",", b'":')
    joined = comma.join(parts)
    if spaces:
        joined = joined.replace(b'"%s":' % name, b'"' + name + colon, 1).replace(
            b'"signature":', b'"signature"\t:\r\n', 1
        )
    return b" {" + joined + b"} \n" if spaces else b"{" + joined + b"}"


def test_tcb_info_for_tdx() -> None:
    levels = [
        level(tdx=(5, 0, 5, *(0,) * 13)),
        level("OutOfDate", (4,) * 16, tdx=(0,) * 16, advisories=("INTEL-SA-1",)),
    ]
    info = parse_tcb_info(as_json(tcb_info(tcbLevels=levels, tdxModuleIdentities=[module(3, enclave(2), enclave(5))])))
    assert (info.tee, info.version, info.fmspc, info.pce_id, info.evaluation) == ("tdx", 3, FMSPC, bytes(2), 17)
    assert info.issue_date < NOW < info.next_update
    assert [(one.sgx[0], one.level.status) for one in info.levels] == [(5, "UpToDate"), (4, "OutOfDate")]
    assert info.levels[1].level.advisories == ("INTEL-SA-1",)
    assert info.levels[0].tdx == (5, 0, 5, *(0,) * 13)
    assert info.module is not None
    assert info.module.id == ""
    assert [(one.id, [two.isv_svn for two in one.levels]) for one in info.modules] == [("TDX_03", [5, 2])]


def test_tcb_info_for_sgx_in_both_versions() -> None:
    new = parse_tcb_info(as_json(tcb_info("sgx")))
    svns: dict[str, Any] = {f"sgxtcbcomp{index:02}svn": index for index in range(1, 17)}
    old_level = {"tcb": svns | {"pcesvn": 9}, "tcbDate": "2020-01-01T00:00:00Z", "tcbStatus": "UpToDate"}
    content = tcb_info("sgx", version=2, tcbLevels=[old_level])
    del content["id"]
    old = parse_tcb_info(as_json(content))
    assert (new.tee, old.tee) == ("sgx", "sgx")
    assert (new.module, new.modules, new.levels[0].tdx) == (None, (), None)
    assert old.levels[0].sgx == tuple(range(1, 17))
    assert old.levels[0].pce_svn == 9


def test_levels_are_sorted() -> None:
    levels = [level(pce_svn=9), level(pce_svn=11), level(sgx=(6,) * 16, pce_svn=1)]
    info = parse_tcb_info(as_json(tcb_info("sgx", tcbLevels=levels)))
    assert [(one.sgx[0], one.pce_svn) for one in info.levels] == [(6, 1), (5, 11), (5, 9)]


def test_qe_identity() -> None:
    found = parse_qe_identity(as_json(qe_identity(tcbLevels=[enclave(4, "OutOfDate", ("INTEL-SA-2",)), enclave(8)])))
    assert (found.tee, found.version, found.evaluation, found.isv_prod_id) == ("tdx", 2, 17, 1)
    assert found.mr_signer == QE_SIGNER
    assert found.attributes_mask == bytes.fromhex("FBFFFFFFFFFFFFFF") + bytes(8)
    assert [one.isv_svn for one in found.levels] == [8, 4]
    assert parse_qe_identity(as_json(qe_identity("sgx"))).tee == "sgx"


def test_members_that_intel_may_add() -> None:
    parse_tcb_info(as_json(tcb_info(newMember={"a": 1})))
    parse_qe_identity(as_json(qe_identity(newMember=[])))


BROKEN: list[tuple[str, Any]] = [
    ("collateral-malformed", {"version": 1}),
    ("collateral-malformed", {"version": 4}),
    ("collateral-malformed", {"version": 2}),
    ("collateral-malformed", {"id": "QVE"}),
    ("collateral-malformed", {"tcbType": 1}),
    ("collateral-malformed", {"issueDate": "2018-16-06T10:12:17Z"}),
    ("collateral-malformed", {"issueDate": "2018-06-06 10:12:17Z"}),
    ("collateral-malformed", {"nextUpdate": "2018-06-06T10:12:17+00:00"}),
    ("collateral-malformed", {"tcbLevels": [level(tdx=(5,) * 15)]}),
    ("collateral-malformed", {"tcbLevels": [level(tdx=(5,) * 16) | {"advisoryIDs": [1]}]}),
    ("field-missing", {"tcbLevels": [level()]}),
    ("field-range", {"tcbLevels": [level(tdx=(256,) * 16)]}),
    ("field-range", {"tcbEvaluationDataNumber": -1}),
    ("field-type", {"tcbLevels": [7]}),
    ("field-type", {"tdxModule": []}),
    ("field-too-long", {"tcbLevels": [level(tdx=(5,) * 16)] * (LEVELS_LIMIT + 1)}),
    ("size-mismatch", {"fmspc": "00"}),
    ("hex-malformed", {"pceId": "zzzz"}),
]


@pytest.mark.parametrize(("code", "changes"), BROKEN)
def test_broken_tcb_info(code: str, changes: dict[str, Any]) -> None:
    assert codes(parse_tcb_info, as_json(tcb_info(**changes))) == code
    name = next(iter(changes))
    if name != "version":
        content = tcb_info()
        del content[name]
        assert codes(parse_tcb_info, as_json(content)) == "field-missing"


def test_broken_identities() -> None:
    assert codes(parse_qe_identity, as_json(qe_identity(id="QVE"))) == "collateral-malformed"
    assert codes(parse_qe_identity, as_json(qe_identity(version=1))) == "collateral-malformed"
    assert codes(parse_qe_identity, as_json(qe_identity(mrsigner="00"))) == "size-mismatch"
    assert codes(parse_qe_identity, b"[]") == "field-type"
    assert codes(parse_qe_identity, b"{") == "json-malformed"
    assert codes(parse_qe_identity, b" " * (1 << 20)) == "json-too-large"


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("content", [tcb_info(), qe_identity(note='{"signature":"}{"} \\" \u00e9')])
def test_the_inner_object_is_kept_as_it_was_sent(content: dict[str, Any], spaces: bool, swapped: bool) -> None:
    data = sent(content, spaces=spaces, swapped=swapped)
    found = read_signed_document(data)
    assert json.loads(found.body) == content
    assert is_signed_by(found, SIGNING.certificate)
    assert not is_signed_by(found, CA.certificate)
    assert read_collateral(data).documents == (found,)


def test_white_space_in_the_inner_object_counts() -> None:
    body = json.dumps(qe_identity(), indent=3).encode()
    found = read_signed_document(b'{"enclaveIdentity":' + body + b',"signature":"' + b"00" * 64 + b'"}')
    assert found.body == body


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"enclaveIdentity":{},"signature":""}',
        b'{"tcbInfo":{},"signature":"","more":1}',
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    assert codes(read_signed_document, data) == "collateral-malformed"


def test_signatures_have_64_bytes() -> None:
    data = sent(tcb_info())
    assert codes(read_signed_document, data[:-4] + data[-2:]) == "size-mismatch"


def test_the_flat_form() -> None:
    endorsements = standing()
    found = read_collateral(collateral_json(endorsements).encode())
    assert found.documents == endorsements.documents
    assert found.crls == lists()
    assert found.certificates == (der_of(CA), der_of(ROOT))
    more = json.loads(collateral_json(endorsements)) | {"pck_certificate_chain": pem(SIGNING).decode()}
    assert read_collateral(as_json(more)).certificates == (der_of(CA), der_of(ROOT), der_of(SIGNING))


def test_lists_in_hex_and_pem() -> None:
    der = lists()[0]
    assert read_collateral(der.hex().encode() + b"\n").crls == (der,)
    armoured = "-----BEGIN X509 CRL-----\n" + base64.encodebytes(der).decode() + "-----END X509 CRL-----\n"
    assert read_collateral(as_json({"root_ca_crl": armoured})).crls == (der,)
    assert codes(read_collateral, as_json({"root_ca_crl": armoured * 2})) == "collateral-malformed"
    assert codes(read_collateral, as_json({"root_ca_crl": "30zz"})) == "collateral-malformed"


@pytest.mark.parametrize("data", [b"{}", b"[]", b'"text"', b'{"quote":"00"}', b" " * (COLLATERAL_LIMIT + 1)])
def test_what_is_no_collateral(data: bytes) -> None:
    assert codes(read_collateral, data) == "collateral-malformed"


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_are_no_collateral(data: bytes) -> None:
    for function in (read_collateral, read_signed_document, parse_tcb_info, parse_qe_identity):
        codes(function, data)


FLAT = collateral_json(World("sgx").endorsements).encode()


@given(st.integers(0, len(FLAT) - 1), st.binary(min_size=1, max_size=3))
def test_bytes_replaced_in_collateral(offset: int, data: bytes) -> None:
    with suppress(MalformedError):
        read_collateral(FLAT[:offset] + data + FLAT[offset + len(data) :])


def test_pem_and_der() -> None:
    both = (der_of(CA), der_of(ROOT))
    assert read_blocks(pem(CA, ROOT) + b"\0", CERTIFICATE) == both
    assert read_blocks(b"".join(both) + b"\0\0", CERTIFICATE) == both
    assert read_blocks(pem(CA).replace(b"\n", b"\r\n"), CERTIFICATE) == both[:1]
    assert read_blocks(b"", CERTIFICATE) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"text" + pem(CA),
        pem(CA) + b"text",
        pem(CA)[:-10],
        pem(CA).replace(b"M", b"*", 1),
        pem(CA).replace(b"CERTIFICATE", b"X509 CRL"),
        der_of(CA)[:-1],
        b"\x30",
        b"\x30\x80\0\0",
        b"\x30\x84\0\0\0\0",
        pem(CA) * (BLOCKS_LIMIT + 1),
        b"A" * (PEM_LIMIT + 1),
    ],
)
def test_broken_pem(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_blocks(data, CERTIFICATE)
    assert caught.value.code == "pem-malformed"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_pem(data: bytes) -> None:
    with suppress(MalformedError):
        read_blocks(data, CRL)


def test_built_in_certificates_are_intels() -> None:
    from kokon.tee.anchors import INTEL
    from kokon.tee.certificates import parse_certificate

    root, *others = (parse_certificate(der) for der in certificates())
    assert root.fingerprint in INTEL
    assert root.issued(root)
    assert all(root.issued(other) for other in others)
    assert [other.name for other in others] == [
        "Intel SGX PCK Platform CA",
        "Intel SGX PCK Processor CA",
        "Intel SGX TCB Signing",
        "Intel SGX TCB Signing",
    ]
