"""Azure's confidential machines: the HCL report around a hardware report, and the TD report of TDX. Pure.

Layouts from Azure's documentation of guest attestation and the Intel TDX module ABI (REPORTMACSTRUCT, TEE_TCB_INFO,
TDINFO). What ties the virtual TPM to the hardware is REPORT_DATA: SHA-256 of the JSON that holds the attestation key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from kokon.testing.vendor.intel_quote import TdReport

SNP: Final = 2
TDX: Final = 4
HARDWARE_SIZE: Final = 1184


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """The JSON beside the hardware report. `user_data` is what a guest left there, 64 bytes; `changes` are members to
    add or overwrite."""

    user_data: bytes = bytes(64)
    secure_boot: bool = True
    vm_id: str = "26F8BC30-774E-4290-8E7A-535F3B672AEE"
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def encode(self, ak: rsa.RSAPublicKey, ek: rsa.RSAPublicKey) -> bytes:
        """The bytes that are hashed."""
        configuration = {
            "console-enabled": True,
            "secure-boot": self.secure_boot,
            "tpm-enabled": True,
            "vmUniqueId": self.vm_id,
        }
        members: dict[str, Any] = {
            "keys": [_jwk("HCLAkPub", "sign", ak), _jwk("HCLEkPub", "encrypt", ek)],
            "vm-configuration": configuration,
            "user-data": self.user_data.hex().upper(),
        }
        return json.dumps(members | dict(self.changes), separators=(",", ":")).encode()


def binding(runtime_data: bytes) -> bytes:
    """REPORT_DATA for this JSON, 64 bytes."""
    return hashlib.sha256(runtime_data).digest().ljust(64, b"\0")


def hcl_report(
    hardware: bytes, runtime_data: bytes, kind: Literal[2, 4], *, version: int = 2, padding: int = 0
) -> bytes:
    """The report as it lies in the virtual TPM: header, hardware report, runtime data, and perhaps zeros behind."""
    size = 20 + len(runtime_data)
    header = struct.pack("<4sIII16x", b"HCLA", version, 32 + HARDWARE_SIZE + size, 2)
    request = struct.pack("<5I", size, 1, kind, 1, len(runtime_data))
    return header + hardware.ljust(HARDWARE_SIZE, b"\0") + request + runtime_data + bytes(padding)


def td_report(report: TdReport, cpusvn: bytes) -> bytes:
    """A TD report, 1024 bytes, of the same trust domain as a quote over `report`. Its MAC is made up: only the machine
    itself could check it."""
    attributes = struct.pack("<Q", report.seam_attributes)
    tcb = b"\xff\x01\x03" + bytes(5) + report.tee_tcb_svn + report.mrseam + report.mrsignerseam + attributes
    tcb = tcb.ljust(239, b"\0")
    info = struct.pack("<QQ", report.td_attributes, report.xfam) + report.mrtd + report.mrconfigid + report.mrowner
    info = (info + report.mrownerconfig + b"".join(report.rtmrs) + report.mrservicetd).ljust(512, b"\0")
    mac = bytes([0x81, 0, 0, 0]) + bytes(12) + cpusvn + hashlib.sha384(tcb).digest() + hashlib.sha384(info).digest()
    mac += report.report_data + bytes(32) + hashlib.sha256(b"made up" + tcb + info).digest()
    return mac + tcb + bytes(17) + info


def _jwk(kid: str, operation: str, key: rsa.RSAPublicKey) -> dict[str, Any]:
    numbers = key.public_numbers()
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(256, "big")).rstrip(b"=").decode()
    return {"kid": kid, "key_ops": [operation], "kty": "RSA", "e": "AQAB", "n": modulus}
