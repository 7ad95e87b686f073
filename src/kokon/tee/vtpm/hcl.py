"""Azure's HCL report: what the paravisor of a confidential machine leaves in the virtual TPM at NV index 0x01400001.

Layout (Azure's documentation of guest attestation): 32 bytes of header, beginning with "HCLA", version u32, size of
all u32, request type u32; 1184 bytes that hold an SNP report or, at the beginning, a TD report of 1024; then five u32:
size of what follows from there, version, report type (2 SNP, 4 TDX), hash type (1 SHA-256, 2 SHA-384, 3 SHA-512),
length of the runtime data; and the runtime data, JSON. Integers are little-endian. The hardware report's REPORT_DATA is
the hash of the runtime data and zeros, and the runtime data holds the attestation key: that is what binds the virtual
TPM to the hardware.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from kokon.errors import MalformedError
from kokon.tee.vtpm.quote import spki_of
from kokon.wire import Fields, parse_json, unb64url, unhex

MAGIC: Final = b"HCLA"
SNP: Final = 2
TDX: Final = 4
LIMIT: Final = 16 << 10
REPORT: Final = 1184
TD_REPORT: Final = 1024
_HEADER: Final = struct.Struct("<4sIII16s")
_REQUEST: Final = struct.Struct("<5I")
_REQUEST_AT: Final = _HEADER.size + REPORT
_DATA_AT: Final = _REQUEST_AT + _REQUEST.size
_HASHES: Final[Mapping[int, str]] = {1: "sha256", 2: "sha384", 3: "sha512"}
_KEYS_LIMIT: Final = 16

_REPORT_DATA_AT: Final[Mapping[int, int]] = {SNP: 0x50, TDX: 128}
_TD_TCB: Final = slice(264, 384)
_TD_INFO: Final = slice(512, 912)


@dataclass(frozen=True, slots=True)
class HclReport:
    """A parsed report. `hardware` is the SNP report (1184 bytes) or the TD report (1024), `runtime_data` the JSON as it
    was hashed, `claims` what it says; `ak` is the AK in it as DER SubjectPublicKeyInfo, `user_data` what the guest put
    there by NV index 0x01400002."""

    version: int
    type: int
    hash: str
    hardware: bytes
    runtime_data: bytes
    claims: Mapping[str, Any]
    ak: bytes
    user_data: bytes

    @property
    def report_data(self) -> bytes:
        """The hardware report's REPORT_DATA, 64 bytes."""
        start = _REPORT_DATA_AT[self.type]
        return self.hardware[start : start + 64]

    @property
    def binding(self) -> bytes:
        """What REPORT_DATA must be for this runtime data, 64 bytes."""
        return hashlib.new(self.hash, self.runtime_data).digest().ljust(64, b"\0")

    @property
    def td_fields(self) -> bytes:
        """The fields of a TD report that a quote repeats, in its order: 584 bytes from TEE_TCB_SVN to REPORTDATA.

        (Intel TDX module ABI: REPORTMACSTRUCT at 0, TEE_TCB_INFO at 256, TDINFO at 512.)
        """
        return self.hardware[_TD_TCB] + self.hardware[_TD_INFO] + self.report_data


def parse_hcl(data: bytes) -> HclReport:
    """An HCL report of at most 16 KiB; zeros may follow.

    Raises `MalformedError` (`hcl-malformed`, and what the JSON readers raise).
    """
    if not _DATA_AT < len(data) <= LIMIT or data[:4] != MAGIC:
        raise MalformedError("hcl-malformed", "not an HCL report", expected="HCLA...", found=f"{len(data)} bytes")
    _magic, version, total, _request, _rest = _HEADER.unpack_from(data)
    size, _version, kind, hashed, length = _REQUEST.unpack_from(data, _REQUEST_AT)
    end = _DATA_AT + length
    if end > len(data) or size != _REQUEST.size + length or total != end:
        expected = f"{size} = {_REQUEST.size} + {length}, {total} = {end}"
        raise MalformedError("hcl-malformed", "sizes in the HCL report disagree", expected=expected, found=len(data))
    if data[end:].strip(b"\0"):
        raise MalformedError("hcl-malformed", "bytes follow the HCL report", expected="zeros", found="others")
    if kind not in _REPORT_DATA_AT or hashed not in _HASHES:
        raise MalformedError(
            "hcl-malformed", "unknown kind of report or hash", expected="2 or 4", found=f"{kind}, {hashed}"
        )
    hardware = data[_HEADER.size : _REQUEST_AT]
    if kind == TDX:
        if hardware[TD_REPORT:].strip(b"\0"):
            raise MalformedError("hcl-malformed", "bytes follow the TD report", expected="zeros", found="others")
        hardware = hardware[:TD_REPORT]
    return _with_claims(version, kind, _HASHES[hashed], hardware, data[_DATA_AT:end])


def _with_claims(version: int, kind: int, hashed: str, hardware: bytes, runtime_data: bytes) -> HclReport:
    claims = parse_json(runtime_data, limit=LIMIT, what="HCL runtime data")
    fields = Fields(claims, "HCL runtime data")
    keys = fields.array("keys", limit=_KEYS_LIMIT)
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == "HCLAkPub"]
    if len(named) != 1:
        raise MalformedError(
            "hcl-malformed", "the runtime data has no one AK", expected="one HCLAkPub", found=len(named)
        )
    text = fields.text("user-data", default="")
    user_data = unhex(text, what="user-data") if text else b""
    return HclReport(version, kind, hashed, hardware, runtime_data, claims, _jwk(named[0]), user_data)


def _jwk(key: dict[str, Any]) -> bytes:
    """DER SubjectPublicKeyInfo of an RSA key in JWK form (RFC 7518, 6.3.1)."""
    fields = Fields(key, "HCLAkPub")
    if fields.text("kty") != "RSA":
        raise MalformedError("hcl-malformed", "the AK is no RSA key", expected="RSA", found=key["kty"])
    exponent, modulus = (
        int.from_bytes(unb64url(fields.text(name), what=f"HCLAkPub {name}", limit=1024), "big") for name in ("e", "n")
    )
    try:
        return spki_of(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    except ValueError as error:
        raise MalformedError("hcl-malformed", "the AK's numbers are no key", found=error) from error
