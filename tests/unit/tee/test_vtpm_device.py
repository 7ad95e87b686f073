"""Quotes from a TPM device: swtpm where it is installed, and a scripted one for what a good TPM never does."""

import hashlib
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from eventlog_kit import agile
from hypothesis import given
from hypothesis import strategies as st
from tpm_kit import Quote, found, public_area, qualified, rsa_key, select, sign, sized, value, values, with_parts

from kokon.errors import HostError, KokonError, MalformedError, UnreachableError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.tee.vtpm import commands, device
from kokon.tee.vtpm.quote import parse_pcrs
from kokon.testing.vendor import FakeVendor

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALL = tuple(range(24))
WITHOUT = Path("/nonexistent")
TEMPLATE = commands.RSA_AK

needs_swtpm = pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed (Debian package swtpm)")


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[device.Transport]:
    """A software TPM behind a socket, freshly made."""
    address = tmp_path / "tpm"
    where = f"type=unixio,path={address}"
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--server", where,
         "--ctrl", f"type=unixio,path={tmp_path}/ctrl", "--flags", "not-need-init,startup-clear"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(20)
            for _ in range(400):
                with suppress(OSError):
                    stream.connect(str(address))
                    break
                time.sleep(0.02)

            def send(command: bytes) -> bytes:
                stream.sendall(command)
                return stream.recv(4096)

            yield send
    finally:
        process.terminate()
        process.wait(10)


def extend(send: device.Transport, index: int, data: bytes) -> None:
    digest = struct.pack(">IH", 1, 11) + data
    commands.answer(send(commands.command(0x182, (index,), digest, session=True)))


