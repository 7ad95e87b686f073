"""What the clients of AMD's and Intel's services ask for, and what they take for an answer."""

import base64
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest
from endorsement_kit import (
    AMD_CRL,
    CHAIN,
    PCK_CRL,
    QE_IDENTITY,
    ROOT_CRL,
    TCB_INFO,
    getter,
    pck_need,
    reply,
    serving,
    vcek_need,
)

from kokon.endorsements import kds
from kokon.endorsements.kds import Kds
from kokon.endorsements.pcs import ROOT_CRL_URL, Access, Choice, Pcs, read_crl
from kokon.errors import KokonError, MalformedError, UnreachableError
from kokon.tee.evidence import Need
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.intel_quote import pem


class Open:
    def enter(self) -> None:
        self.entered = getattr(self, "entered", 0) + 1

    def refused(self, seconds: float) -> None:
        pass


def test_paths_at_amds_service(vendor: FakeVendor) -> None:
    chip = vendor.amd.chip_id("Milan").hex()
    assert kds.path(vcek_need(vendor)) == f"/vcek/v1/Milan/{chip}?blSPL=04&teeSPL=00&snpSPL=22&ucodeSPL=213"
    short = vendor.amd.chip_id("Turin").hex()
    turin = f"/vcek/v1/Turin/{short}?blSPL=04&teeSPL=00&snpSPL=22&ucodeSPL=213&fmcSPL=01"
    assert kds.path(vcek_need(vendor, "Turin")) == turin
    padded = dict(vcek_need(vendor, "Turin").parameters) | {"chip-id": short + "00" * 56}
    assert kds.path(Need("vcek", tuple(sorted(padded.items())))) == turin
    assert kds.path(CHAIN) == "/vcek/v1/Milan/cert_chain"
    assert kds.path(Need("amd-chain", (("kind", "vlek"), ("product", "Genoa")))) == "/vlek/v1/Genoa/cert_chain"
    assert kds.path(AMD_CRL) == "/vcek/v1/Milan/crl"


def test_only_vceks_wait_for_their_turn(server: VendorServer, vendor: FakeVendor) -> None:
    gate = Open()
    client = Kds(getter(), gate, server.url)
    assert client.fetch(CHAIN).certificates == vendor.amd.chain("Milan")
    assert len(client.fetch(AMD_CRL).crls) == 1
    assert not hasattr(gate, "entered")
    assert len(client.fetch(vcek_need(vendor)).certificates) == 1
    assert gate.entered == 1
    assert client.variant(CHAIN) == ""


@pytest.mark.parametrize("mode", [Mode.GARBAGE, Mode.HTML])
def test_a_chain_that_is_none(server: VendorServer, mode: Mode) -> None:
    server.mode = mode
    with pytest.raises(UnreachableError) as caught:
        Kds(getter(), Open(), server.url).fetch(CHAIN)
    assert caught.value.code == "endorsement-answer-malformed"


def test_a_chain_of_one(vendor: FakeVendor) -> None:
    one = pem(vendor.amd.chain("Milan")[0])
    with serving(lambda handler: reply(handler, 200, one)) as url, pytest.raises(UnreachableError) as caught:
        Kds(getter(), Open(), url).fetch(CHAIN)
    assert caught.value.code == "endorsement-answer-malformed"


BASE = "https://pccs.example"


def test_paths_at_intels_service(vendor: FakeVendor) -> None:
    pcs = Pcs(getter(), Access(BASE))
    assert pcs.url(TCB_INFO) == f"{BASE}/tdx/certification/v4/tcb?fmspc=00606a000000&update=standard"
    sgx = Need("tcb-info", (("fmspc", "00606A000000"), ("tee", "sgx")))
    assert pcs.url(sgx) == f"{BASE}/sgx/certification/v4/tcb?fmspc=00606a000000&update=standard"
    assert pcs.url(QE_IDENTITY) == f"{BASE}/tdx/certification/v4/qe/identity?update=standard"
    assert pcs.url(PCK_CRL) == f"{BASE}/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
    assert pcs.url(ROOT_CRL) == f"{BASE}/sgx/certification/v4/rootcacrl"
    query = parse_qs(urlsplit(pcs.url(pck_need(vendor))).query)
    assert set(query) == {"encrypted_ppid", "cpusvn", "pcesvn", "pceid"}
    assert query["encrypted_ppid"] == [vendor.intel.encrypted_ppid(vendor.platforms[0]).hex()]
    assert Pcs(getter()).url(ROOT_CRL) == ROOT_CRL_URL
    assert Pcs(getter(), Access(f"{BASE}/sgx/certification/v4/")).url(ROOT_CRL) == pcs.url(ROOT_CRL)


