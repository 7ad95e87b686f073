"""Endorsements out of whatever people keep them in."""

import base64
import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from endorsement_kit import NOW
from hypothesis import given
from hypothesis import strategies as st

from kokon.endorsements import files
from kokon.endorsements.bundle import encode_bundle
from kokon.endorsements.files import classify, load, load_counted, parse
from kokon.endorsements.inventory import inventory
from kokon.errors import UsageError
from kokon.tee.endorsements import Endorsements
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.amd import Tcb
from kokon.testing.vendor.authority import spki
from kokon.testing.vendor.intel_collateral import flat_json, qe_identity, service_json, tcb_info
from kokon.testing.vendor.intel_quote import pem

VENDOR = FakeVendor(now=NOW)
CHAIN = VENDOR.intel.chain(VENDOR.platforms[0])
ROOT = CHAIN[2]
CRL = VENDOR.endorsements(VENDOR.tdx()).crls[0]
INFO = tcb_info(VENDOR.intel, VENDOR.collateral, "tdx", VENDOR.platforms[0])
IDENTITY = qe_identity(VENDOR.intel, VENDOR.collateral, "tdx")
KEY = VENDOR.keys.elliptic("enrolled").public_key()
KEY_PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PRIVATE = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def armoured(der: bytes, label: str) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()


