"""What policies read: claims by all names that they may be asked for, launch documents, event logs."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import replace
from typing import Any

import pytest
from rego_evidence import REPORT, azure_snp, sgx, snp, tdx
from rego_kit import refusal

from kokon.provisioning.kbs.initdata import InitData, parse_init_data
from kokon.provisioning.rego.events import EVENTS_LIMIT, event_claims
from kokon.provisioning.rego.inputs import INNER_LIMIT, init_data_claims, policy_input, resource_data
from kokon.provisioning.rego.text import spell
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import Event, EventLog, parse_event_log
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.testing.vendor.eventlog import CC_BOOT, encode_log
from unit.appraisal.appraisal_kit import DOCUMENT, KNOWN, NOW, PCR, SNP, TPM

HEAD = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n'


def document(**entries: str) -> InitData:
    """A launch document; `_` in a name stands for a dot."""
    body = "".join(f"\"{name.replace('_', '.')}\" = '''\n{text}'''\n" for name, text in entries.items())
    return parse_init_data((HEAD + body).encode())


def test_the_whole_input() -> None:
    runtime = {"nonce": "n", "tee-pubkey": {"kty": "EC"}, "additional-evidence": ""}
    found = policy_input(SNP, runtime_data=runtime, init_data=document(a_txt="hi"))
    assert set(found) == {"snp", "report_data", "init_data", "runtime_data_claims", "init_data_claims"}
    assert found["report_data"] == SNP.report_data.hex()
    assert found["init_data"] == DOCUMENT.hex()
    assert found["runtime_data_claims"] == runtime
    assert found["init_data_claims"] == {"a.txt": "hi"}


def test_claims_of_the_guest_stand_with_what_binds_them_or_not_at_all() -> None:
    bare = replace(SNP, report_data=b"", host_data=b"")
    assert set(policy_input(bare, runtime_data={"nonce": "n"}, init_data=document(a="b"))) == {"snp"}
    assert set(policy_input(SNP)) == {"snp", "report_data", "init_data"}


def test_snp_by_both_releases_names() -> None:
    claims = policy_input(snp(replace(REPORT, version=5)))["snp"]
    for name, value in (
        ("measurement", KNOWN.hex()),
        ("policy_abi_minor", 31),
        ("policy_debug_allowed", False),
        ("policy_migrate_ma", False),
        ("policy_single_socket", False),
        ("policy_smt_allowed", True),
        ("platform_smt_enabled", True),
        ("platform_tsme_enabled", True),
        ("reported_tcb_bootloader", 3),
        ("reported_tcb_microcode", 115),
    ):
        assert claims[name] == value, name
    evidence = claims["evidence"]
    assert evidence["measurement"] == KNOWN.hex()
    assert evidence["reported_tcb"] == {"fmc": None, "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
    assert evidence["policy"] == {
        "abi_major": 0,
        "abi_minor": 31,
        "smt_allowed": True,
        "migrate_ma_allowed": False,
        "debug_allowed": False,
        "single_socket_required": False,
        "cxl_allowed": False,
        "mem_aes_256_xts": False,
        "rapl_dis": False,
        "ciphertext_hiding": False,
        "page_swap_disabled": False,
    }
    assert evidence["plat_info"]["smt_enabled"] is True
    assert evidence["plat_info"]["tio_enabled"] is False
    assert (evidence["version"], evidence["vmpl"], evidence["chip_id"]) == (5, 0, "00" * 64)
    assert not {"report_data", "init_data"} & set(claims)


@pytest.mark.parametrize("bit", [18, 19])
def test_both_names_tell_of_debug_and_migration(bit: int) -> None:
    claims = policy_input(snp(replace(REPORT, policy=REPORT.policy | 1 << bit)))["snp"]
    assert claims["policy_debug_allowed"] is claims["evidence"]["policy"]["debug_allowed"] is (bit == 19)
    assert claims["policy_migrate_ma"] is claims["evidence"]["policy"]["migrate_ma_allowed"] is (bit == 18)


def test_azure_gives_texts() -> None:
    claims = policy_input(azure_snp())["az-snp-vtpm"]
    assert claims["reported_tcb_bootloader"] == "3"
    assert claims["policy_debug_allowed"] == "false"
    assert claims["platform_smt_enabled"] == "true"
    assert claims["measurement"] == KNOWN.hex()
    assert claims["tpm"]["pcr11"] == PCR.hex()


def test_tdx_and_sgx() -> None:
    td = policy_input(tdx())["tdx"]
    assert td["quote"]["header"]["tee_type"] == "81000000"
    assert td["quote"]["header"]["vendor_id"] == "939a7233f79c4ca9940a0db3957f0607"
    assert (td["tcb_status"], td["collateral_expiration_status"]) == ("UpToDate", "0")
    assert td["td_attributes"]["debug"] is False
    claims = sgx(isvprodid=258, isvsvn=772)
    enclave = policy_input(claims)["sgx"]
    assert enclave["body"]["mr_enclave"] == claims.measurement.hex()
    assert (enclave["isv_prod_id"], enclave["isv_svn"], enclave["debug"]) == (258, 772, False)
    assert enclave["body"]["isv_svn"] == "0403"
    assert policy_input(TPM)["tpm"]["pcr11"] == PCR.hex()


def test_a_sample() -> None:
    evidence = Evidence("sample", b'{"report_data":"AAEC","svn":"1"}')
    claims = verify(evidence, Endorsements(accepted_simulated=frozenset({"sample"})), NOW)
    init_data = document(a_txt="hi")
    found = policy_input(claims, runtime_data={"nonce": "n"}, init_data=init_data)
    assert found["sample"]["launch_digest"] == "abcde"
    assert found["sample"]["platform_version"] == {"major": 1, "minor": 4}
    assert (found["sample"]["svn"], found["sample"]["debug"]) == ("1", False)
    assert found["report_data"] == "AAEC"
    assert found["init_data"] == base64.b64encode(init_data.digest).decode()
    assert found["init_data_claims"] == {"a.txt": "hi"}
    assert "init_data" not in policy_input(claims)


def test_everything_can_be_given_to_a_policy() -> None:
    for claims in (snp(), tdx(), sgx(), azure_snp(), TPM):
        assert spell(policy_input(claims, init_data=document(a="b"), event_log=parse_event_log(LOG)))


def test_resource_data() -> None:
    assert resource_data("resource", ("a", "b", "c"), {"v": "1"}) == {
        "plugin": "resource",
        "resource-path": ["a", "b", "c"],
        "query": {"v": "1"},
    }


# -- launch documents

AGENT = """package agent_policy

