"""Collecting TDX and SGX evidence, from directories and functions that play the kernel and Gramine."""

from dataclasses import replace
from pathlib import Path

import pytest
from intel_kit import ENCLAVE_REPORT, TD_REPORT, make_quote
from test_tsm import FakeTree

from kokon.errors import HostError, KokonError, MalformedError, UsageError
from kokon.tee.intel.quote import EnclaveReport, TdReport, encode_quote
from kokon.tee.sgx import device as sgx
from kokon.tee.tdx import device as tdx

DATA = bytes(range(64, 128))


def quote_over(data: bytes, body: EnclaveReport | TdReport = TD_REPORT) -> bytes:
    version = 3 if isinstance(body, EnclaveReport) else 4
    return encode_quote(make_quote(replace(body, report_data=data), version=version)).ljust(8000, b"\0")


def tree(tmp_path: Path, *, provider: str = "tdx_guest", stale: bool = False) -> FakeTree:
    answer = (lambda _inblob: quote_over(bytes(64))) if stale else quote_over
    return FakeTree(tmp_path / "report", answer, provider=provider, aux=None)


def code(error: type[KokonError], function: object, *args: object, **named: object) -> str:
    with pytest.raises(error) as caught:
        function(*args, **named)  # type: ignore[operator]
    return caught.value.code


def test_a_quote_with_its_event_log(tmp_path: Path) -> None:
    log = tmp_path / "CCEL"
    log.write_bytes(b"log")
    evidence = tdx.attest(DATA, tree=tree(tmp_path), event_log=log)
    assert (evidence.tee, evidence.parts) == ("tdx", {"event-log": b"log"})
    assert evidence.report[:2] == b"\4\0"


def test_a_quote_without_event_log(tmp_path: Path) -> None:
    assert tdx.attest(DATA, tree=tree(tmp_path), event_log=tmp_path / "none").parts == {}


def test_no_td(tmp_path: Path) -> None:
    assert code(HostError, tdx.attest, DATA, tree=tree(tmp_path, provider="sev_guest")) == "tdx-device-provider"
    stale = tree(tmp_path / "other", stale=True) if (tmp_path / "other").mkdir() is None else None
    assert code(MalformedError, tdx.attest, DATA, tree=stale) == "tdx-device-answer"


def test_event_logs(tmp_path: Path) -> None:
    log = tmp_path / "CCEL"
    assert tdx.read_event_log(log) is None
    log.write_bytes(bytes(tdx.EVENT_LOG_LIMIT + 1))
    assert code(MalformedError, tdx.read_event_log, log) == "tdx-device-answer"
    assert code(HostError, tdx.read_event_log, tmp_path) == "event-log-unreadable"


def test_a_tdreport(tmp_path: Path) -> None:
    device = tmp_path / "tdx_guest"
    device.touch()
    asked = []

    def ioctl(_descriptor: int, request: int, buffer: bytearray) -> int:
        asked.append((request, bytes(buffer[:64]), len(buffer)))
        buffer[64:] = b"r" * 1024
        return 0

    assert tdx.td_report(DATA, device=device, ioctl=ioctl) == b"r" * 1024
    assert asked == [(0xC4405401, DATA, 1088)]

    def broken(_descriptor: int, _request: int, _buffer: bytearray) -> int:
        raise OSError(5, "Input/output error")

    assert code(HostError, tdx.td_report, DATA, device=device, ioctl=broken) == "tdx-device-failed"
    assert code(HostError, tdx.td_report, DATA, device=tmp_path / "none") == "tdx-device-missing"
    assert code(UsageError, tdx.td_report, DATA[1:], device=device) == "report-data-size"


def gramine(tmp_path: Path, quote: bytes, kind: str = "dcap") -> Path:
    root = tmp_path / "attestation"
    root.mkdir()
    (root / "attestation_type").write_text(kind)
    (root / "quote").write_bytes(quote)
    return root


def test_gramine(tmp_path: Path) -> None:
    root = gramine(tmp_path, quote_over(DATA, ENCLAVE_REPORT))
    assert sgx.available(root)
    evidence = sgx.attest(DATA, root=root)
    assert (evidence.tee, evidence.report) == (
        "sgx",
        quote_over(DATA, ENCLAVE_REPORT)[:0] + (root / "quote").read_bytes(),
    )
    assert (root / "user_report_data").read_bytes() == DATA


def test_no_enclave(tmp_path: Path) -> None:
    assert not sgx.available(tmp_path / "none")
    assert code(HostError, sgx.attest, DATA, root=tmp_path / "none") == "sgx-device-missing"
    assert code(UsageError, sgx.attest, DATA + DATA, root=tmp_path) == "report-data-size"
    root = gramine(tmp_path, b"", "epid")
    assert not sgx.available(root)
    assert code(HostError, sgx.attest, DATA, root=root) == "sgx-attestation-type"


def test_gramine_that_fails(tmp_path: Path) -> None:
    root = gramine(tmp_path, quote_over(bytes(64), ENCLAVE_REPORT))
    assert code(MalformedError, sgx.attest, DATA, root=root) == "sgx-device-answer"
    (root / "quote").unlink()
    assert code(HostError, sgx.attest, DATA, root=root) == "sgx-device-failed"