FORMS = {
    "DER certificate": (ROOT, "certificate", Endorsements((ROOT,))),
    "DER list": (CRL, "crl", Endorsements(crls=(CRL,))),
    "PEM certificate": (pem(ROOT), "pem", Endorsements((ROOT,))),
    "PEM chain with words and a list": (
        b"Certificate:\n  Data\n" + b"\nnext\n".join(map(pem, CHAIN)) + armoured(CRL, "X509 CRL"),
        "pem",
        Endorsements(CHAIN, (CRL,)),
    ),
    "PEM with Windows line ends": (pem(ROOT).replace(b"\n", b"\r\n"), "pem", Endorsements((ROOT,))),
    "PEM, partly damaged": (armoured(b"0", "CERTIFICATE") + PRIVATE + pem(ROOT), "pem", Endorsements((ROOT,))),
    "hex list": (CRL.hex().encode(), "hex", Endorsements(crls=(CRL,))),
    "hex certificate": (ROOT.hex().upper().encode() + b"\n", "hex", Endorsements((ROOT,))),
    "TCB info": (service_json(INFO), "collateral", Endorsements(documents=(replace(INFO, chain=()),))),
    "identity": (b"\n" + service_json(IDENTITY), "collateral", Endorsements(documents=(replace(IDENTITY, chain=()),))),
    "flat collateral": (
        flat_json(INFO, IDENTITY, CRL, CRL, CHAIN[1]),
        "collateral",
        Endorsements(CHAIN[1:], (CRL,), (INFO, IDENTITY)),
    ),
    "bundle": (
        encode_bundle(Endorsements((ROOT,), (CRL,), (INFO,)), NOW),
        "bundle",
        Endorsements((ROOT,), (CRL,), (INFO,)),
    ),
    "public key": (KEY_PEM, "pem", Endorsements(enrolled_keys=frozenset({hashlib.sha256(spki(KEY)).hexdigest()}))),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form(name: str, tmp_path: Path) -> None:
    data, kind, expected = FORMS[name]
    assert classify(data) == kind
    assert parse(data) == expected
    (tmp_path / "file").write_bytes(data)
    assert load([tmp_path / "file"]) == expected


OTHERS = {
    "nothing": b"",
    "text": b"hello",
    "JSON": b'{"a": 1}',
    "list in JSON": b'[{"tcbInfo": 1}]',
    "quote": VENDOR.tdx().report,
    "report": VENDOR.snp().report,
    "private key": PRIVATE,
    "key in DER": spki(KEY),
    "broken certificate": ROOT[:-1] + bytes([ROOT[-1] ^ 1, 0]),
    "certificate and more": ROOT + b"\0",
    "certificate cut off": ROOT[:-1],
    "hex of something": b"3003020101",
    "odd hex": CRL.hex().encode()[:-1],
    "PEM of something": armoured(b"abc", "PUBLIC KEY") + armoured(b"abc", "CERTIFICATE"),
    "PEM without end": pem(ROOT)[:-30],
    "PEM that is no base64": b"-----BEGIN CERTIFICATE-----\nA=A\n-----END CERTIFICATE-----\n",
    "huge key": armoured(b"0" * 20_000, "PUBLIC KEY"),
    "bundle cut off": FORMS["bundle"][0][:-5],
    "collateral with a broken list": flat_json(INFO, IDENTITY, b"0", CRL, CHAIN[1]),
    "collateral with a broken chain": flat_json(INFO, IDENTITY, CRL, CRL, b"0\x03abc"),
    "TCB info that is none": b'{"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}',
    "short DER": b"\x30",
    "long length": b"\x30\x84\0\0\0\x01\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_refused_by_name_and_passed_over_in_folders(name: str, tmp_path: Path) -> None:
    assert parse(OTHERS[name]) is None
    (tmp_path / "file").write_bytes(OTHERS[name])
    with pytest.raises(UsageError) as caught:
        load([tmp_path / "file"])
    assert caught.value.code == "endorsements-unknown"
    loaded = load_counted([tmp_path])
    assert (loaded.endorsements, loaded.read, loaded.skipped) == (Endorsements(), 0, 1)


def test_a_malformed_public_key_is_none(tmp_path: Path) -> None:
    """Inside it is "public-key-malformed", which parsing turns into nothing found."""
    assert parse(armoured(spki(KEY)[:-1], "PUBLIC KEY")) is None


def test_folders_are_read_with_all_that_is_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "root.pem").write_bytes(pem(ROOT))
    (tmp_path / "a" / "list").write_bytes(CRL)
    (tmp_path / "same.der").write_bytes(ROOT)
    (tmp_path / "quote.bin").write_bytes(VENDOR.tdx().report)
    (tmp_path / "readme").write_text("words")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    loaded = load_counted([tmp_path])
    assert loaded.endorsements == Endorsements((ROOT,), (CRL,))
    assert (loaded.read, loaded.skipped) == (3, 2)


def test_keys_are_enrolled_by_name_only(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    assert load([tmp_path]).enrolled_keys == frozenset()
    assert load_counted([tmp_path]).skipped == 1
    assert len(load([tmp_path / "key.pem"]).enrolled_keys) == 1


def test_several_paths_together_each_thing_once(tmp_path: Path) -> None:
    for number, der in enumerate(CHAIN):
        (tmp_path / f"{number}.der").write_bytes(der)
    paths = [tmp_path / "2.der", tmp_path, tmp_path / "0.der"]
    assert load(paths).certificates == (CHAIN[2], CHAIN[0], CHAIN[1])
    assert load([]) == Endorsements()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load([tmp_path / "absent"])
    assert caught.value.code == "endorsements-unreadable"


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}").write_bytes(ROOT)
    monkeypatch.setattr(files, "FILES_LIMIT", 3)
    with pytest.raises(UsageError) as caught:
        load([tmp_path])
    assert caught.value.code == "endorsements-too-many"
    monkeypatch.setattr(files, "FILES_LIMIT", 10)
    monkeypatch.setattr(files, "CRL_LIMIT", len(ROOT) - 1)
    assert load_counted([tmp_path]).skipped == 4
    monkeypatch.setattr(files, "BUNDLE_LIMIT", len(ROOT) - 1)
    with pytest.raises(UsageError) as refused:
        load([tmp_path / "1"])
    assert refused.value.code == "endorsements-unknown"


def test_folders_deeper_than_sense_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEPTH_LIMIT", 1)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "near").write_bytes(ROOT)
    (tmp_path / "a" / "b" / "far").write_bytes(CRL)
    assert load([tmp_path]) == Endorsements((ROOT,))


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    parse(data)
    classify(data)


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_no_damage_raises(name: str, data: st.DataObject) -> None:
    good = FORMS[name][0]
    position = data.draw(st.integers(0, len(good)))
    parse(good[:position] + data.draw(st.binary(max_size=3)) + good[position + data.draw(st.integers(0, 5)) :])


def test_an_inventory_says_what_things_are() -> None:
    vcek = VENDOR.amd.vcek("Milan", VENDOR.amd.chip_id("Milan"), Tcb())
    everything = Endorsements(
        (vcek, *CHAIN, b"rubbish"), (CRL, b"rubbish"), (INFO, IDENTITY), enrolled_keys=frozenset({"ab" * 32})
    )
    items = {(item.kind, item.subject): item for item in inventory(everything)}
    assert len(items) == 9
    chip = items["certificate", "SEV-VCEK"]
    assert chip.about.startswith("Milan " + VENDOR.amd.chip_id("Milan").hex()[:16] + " bootloader=4")
    assert items["certificate", "Intel SGX PCK Certificate"].about == "fmspc 00606a000000"
    assert items["certificate", "Kokon simulated Intel SGX Root CA"].about == "root"
    assert items["TCB info", "TDX"].evaluation == 20
    assert items["TCB info", "TDX"].about == "fmspc 00606a000000"
    assert items["QE identity", "TDX"].as_dict(NOW)["state"] == "valid"
    listed = items["revocation list", "Intel SGX PCK Platform CA"]
    assert listed.about == "0 revoked"
    ends = listed.ends
    assert ends is not None
    assert listed.state(ends) == "expired"
    assert listed.state(ends - timedelta(seconds=1)) == "valid"
    assert listed.state(listed.begins - timedelta(seconds=1)) == "not yet valid"
    assert items["enrolled key", "ab" * 32].state(NOW) == "no end"
    assert items["enrolled key", "ab" * 32].as_dict(NOW)["not_after"] is None


def test_a_link_in_a_circle_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("absent")
    assert load([tmp_path]) == Endorsements()