default AllowRequestsFailingPolicy := false

policy_data := {
  "containers": [{"a": 1}]
}
"""


def test_inner_documents_become_objects() -> None:
    found = init_data_claims(
        document(
            aa_toml='[token_configs.kbs]\nurl = "https://kbs"\nsince = 2026-01-02T03:04:05Z\nday = 2026-01-02\n',
            cdh_toml='socket = "s"\n[[credentials]]\npath = "p"\nn = [1, 1.5, true]\n',
            policy_rego=AGENT,
            other_txt="x",
        )
    )
    assert found == {
        "aa.toml": {
            "token_configs": {"kbs": {"url": "https://kbs", "since": "2026-01-02T03:04:05+00:00", "day": "2026-01-02"}}
        },
        "cdh.toml": {"socket": "s", "credentials": [{"path": "p", "n": [1, 1.5, True]}]},
        "agent_policy_claims": {"containers": [{"a": 1}]},
        "other.txt": "x",
    }


def test_an_agent_policy_without_data() -> None:
    assert init_data_claims(document(policy_rego="package agent_policy\ndefault AllowAll := true\n")) == {}
    assert init_data_claims(document(policy_rego='x := "policy_data := {}"\n# policy_data := {}\n')) == {}


def test_the_last_data_count() -> None:
    text = 'policy_data := {"containers": 1}\n' + AGENT
    assert init_data_claims(document(policy_rego=text)) == {"agent_policy_claims": {"containers": [{"a": 1}]}}


def test_an_entry_cannot_pass_for_the_agents_claims() -> None:
    data = InitData(b"", "sha256", {"agent_policy_claims": "forged"})
    assert init_data_claims(data) == {}
    data = InitData(b"", "sha256", {"agent_policy_claims": "forged", "policy.rego": AGENT})
    assert init_data_claims(data)["agent_policy_claims"] == {"containers": [{"a": 1}]}


@pytest.mark.parametrize(
    "entries",
    [
        {"aa.toml": "a = "},
        {"cdh.toml": "a = 1\na = 2"},
        {"cdh.toml": "a = " + "[" * 30_000},
        {"aa.toml": "a = 1 #" + "x" * INNER_LIMIT},
        {"aa.toml": ".".join("a" * 70) + " = 1"},
        {"aa.toml": 'a = "' + ".a" * 30_000 + '"'},
        {"policy.rego": "policy_data := {x: 1}"},
        {"policy.rego": 'policy_data := {"a": ' + "[" * 100_000},
    ],
)
def test_entries_that_cannot_be_read(entries: dict[str, str]) -> None:
    assert refusal(lambda: init_data_claims(InitData(b"", "sha256", entries))).code == "init-data-malformed"


# -- event logs


def path(kind: int, subtype: int, content: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(content)) + content


KERNEL = bytes(32) + path(4, 3, bytes(16)) + path(4, 4, "kernel\0".encode("utf-16-le")) + path(0x7F, 0xFF, b"")
LOG = encode_log(CC_BOOT, ("sha384",))


def event(kind: int, data: bytes, **digests: bytes) -> dict[str, Any]:
    return event_claims(EventLog((Event(0, 2, kind, digests, data),), tuple(digests)))[0]


def test_what_was_loaded() -> None:
    found = event(0x80000003, KERNEL, sha384=b"\1" * 48)
    assert found == {
        "index": 2,
        "event_type": "EV_EFI_BOOT_SERVICES_APPLICATION",
        "type_name": "EV_EFI_BOOT_SERVICES_APPLICATION",
        "digest_matches_event": False,
        "digests": [{"alg": "SHA-384", "digest": "01" * 48}],
        "details": {"device_paths": ["File(kernel)"]},
    }


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (struct.pack("<II", 1, 25) + b"LOADED_IMAGE::LoadOptions", "LOADED_IMAGE::LoadOptions"),
        (struct.pack("<II", 1, 26) + b"LOADED_IMAGE::LoadOptions\0", "LOADED_IMAGE::LoadOptions"),
        (struct.pack("<II", 1, 8) + "text".encode("utf-16-le"), "text"),
        (struct.pack("<II", 1, 2) + b"\xff\xff\xff", None),
        (b"", None),
    ],
)
def test_tags(data: bytes, text: str | None) -> None:
    assert event(6, data)["details"] == ({} if text is None else {"string": text})


@pytest.mark.parametrize(
    "data", [b"", bytes(31), bytes(40), KERNEL[:-6], bytes(32) + b"\4\4\3\0xx", bytes(32) + b"\4\4\xff\xff"]
)
def test_paths_that_are_cut_off(data: bytes) -> None:
    assert isinstance(event(0x80000003, data)["details"]["device_paths"], list)


def test_a_real_log() -> None:
    found = policy_input(tdx(), event_log=parse_event_log(LOG))["tdx"]["uefi_event_logs"]
    assert [one["index"] for one in found] == [one.register for one in CC_BOOT]
    assert found[-1]["digests"] == [{"alg": "SHA-384", "digest": CC_BOOT[-1].digest("sha384").hex()}]


FORGED = bytes([0xAA]) * 48


def shown(log: EventLog) -> list[str]:
    """All digests that a policy sees of a trust domain that booted as `CC_BOOT` says."""
    found = policy_input(tdx(), event_log=log)["tdx"]["uefi_event_logs"]
    return [digest["digest"] for one in found for digest in one["digests"]]


def test_events_of_registers_that_nobody_signed_are_not_shown() -> None:
    """Whoever keeps the log adds the kernel that a policy asks for, in a register of his own, and as a remark."""
    log = parse_event_log(LOG)
    genuine = shown(log)
    more = [Event(900 + place, place, 0x80000003, {"sha384": FORGED}, KERNEL) for place in (0, 5, 9, 31)]
    remark = Event(990, 2, 3, {"sha384": FORGED}, b"")
    assert shown(replace(log, events=(*log.events, *more, remark))) == genuine
    assert len(genuine) == len(CC_BOOT)


def test_a_register_that_the_log_does_not_lead_to_is_not_shown() -> None:
    log = parse_event_log(LOG)
    added = replace(log, events=(*log.events, Event(900, 2, 0x80000003, {"sha384": FORGED}, KERNEL)))
    kept = [one.digest("sha384").hex() for one in CC_BOOT if one.register != 2]
    assert shown(added) == kept
    assert 0 < len(kept) < len(CC_BOOT)


def test_digests_of_other_algorithms_are_not_shown() -> None:
    """SHA3-384 is as long as SHA-384: a digest that was never extended must not be taken for one that was."""
    log = parse_event_log(LOG)
    events = tuple(
        replace(one, digests={**one.digests, "sha3-384": FORGED, "sha256": FORGED[:32]}) for one in log.events
    )
    assert shown(EventLog(events, (*log.algorithms, "sha3-384", "sha256"))) == shown(log)


def test_a_tpms_log_is_proven_bank_by_bank() -> None:
    event = Event(0, 4, 0x80000003, {"sha256": b"\1" * 32, "sha384": b"\2" * 48}, KERNEL)
    value = hashlib.sha256(bytes(32) + b"\1" * 32).digest()
    claims = replace(TPM, registers={"pcr4": value, "sha256:pcr4": value})
    log = EventLog((event, replace(event, index=1, register=5)), ("sha256", "sha384"))
    (found,) = policy_input(claims, event_log=log)["tpm"]["uefi_event_logs"]
    assert (found["index"], found["digests"]) == (4, [{"alg": "SHA-256", "digest": "01" * 32}])
    unquoted = replace(claims, registers={"pcr4": value})
    assert policy_input(unquoted, event_log=log)["tpm"]["uefi_event_logs"] == []


def test_long_logs_are_cut() -> None:
    many = EventLog(tuple(Event(number, 1, 4, {}, b"") for number in range(EVENTS_LIMIT + 1)), ())
    assert len(event_claims(many)) == EVENTS_LIMIT
