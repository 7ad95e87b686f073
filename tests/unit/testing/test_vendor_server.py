"""The fake vendor's services, asked over real HTTP."""

import http.client
import socket
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.intel.collateral import read_signed_document
from kokon.tee.intel.documents import parse_tcb_info
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.registry import verify
from kokon.tee.revocation import parse_crl
from kokon.testing import FakeVendor
from kokon.testing.answers import answer
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor.amd import Tcb
from kokon.testing.vendor.intel_pki import Platform
from kokon.testing.vendor.intel_quote import QuotingEnclave

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
TCB = Tcb()
FMSPC = VENDOR.platforms[0].fmspc.hex()
SPL = f"blSPL={TCB.bootloader:02}&teeSPL={TCB.tee:02}&snpSPL={TCB.snp:02}&ucodeSPL={TCB.microcode:02}"
VCEK = f"/vcek/v1/Milan/{VENDOR.amd.chip_id('Milan').hex()}?{SPL}"
TCB_INFO = f"/sgx/certification/v4/tcb?fmspc={FMSPC}&update=standard"
PCK_CRL = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with VendorServer(VENDOR) as running:
        yield running


def connect(server: VendorServer, timeout: float = 5) -> http.client.HTTPConnection:
    host, port = server.url.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=timeout)


def get(server: VendorServer, target: str, timeout: float = 5) -> tuple[int, bytes, dict[str, str]]:
    connection = connect(server, timeout)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def test_amd_answers_are_endorsements(server: VendorServer) -> None:
    evidence = VENDOR.snp(certificates="none")
    leaf, crl = (get(server, target)[1] for target in (VCEK, "/vcek/v1/Milan/crl"))
    chain = read_blocks(get(server, "/vcek/v1/Milan/cert_chain")[1], CERTIFICATE)
    held = Endorsements((leaf, *chain), (crl,), accepted_simulated=VENDOR.roots)
    claims = verify(evidence, held, NOW)
    assert claims.ok
    assert not claims.needs
    assert server.count("/vcek/v1/") == 3


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_amd_chains(server: VendorServer, product: str, kind: str) -> None:
    _status, body, _headers = get(server, f"/{kind}/v1/{product}/cert_chain")
    names = [parse_certificate(der).name for der in read_blocks(body, CERTIFICATE)]
    assert names == [f"SEV-VLEK-{product}" if kind == "vlek" else f"SEV-{product}", f"Kokon simulated ARK {product}"]


def test_intel_answers_are_endorsements(server: VendorServer) -> None:
    evidence = VENDOR.tdx()
    documents = []
    for target in (f"/tdx/certification/v4/tcb?fmspc={FMSPC}", "/tdx/certification/v4/qe/identity?update=standard"):
        _status, body, headers = get(server, target)
        found = headers.get("tcb-info-issuer-chain") or headers["sgx-enclave-identity-issuer-chain"]
        documents.append(read_signed_document(body, read_blocks(unquote(found).encode(), CERTIFICATE)))
    crls = (get(server, PCK_CRL)[1], bytes.fromhex(get(server, "/sgx/certification/v4/rootcacrl")[1].decode()))
    assert get(server, "/IntelSGXRootCA.der")[1] == crls[1]
    claims = verify(evidence, Endorsements((), crls, tuple(documents), VENDOR.elliptic_roots), NOW)
    assert claims.ok, claims.failures