@needs_swtpm
def test_evidence_of_a_real_tpm(swtpm: device.Transport, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(agile((4, 13, b"a")))
    extend(swtpm, 4, hashlib.sha256(b"a").digest())
    evidence = device.collect(device.Machine(swtpm, log), b"nonce", ("sha256", "sha384"))
    claims = verify(evidence, Endorsements(), NOW)
    assert claims.ok
    assert claims.report_data == b"nonce"
    assert found(claims, "event log: pcr4").outcome == "passed"
    assert found(claims, "attestation key name").outcome == "passed"
    assert found(claims, "attestation key").code == "tpm-ak-unbound"
    assert sorted(parse_pcrs(evidence.parts["pcrs"])) == ["sha256", "sha384"]
    again = device.collect(device.Machine(swtpm, WITHOUT), b"", ("sha256",))
    assert again.parts["ak-public"] == evidence.parts["ak-public"]
    assert "event-log" not in again.parts
    with pytest.raises(HostError) as caught:
        device.collect(device.Machine(swtpm, WITHOUT), b"", ("sha3-256",))
    assert caught.value.code in ("tpm-bank", "tpm-command")


@needs_swtpm
def test_indexes_of_a_real_tpm(swtpm: device.Transport) -> None:
    machine = device.Machine(swtpm, WITHOUT)
    assert machine.read_index(device.AZURE_USER_DATA) is None
    for data in (b"x" * 48, b"y" * 64):
        machine.write_user_data(data)
        assert machine.read_index(device.AZURE_USER_DATA) == data.ljust(64, b"\0")
    content = bytes(range(256)) * 8
    commands.answer(swtpm(commands.nv_define(device.AZURE_REPORT, len(content))))
    for start in (0, 1024):
        part = sized(content[start : start + 1024]) + struct.pack(">H", start)
        write = commands.command(0x137, (commands.OWNER, device.AZURE_REPORT), part, session=True)
        commands.answer(swtpm(write))
    assert machine.read_index(device.AZURE_REPORT) == content


def persist(send: device.Transport, template: bytes, handle: int) -> bytes:
    """A key made of the template that stays in the TPM."""
    made, public = commands.created(send(commands.create_primary(commands.OWNER, template)))
    evict = commands.command(0x120, (commands.OWNER, made), struct.pack(">I", handle), session=True)
    commands.answer(send(evict))
    return public


@needs_swtpm
def test_azures_key_and_report(swtpm: device.Transport) -> None:
    vendor = FakeVendor(now=NOW)
    made = vendor.azure_snp().parts["hcl-report"]
    persist(swtpm, TEMPLATE, device.AZURE_AK)
    commands.answer(swtpm(commands.nv_define(device.AZURE_REPORT, 2048)))
    report = made if len(made) <= 2048 else shortened(made)
    for start in range(0, len(report), 1024):
        part = sized(report[start : start + 1024]) + struct.pack(">H", start)
        commands.answer(swtpm(commands.command(0x137, (commands.OWNER, device.AZURE_REPORT), part, session=True)))
    blank = 2048 - len(report)
    part = sized(bytes(blank)) + struct.pack(">H", len(report))
    commands.answer(swtpm(commands.command(0x137, (commands.OWNER, device.AZURE_REPORT), part, session=True)))
    evidence = device.collect(device.Machine(swtpm, WITHOUT), b"nonce")
    assert evidence.tee == "az-snp-vtpm"
    assert evidence.parts["hcl-report"] == report + bytes(blank)
    assert "ak-public" not in evidence.parts
    # The report is of another machine's key than this TPM's.
    assert "tpm-signature" in [check.code for check in verify(evidence, Endorsements(), NOW).failures]


def shortened(report: bytes) -> bytes:
    """An HCL report with only the attestation key in it."""
    import json

    from kokon.tee.vtpm.hcl import parse_hcl
    from kokon.testing.vendor.azure import hcl_report

    parsed = parse_hcl(report)
    keys = [key for key in parsed.claims["keys"] if key["kid"] == "HCLAkPub"]
    return hcl_report(parsed.hardware, json.dumps({"keys": keys}).encode(), 2)


@needs_swtpm
def test_googles_template_and_certificate(swtpm: device.Transport) -> None:
    from unit_x509 import Authority

    certificate = Authority("leaf", ca=False).der
    for index, content in ((device.GOOGLE_TEMPLATE, TEMPLATE), (device.GOOGLE_CERTIFICATE, certificate)):
        commands.answer(swtpm(commands.nv_define(index, len(content))))
        commands.answer(swtpm(commands.nv_write(index, content)))
    evidence = device.collect(device.Machine(swtpm, WITHOUT), b"nonce")
    assert (evidence.tee, evidence.certificates) == ("tpm", (certificate,))
    claims = verify(evidence, Endorsements(), NOW)
    assert claims.ok
    parent = qualified(evidence.parts["ak-public"], commands.ENDORSEMENT)
    assert claims.details["quotes"][0]["qualified_signer"] == parent.hex()


# a scripted TPM


def reply(parameters: bytes = b"", code: int = 0, *, session: bool = False, handle: bytes = b"") -> bytes:
    body = handle + (struct.pack(">I", len(parameters)) + parameters + bytes(5) if session else parameters)
    return struct.pack(">HII", 0x8002 if session else 0x8001, 10 + len(body), code) + body


class Scripted:
    """Answers commands by their code; a handler may be a list of answers, the last of which is repeated."""

    def __init__(self, **changes: Callable[[bytes], bytes] | list[bytes]) -> None:
        self.quote = Quote((("sha256", ALL),), signer=qualified(public_area(rsa_key())))
        self.changes = {int(name.removeprefix("c"), 16): answer for name, answer in changes.items()}
        self.seen: list[int] = []

    def __call__(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10], "big")
        self.seen.append(code)
        answer = self.changes.get(code) or getattr(self, f"on_{code:x}")
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer(command)

    def on_169(self, _command: bytes) -> bytes:
        return reply(code=0x18B)

    def on_131(self, _command: bytes) -> bytes:
        return reply(sized(public_area(rsa_key())) + bytes(9), session=True, handle=b"\x80\0\0\0")

    def on_165(self, _command: bytes) -> bytes:
        return reply()

    def on_158(self, _command: bytes) -> bytes:
        message = self.quote.encode()
        return reply(sized(message) + sign(message, rsa_key()), session=True)

    def on_17e(self, command: bytes) -> bytes:
        bits = int.from_bytes(command[17:20], "little")
        pcrs = tuple(index for index in range(24) if bits >> index & 1)
        listed = b"".join(sized(value(index)) for index in pcrs)
        return reply(struct.pack(">I", 7) + select(("sha256", pcrs)) + struct.pack(">I", len(pcrs)) + listed)


def collect(tpm: Scripted, nonce: bytes = b"nonce", log: Path = WITHOUT) -> Evidence:
    return device.collect(device.Machine(tpm, log), nonce)


def code(tpm: Scripted, kind: type[KokonError] = HostError) -> str:
    with pytest.raises(kind) as caught:
        collect(tpm)
    return caught.value.code


def test_the_scripted_tpm() -> None:
    tpm = Scripted()
    evidence = collect(tpm)
    assert verify(evidence, Endorsements(), NOW).ok
    assert parse_pcrs(evidence.parts["pcrs"]) == {"sha256": values(ALL)}
    assert tpm.seen[-2:] == [0x165, 0x169]
    assert evidence == with_parts(evidence, ak_public=public_area(rsa_key()))


def test_keys_are_flushed_whatever_happens() -> None:
    tpm = Scripted(c158=[reply(code=0x99)])
    assert code(tpm) == "tpm-command"
    assert tpm.seen[-1] == 0x165


