"""Real event logs: replay equals the manifest's registers, and two real quotes' RTMRs."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import MalformedError
from kokon.tee.eventlog.events import data_matches
from kokon.tee.eventlog.log import looks_like_event_log, parse_event_log
from kokon.tee.eventlog.replay import replay, replay_check

pytestmark = pytest.mark.vectors

RTMRS = {1: "rtmr0", 2: "rtmr1", 3: "rtmr2", 4: "rtmr3"}
BODY, RTMR0 = 48, 328


def logs(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [entry for entry in manifest if entry["kind"] == "eventlog"]
    assert len(found) >= 10
    return found


def rtmrs(quote: bytes) -> dict[int, bytes]:
    """By their numbers in an event log, from a version 4 quote."""
    return {number: quote[BODY + RTMR0 + 48 * (number - 1) :][:48] for number in RTMRS}


def test_every_log_leads_to_the_manifests_registers(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    compared = 0
    for entry in logs(manifest):
        data = (vectors / entry["file"]).read_bytes()
        log = parse_event_log(data)
        assert looks_like_event_log(data)
        expected = entry["claims"]["replay"]
        banks = {"sha384": expected} if entry["file"].startswith("tdx/") else expected
        assert set(banks) <= set(log.algorithms)
        for bank, registers in banks.items():
            assert {str(index): value.hex() for index, value in replay(log, bank).items()} == registers
            compared += len(registers)
        assert all(event.description for event in log.events)
    assert compared > 100


def test_the_log_of_a_real_quote(vectors: Path) -> None:
    log = parse_event_log((vectors / "tdx/ccel_gce_cos113.bin").read_bytes())
    signed = rtmrs((vectors / "tdx/v4_gce_cos113.quote.bin").read_bytes())
    checks = list(replay_check(log, "sha384", signed, RTMRS))
    assert [check.outcome for check in checks] == ["passed"] * 4
    assert log.events[39].description.startswith("grub_cmd: linux /syslinux/vmlinuz.A init=")
    assert data_matches(log.events[39]) is True
    assert log.events[18].description.startswith(r"image \EFI\BOOT\BOOTX64.EFI, 924688 bytes (data not covered")


def test_a_log_of_another_boot(vectors: Path) -> None:
    log = parse_event_log((vectors / "tdx/ccel_dstack.bin").read_bytes())
    signed = rtmrs((vectors / "tdx/v4_tappd.quote.bin").read_bytes())
    checks = list(replay_check(log, "sha384", signed, RTMRS))
    assert [check.outcome for check in checks] == ["passed", "failed", "passed", "not-checked"]
    assert [check.code for check in checks] == [None, "event-log-mismatch", None, "event-log-silent"]


def test_broken_logs(vectors: Path) -> None:
    short = parse_event_log((vectors / "tpm/eventlog_short_no_action").read_bytes())
    assert (len(short.events), short.locality, replay(short, "sha1")) == (1, 3, {})
    missing = parse_event_log((vectors / "tpm/eventlog_ebs_missing").read_bytes())
    assert not any("Exit Boot Services" in event.description for event in missing.events)


def test_old_versions_of_shim_write_data_that_was_not_measured(vectors: Path) -> None:
    log = parse_event_log((vectors / "tpm/eventlog_debian-10.bin").read_bytes())
    assert [event.index for event in log.events if data_matches(event) is False] == [23]


@pytest.mark.parametrize(
    "name", ["tdx/ccel_dstack.bin", "tpm/eventlog_cos-85-amd-sev.bin", "tpm/eventlog_debian-10.bin"]
)
def test_every_length_and_many_flips(vectors: Path, name: str) -> None:
    data = (vectors / name).read_bytes()
    whole = parse_event_log(data)
    used = len(data.rstrip(b"\xff").rstrip(b"\0"))
    lengths = {0, 1, 31, 32, 48, used - 1, used, used + 1, *range(0, used, 7)}
    for size in sorted(lengths):
        try:
            log = parse_event_log(data[:size])
        except MalformedError:
            continue
        assert log.events == whole.events[: len(log.events)]
    chance = random.Random(3)
    for bit in chance.sample(range(8 * used), 2000):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            log = parse_event_log(bytes(changed))
            found = [replay(log, bank) for bank in log.algorithms]
        except MalformedError:
            continue
        same = found == [replay(whole, bank) for bank in whole.algorithms]
        digests = [(event.register, event.digests) for event in whole.events if event.extended]
        assert not same or [(event.register, event.digests) for event in log.events if event.extended] == digests


def test_replay_is_quick(vectors: Path) -> None:
    log = parse_event_log((vectors / "tpm/eventlog_ubuntu-2104-no-secure-boot.bin").read_bytes())
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        replay(log, "sha256")
        durations.append(time.perf_counter() - start)
    assert min(durations) / len(log.events) * 1000 < 0.02