def test_pck_certificates_by_encrypted_id(server: VendorServer) -> None:
    platform = VENDOR.platforms[0]
    ppid = VENDOR.intel.encrypted_ppid(platform).hex()
    target = (
        f"/sgx/certification/v4/pckcert?encrypted_ppid={ppid}&cpusvn={platform.raw_cpusvn.hex()}&pcesvn=0b00&pceid=0000"
    )
    status, body, headers = get(server, target)
    assert (status, read_blocks(body, CERTIFICATE)) == (200, (VENDOR.intel.pck(platform),))
    assert (headers["sgx-fmspc"], headers["sgx-pck-certificate-ca-type"]) == (FMSPC.upper(), "platform")
    quote = VENDOR.sgx(enclave=QuotingEnclave(certification="encrypted-ppid"))
    need = next(need for need in verify(quote, Endorsements(), NOW).needs if need.kind == "pck")
    assert dict(need.parameters)["encrypted-ppid"] == ppid
    assert get(server, target.replace("0b00", "0c00"))[0] == 404
    server.mode = Mode.WRONG
    assert read_blocks(get(server, target)[1], CERTIFICATE) == (VENDOR.intel.pck(Platform(chip="somebody else's")),)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/vcek/v1/Naples/cert_chain", 404),
        ("/vcek/v1/Milan/crl/more", 404),
        ("/vlek/v1/Milan/00", 404),
        ("/vcek/v1/Milan/zz", 400),
        (VCEK.replace("blSPL=04&", ""), 400),
        (VCEK.replace("blSPL=04", "blSPL=four"), 400),
        (VCEK.replace("/vcek/v1/Milan/", "/vcek/v1/Milan/00"), 400),
        (VCEK.replace("Milan", "Turin"), 400),
        ("/sgx/certification/v4/nothing", 404),
        ("/tdx/certification/v4/pckcrl?ca=platform", 404),
        ("/sgx/certification/v4/tcb", 400),
        ("/sgx/certification/v4/tcb?fmspc=001122334455", 404),
        (TCB_INFO.replace("update=standard", "tcbEvaluationDataNumber=20"), 200),
        (TCB_INFO.replace("update=standard", "tcbEvaluationDataNumber=21"), 404),
        ("/sgx/certification/v4/pckcrl?ca=other", 400),
        ("/sgx/certification/v4/pckcrl?ca=processor", 200),
        ("/sgx/certification/v4/pckcert?pceid=0000", 400),
    ],
)
def test_what_does_not_exist(target: str, status: int) -> None:
    assert answer(VENDOR, target).status == status


def test_pem_lists() -> None:
    found = answer(VENDOR, "/sgx/certification/v4/pckcrl?ca=processor")
    assert read_blocks(found.body, "X509 CRL") == (answer(VENDOR, PCK_CRL.replace("platform", "processor")).body,)


def test_turin_chips_have_an_fmc() -> None:
    chip = VENDOR.amd.chip_id("Turin").hex()
    target = f"/vcek/v1/Turin/{chip}?fmcSPL=01&{SPL}"
    assert answer(VENDOR, target).body == VENDOR.amd.vcek("Turin", bytes.fromhex(chip), TCB)
    assert answer(VENDOR, target.replace("fmcSPL=01&", "")).status == 400


def test_nobody_listens_while_down(server: VendorServer) -> None:
    url = server.url
    server.mode = Mode.DOWN
    with pytest.raises(ConnectionRefusedError):
        get(server, VCEK)
    server.mode = Mode.NORMAL
    assert server.url == url
    assert get(server, VCEK)[0] == 200


def test_a_server_may_start_down() -> None:
    with VendorServer(VENDOR, Mode.DOWN) as server, pytest.raises(ConnectionRefusedError):
        get(server, VCEK)


def test_errors_and_resets(server: VendorServer) -> None:
    server.mode = Mode.ERROR
    assert get(server, VCEK)[0] == 500
    server.mode = Mode.RESET
    with pytest.raises(ConnectionError):
        get(server, VCEK)
    assert [request.status for request in server.requests] == [500, 0]
    server.forget()
    assert server.requests == ()


def test_hanging_ends_with_the_mode(server: VendorServer) -> None:
    server.mode = Mode.HANG
    with pytest.raises(TimeoutError):
        get(server, VCEK, timeout=0.2)
    connection = connect(server)
    connection.request("GET", VCEK)
    while server.count() < 2:
        time.sleep(0.01)
    server.mode = Mode.NORMAL
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()


def test_rate_limit(server: VendorServer) -> None:
    server.mode, server.limit, server.period, server.retry_after = Mode.RATE_LIMIT, 2, 0.3, 7
    found = [get(server, VCEK) for _ in range(3)]
    assert [status for status, _body, _headers in found] == [200, 200, 429]
    assert found[2][2]["retry-after"] == "7"
    time.sleep(0.35)
    assert get(server, VCEK)[0] == 200
    assert [request.status for request in server.requests] == [200, 200, 429, 200]