def test_a_tpm_that_asks_to_be_asked_again() -> None:
    busy = reply(code=commands.RETRY)
    tpm = Scripted(c158=[busy, busy, Scripted().on_158(b"")])
    assert collect(tpm).report == tpm.quote.encode()
    assert code(Scripted(c158=[busy])) == "tpm-command"


def test_pcrs_that_do_not_hold_still() -> None:
    counters = iter(range(10**6))

    def count(command: bytes) -> bytes:
        answer = Scripted().on_17e(command)
        return answer[:10] + struct.pack(">I", next(counters)) + answer[14:]

    assert code(Scripted(c17e=count)) == "tpm-busy"
    stale = Quote((("sha256", ALL),), digest=bytes(32)).encode()
    assert code(Scripted(c158=[reply(sized(stale) + sign(stale, rsa_key()), session=True)])) == "tpm-busy"


def test_a_bank_that_is_not_there() -> None:
    none = reply(struct.pack(">II", 7, 0) + struct.pack(">I", 0))
    assert code(Scripted(c17e=[none])) == "tpm-bank"


def test_a_key_that_is_not_there() -> None:
    """A machine with Azure's report and without its key."""
    area = struct.pack(">IHI", device.AZURE_REPORT, 11, 1 << 17) + sized(b"") + struct.pack(">H", 4)
    indexes = [reply(sized(area)), reply(code=0x18B), reply(sized(area))]
    tpm = Scripted(c169=indexes, c14e=[reply(sized(b"HCLA"), session=True)], c173=[reply(code=0x18B)])
    assert code(tpm) == "tpm-handle"


def test_indexes_that_cannot_be_read() -> None:
    assert code(Scripted(c169=[reply(code=0x99)])) == "tpm-command"
    area = struct.pack(">IHI", 0x01C10001, 11, 1 << 18) + sized(b"") + struct.pack(">H", 0x4001)
    assert code(Scripted(c169=[reply(sized(area))]), MalformedError) == "tpm-malformed"
    area = struct.pack(">IHI", 0x01C10001, 11, 1 << 18) + sized(b"") + struct.pack(">H", 4)
    tpm = Scripted(c169=[reply(sized(area))], c14e=[reply(sized(b"data"), session=True)])
    assert device.Machine(tpm).read_index(0x01C10001) == b"data"
    tpm = Scripted(c169=[reply(sized(area))], c14e=[reply(sized(b""), session=True)])
    with pytest.raises(MalformedError) as caught:
        device.Machine(tpm).read_index(0x01C10001)
    assert caught.value.code == "tpm-malformed"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        reply()[:-1],
        reply() + b"\0",
        b"\x77\x77" + reply()[2:],
        bytes(5000),
        reply(struct.pack(">II", 7, 1) + b"\0\x04\x03\1\0\0" + struct.pack(">I", 1) + sized(bytes(20))),
        reply(struct.pack(">I", 7) + select(("sha256", (0, 1))) + struct.pack(">I", 1) + sized(bytes(32))),
        reply(struct.pack(">I", 7) + select(("sha256", (0,))) + struct.pack(">I", 1) + sized(bytes(32)) + b"\0"),
    ],
)
def test_malformed_answers(answer: bytes) -> None:
    assert code(Scripted(c17e=[answer]), MalformedError) == "tpm-malformed"


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_answers_raise_nothing_else(data: bytes, framed: bool) -> None:
    answer = reply(data) if framed else data
    for parse in (commands.quoted, commands.created, commands.nv_data, commands.nv_public, commands.public_area):
        with suppress(MalformedError, HostError):
            parse(answer)  # type: ignore[operator]
    with suppress(MalformedError, HostError):
        commands.pcr_values(answer, "sha256")


def test_the_device_file(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        device.attest(b"nonce", device=tmp_path / "missing")
    assert caught.value.code == "tpm-missing"
    with pytest.raises(UnreachableError) as unreachable:
        device.attest(b"nonce", device=Path("/dev/full"))
    assert unreachable.value.code == "tpm-unreachable"
    file = tmp_path / "device"
    file.write_bytes(b"")
    with pytest.raises(MalformedError) as malformed:
        device.attest(b"nonce", device=file)
    assert malformed.value.code == "tpm-malformed"


@pytest.mark.parametrize("action", [device.attest, device.Machine(Scripted()).write_user_data])
def test_nonces_that_are_too_long(action: Callable[[bytes], object]) -> None:
    with pytest.raises(UsageError) as caught:
        action(bytes(65))
    assert caught.value.code == "tpm-nonce"


def test_the_event_log_is_taken_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(agile((4, 13, b"a")))
    assert collect(Scripted(), log=log).parts["event-log"] == log.read_bytes()
