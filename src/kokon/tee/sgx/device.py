"""Evidence from inside an SGX enclave that Gramine runs: its pseudo files below /dev/attestation. [machine's edge]

Written from Gramine's documentation ("Attestation and Secret Provisioning", low-level interface), tested against a fake
tree, UNTESTED ON HARDWARE. Standard library only, since enclaves use it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError, UsageError
from kokon.tee.evidence import Evidence
from kokon.tee.intel.quote import QUOTE_LIMIT, EnclaveReport, parse_quote

ROOT: Final = Path("/dev/attestation")
REPORT_DATA_SIZE: Final = 64
TYPE: Final = "dcap"
"""What "attestation_type" says of an enclave that makes ECDSA quotes; "epid" and "none" are the others."""


def available(root: Path = ROOT) -> bool:
    """True inside an enclave whose manifest allows ECDSA quotes."""
    try:
        return _attestation_type(root) == TYPE
    except OSError:
        return False


def attest(report_data: bytes, *, root: Path = ROOT) -> Evidence:
    """A quote over 64 bytes of the caller's choice. One thread at a time: the pseudo files hold one request.

    Raises `UsageError` (`report-data-size`), `HostError` (`sgx-device-missing`, `sgx-attestation-type`,
    `sgx-device-failed`), `MalformedError` (`sgx-device-answer`, and those of `parse_quote`).
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise UsageError("report-data-size", "report data have 64 bytes", expected=64, found=len(report_data))
    try:
        kind = _attestation_type(root)
    except OSError as error:
        hint = "it exists inside an enclave that Gramine runs, with sgx.remote_attestation in its manifest"
        raise HostError(
            "sgx-device-missing", "this process makes no SGX quotes", expected=root, found=error.strerror, hint=hint
        ) from error
    if kind != TYPE:
        hint = 'set sgx.remote_attestation = "dcap" in the manifest'
        raise HostError(
            "sgx-attestation-type", "the enclave makes no ECDSA quotes", expected=TYPE, found=kind, hint=hint
        )
    quote = _quote(report_data, root)
    body = parse_quote(quote).body
    if not isinstance(body, EnclaveReport) or body.report_data != report_data:
        raise MalformedError("sgx-device-answer", "the quote is about something else")
    return Evidence("sgx", quote)


def _attestation_type(root: Path) -> str:
    with (root / "attestation_type").open("rb") as file:
        return file.read(32).decode("ascii", "replace").strip("\0 \n")


def _quote(report_data: bytes, root: Path) -> bytes:
    try:
        with (root / "user_report_data").open("wb", buffering=0) as file:
            file.write(report_data)
        with (root / "quote").open("rb") as file:
            return file.read(QUOTE_LIMIT + 1)
    except OSError as error:
        hint = "the machine's quoting enclave (aesmd) may not run"
        raise HostError(
            "sgx-device-failed", "the enclave got no quote", found=error.strerror or error, hint=hint
        ) from error