def test_stale_answers(server: VendorServer) -> None:
    server.mode = Mode.STALE
    assert not parse_crl(get(server, "/vcek/v1/Milan/crl")[1]).current(NOW)
    assert not parse_crl(get(server, PCK_CRL)[1]).current(NOW)
    info = parse_tcb_info(read_signed_document(get(server, TCB_INFO)[1]).body)
    assert info.evaluation == VENDOR.collateral.evaluation - 3
    assert info.next_update < NOW
    server.mode = Mode.NORMAL
    assert parse_crl(get(server, PCK_CRL)[1]).current(NOW)


def test_wrong_answers_are_well_made(server: VendorServer) -> None:
    server.mode = Mode.WRONG
    evidence = VENDOR.snp(certificates="none")
    wrong = get(server, VCEK)[1]
    assert parse_certificate(wrong).name == "SEV-VCEK"
    claims = verify(evidence, VENDOR.endorsements(evidence, omit=("leaf",)) | Endorsements((wrong,)), NOW)
    assert not claims.ok
    assert b"50806F000000" in get(server, TCB_INFO)[1]
    assert b'"TD_QE"' in get(server, "/sgx/certification/v4/qe/identity")[1]
    genoa = read_blocks(get(server, "/vcek/v1/Milan/cert_chain")[1], CERTIFICATE)
    assert parse_certificate(genoa[0]).name == "SEV-Genoa"
    assert (
        parse_crl(get(server, PCK_CRL)[1]).issuer == parse_certificate(VENDOR.intel.ca("processor").certificate).subject
    )


def test_the_vendor_may_be_changed(server: VendorServer) -> None:
    assert not parse_crl(get(server, "/vcek/v1/Milan/crl")[1]).revoked
    server.vendor = VENDOR.but(revoked=frozenset({"ask"}))
    assert parse_crl(get(server, "/vcek/v1/Milan/crl")[1]).revoked == {0x10001}


def test_huge_bodies_have_no_length(server: VendorServer) -> None:
    server.mode = Mode.HUGE
    connection = connect(server)
    connection.request("GET", VCEK)
    response = connection.getresponse()
    assert response.getheader("content-length") is None
    assert sum(len(response.read(1 << 20)) for _ in range(8)) == 8 << 20
    connection.close()


def test_dripping(server: VendorServer) -> None:
    server.mode = Mode.DRIP
    connection = connect(server, 0.3)
    connection.request("GET", VCEK)
    response = connection.getresponse()
    assert response.read(1) == b"\x30"
    with pytest.raises(TimeoutError):
        response.read(1)
    connection.close()


def test_truncated_answers(server: VendorServer) -> None:
    server.mode = Mode.TRUNCATED
    with pytest.raises(http.client.IncompleteRead):
        get(server, VCEK)


def test_nonsense(server: VendorServer) -> None:
    server.mode = Mode.GARBAGE
    status, body, headers = get(server, VCEK)
    assert (status, body[:2], headers["content-type"]) == (200, b"\1\2", "application/octet-stream")
    server.mode = Mode.HTML
    assert get(server, VCEK)[2]["content-type"] == "text/html"
    server.mode = Mode.REDIRECT
    server.redirect_to = "http://elsewhere.invalid"
    status, _body, headers = get(server, VCEK)
    assert (status, headers["location"]) == (302, "http://elsewhere.invalid" + VCEK)


def test_bombs(server: VendorServer) -> None:
    server.mode = Mode.BOMB
    _status, body, headers = get(server, VCEK)
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 1 << 18
    assert len(zlib.decompressobj(31).decompress(body, 4 << 20)) == 4 << 20


def test_closing_is_final_and_quick() -> None:
    server = VendorServer(VENDOR, Mode.HANG)
    server.start()
    port = int(server.url.rsplit(":", 1)[1])
    connection = connect(server)
    connection.request("GET", VCEK)
    begin = time.monotonic()
    server.close()
    assert time.monotonic() - begin < 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    connection.close()


def test_many_requests_on_one_connection(server: VendorServer) -> None:
    connection = connect(server)
    for target, status in ((VCEK, 200), ("/nothing", 404), (TCB_INFO, 200)):
        connection.request("GET", target)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()
    assert len(server.requests) == 3
    assert server.requests[0].time <= server.requests[-1].time < server.requests[0].time + timedelta(minutes=1).seconds