def test_the_choice_of_knowledge_is_part_of_what_is_asked_for() -> None:
    early = Pcs(getter(), Access(BASE), Choice("early"))
    pinned = Pcs(getter(), Access(BASE), Choice(evaluation=17))
    assert early.url(TCB_INFO).endswith("&update=early")
    assert pinned.url(QE_IDENTITY).endswith("?tcbEvaluationDataNumber=17")
    assert early.variant(TCB_INFO) == "update=early"
    assert pinned.variant(QE_IDENTITY) == "tcbEvaluationDataNumber=17"
    assert early.variant(PCK_CRL) == ""


def test_answers_with_their_chains(server: VendorServer, vendor: FakeVendor) -> None:
    pcs = Pcs(getter(), Access(server.url))
    root = vendor.intel.root().certificate
    (document,) = pcs.fetch(TCB_INFO).documents
    assert (document.kind, document.chain) == ("tcb-info", (vendor.intel.tcb_signing(), root))
    (document,) = pcs.fetch(QE_IDENTITY).documents
    assert (document.kind, document.chain) == ("qe-identity", (vendor.intel.tcb_signing(), root))
    found = pcs.fetch(PCK_CRL)
    assert found.certificates == (vendor.intel.ca("platform").certificate, root)
    assert len(found.crls) == 1
    assert pcs.fetch(ROOT_CRL).crls[0][:1] == b"\x30"
    assert pcs.fetch(pck_need(vendor)).certificates == vendor.intel.chain(vendor.platforms[0])


@pytest.mark.parametrize("need", [TCB_INFO, QE_IDENTITY, PCK_CRL, ROOT_CRL], ids=str)
@pytest.mark.parametrize("mode", [Mode.GARBAGE, Mode.HTML])
def test_answers_that_make_no_sense(server: VendorServer, mode: Mode, need: Need) -> None:
    server.mode = mode
    with pytest.raises(UnreachableError) as caught:
        Pcs(getter(), Access(server.url)).fetch(need)
    assert caught.value.code == "endorsement-answer-malformed"


def test_lists_in_any_form(server: VendorServer) -> None:
    der = Pcs(getter(), Access(server.url)).fetch(ROOT_CRL).crls[0]
    text = b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"
    for form in (der, text, der.hex().encode(), der.hex().upper().encode() + b"\n", f'"{der.hex()}"'.encode()):
        assert read_crl(form) == der
    for form in (b"", b"zz", b"{}", b"-----BEGIN X509 CRL-----\nAA", b'{"tcbInfo":1}'):
        with pytest.raises(MalformedError):
            read_crl(form)


def test_the_subscription_key_goes_only_where_it_is_wanted(vendor: FakeVendor) -> None:
    seen: dict[str, str | None] = {}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen[handler.path.partition("?")[0].rpartition("/")[2]] = handler.headers.get("Ocp-Apim-Subscription-Key")
        reply(handler, 404)

    access = Access("", "secret")
    assert "secret" not in repr(access)
    with serving(answer) as url:
        pcs = Pcs(getter(), Access(url, "secret"))
        for need in (pck_need(vendor), TCB_INFO):
            with pytest.raises(KokonError) as caught:
                pcs.fetch(need)
            assert caught.value.code == "endorsement-not-found"
    assert seen == {"pckcert": "secret", "tcb": None}


def test_platforms_by_the_quoting_enclaves_id_or_not_at_all() -> None:
    pcs = Pcs(getter(), Access(BASE))
    common = {"cpusvn": "00" * 16, "pcesvn": "0b00", "pceid": "0000"}
    by_qe = Need("pck", tuple(sorted((common | {"qeid": "11" * 16}).items())))
    assert parse_qs(urlsplit(pcs.url(by_qe)).query)["qeid"] == ["11" * 16]
    plain = Need("pck", tuple(sorted((common | {"ppid": "11" * 16}).items())))
    with pytest.raises(UnreachableError) as caught:
        pcs.url(plain)
    assert caught.value.code == "endorsement-not-offered"
