"""Real endorsements in the forms in which people keep them."""

import base64
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kokon.endorsements.bundle import encode_bundle, parse_bundle
from kokon.endorsements.examine import examine
from kokon.endorsements.files import load, load_counted, parse
from kokon.endorsements.inventory import inventory
from kokon.errors import StaleError, UntrustedError
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Need
from kokon.tee.snp.extensions import parse_extensions

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore:Parsed a serial number")]

KINDS = ("cert", "crl", "collateral")
MALFORMED = {
    "nitro/invalid_tampered_root_cert.crt",
    "sgx/invalid_tcbInfoNegativeMissingNextUpdate.json",
    "sgx/invalid_tcbInfoNegativeInvalidIssueDate.json",
    "x509/pkits_BadCRLSignatureCACRL.crl",
}


def moment(value: Any) -> datetime:
    if isinstance(value, int):
        return datetime.fromtimestamp(value, UTC)
    return datetime.fromisoformat(value).astimezone(UTC)


def test_every_endorsement_is_recognised(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    entries = [entry for entry in manifest if entry["kind"] in KINDS]
    unknown = {entry["file"] for entry in entries if parse((vectors / entry["file"]).read_bytes()) is None}
    assert len(entries) > 60
    assert unknown <= MALFORMED
    assert not {entry["file"] for entry in entries if entry["expected"]["verifies"] is True} & unknown


def test_nothing_else_is_taken_for_an_endorsement(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    others = [entry["file"] for entry in manifest if entry["kind"] not in KINDS]
    taken = [name for name in others if parse((vectors / name).read_bytes()) is not None]
    assert len(others) > 80
    assert [name for name in taken if not name.endswith((".pem", ".crt", ".der"))] == []


def test_the_whole_folder_is_read_quickly_and_makes_one_bundle(vectors: Path) -> None:
    begin = time.perf_counter()
    loaded = load_counted([vectors])
    assert time.perf_counter() - begin < 5
    assert loaded.read > 60
    assert loaded.skipped > 80
    assert loaded.endorsements.enrolled_keys == frozenset()
    data = encode_bundle(loaded.endorsements, datetime(2026, 11, 23, tzinfo=UTC))
    found = parse_bundle(data).endorsements
    assert set(found.certificates) == set(loaded.endorsements.certificates)
    assert set(found.crls) == set(loaded.endorsements.crls)
    assert set(found.documents) == set(loaded.endorsements.documents)
    chains = {der for document in found.documents for der in document.chain} - set(found.certificates)
    assert len(inventory(found)) == len(found.certificates) + len(found.crls) + len(found.documents) + len(chains)


def test_public_keys_are_enrolled_by_name(vectors: Path) -> None:
    keys = [load([vectors / "tpm" / name]).enrolled_keys for name in ("az_akpub.pem", "keylime_akpub.pem")]
    assert [len(found) for found in keys] == [1, 1]
    assert keys[0] != keys[1]


def test_genuine_vceks_are_what_amds_service_would_have_to_give(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """Each for its own chip and TCB, and no other's."""
    entries = [entry for entry in manifest if entry["file"].endswith(".vcek.der") and entry["expected"]["verifies"]]
    needs: dict[Need, bytes] = {}
    for entry in entries:
        der = (vectors / entry["file"]).read_bytes()
        said = parse_extensions(parse_certificate(der).unknown)
        values = {"product": said.product, "chip-id": (said.hardware_id or b"").hex()}
        values |= {name: str(number) for name, number in said.tcb.items()}
        needs[Need("vcek", tuple(sorted(values.items())))] = der
        examine(Need("vcek", tuple(sorted(values.items()))), Endorsements((der,)), moment(entry["expected"]["at_time"]))
    assert len(needs) >= 12
    for need in needs:
        for other, der in needs.items():
            if other != need:
                with pytest.raises(UntrustedError):
                    examine(need, Endorsements((der,)), datetime(2026, 3, 1, tzinfo=UTC))


def test_a_vcek_that_nobody_signed_is_refused(vectors: Path) -> None:
    der = (vectors / "snp/invalid_vcek_legacy.der").read_bytes()
    said = parse_extensions(parse_certificate(der).unknown)
    values = {"product": said.product, "chip-id": (said.hardware_id or b"").hex()}
    values |= {name: str(number) for name, number in said.tcb.items()}
    with pytest.raises(UntrustedError) as caught:
        examine(Need("vcek", tuple(sorted(values.items()))), Endorsements((der,)), datetime(2025, 1, 1, tzinfo=UTC))
    assert caught.value.code == "endorsement-wrong"


@pytest.mark.parametrize("product", ["Milan", "Genoa"])
def test_genuine_lists_of_amds(vectors: Path, manifest: list[dict[str, Any]], product: str) -> None:
    name = f"snp/certs/{product.lower()}_crl.der"
    (entry,) = [entry for entry in manifest if entry["file"] == name]
    found = Endorsements(crls=((vectors / name).read_bytes(),))
    need = Need("amd-crl", (("product", product),), required=False)
    at = moment(entry["expected"]["at_time"]) + timedelta(hours=1)
    assert examine(need, found, at).expires
    with pytest.raises(UntrustedError):
        examine(Need("amd-crl", (("product", "Turin"),)), found, at)
    with pytest.raises(StaleError):
        examine(need, found, at + timedelta(days=3650))


def test_genuine_collateral_is_what_intels_service_would_have_to_give(
    vectors: Path, manifest: list[dict[str, Any]]
) -> None:
    entries = [entry for entry in manifest if entry["file"].endswith(".collateral.json")]
    assert len(entries) > 20
    for entry in entries:
        found = load([vectors / entry["file"]])
        at = moment(entry["expected"]["at_time"])
        tee = entry["file"].partition("/")[0]
        (info, identity) = sorted(found.documents, key=lambda document: document.kind, reverse=True)
        fmspc = json.loads(info.body)["fmspc"]
        need = Need("tcb-info", (("fmspc", fmspc), ("tee", tee)))
        examined = examine(need, Endorsements(documents=(info,)), at)
        assert examined.evaluation >= 15
        examine(Need("qe-identity", (("tee", tee),)), Endorsements(documents=(identity,)), at)
        with pytest.raises(UntrustedError):
            examine(need, Endorsements(documents=(identity,)), at)
        forged = replace(info, body=info.body.replace(b'"OutOfDate"', b'"UpToDate" ').replace(b'"svn":5', b'"svn":4'))
        with pytest.raises(UntrustedError):
            examine(need, Endorsements(documents=(forged,)), at)
        end = examined.expires
        assert end is not None
        with pytest.raises(StaleError):
            examine(need, Endorsements(documents=(info,)), end)


def test_collateral_and_lists_in_other_wrappings(vectors: Path) -> None:
    der = (vectors / "tdx/pcs/root_ca_crl.der").read_bytes()
    text = b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"
    for form in (der, text, der.hex().encode() + b"\n"):
        assert parse(form) == Endorsements(crls=(der,))
