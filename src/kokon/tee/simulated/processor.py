"""The simulated security processor: it knows what was launched and signs reports about it. Pure, given its secrets.

It stands outside the guest, as AMD's does, and answers two of the SNP ABI's guest messages (document 56860):
MSG_REPORT_REQ and MSG_KEY_REQ. All keys come from one chip secret, so a chip keeps its identity as long as that file
is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import (
    ECDSA_P384_SHA384,
    POLICY_RESERVED_ONE,
    SIGNATURE_SCALAR,
    SIGNED_SIZE,
    Report,
    encode_report,
    tcb_bytes,
)

PRODUCT: Final = "Simulated"
TCB: Final = {"bootloader": 1, "tee": 1, "snp": 1, "microcode": 1}
"""The simulated platform's security version numbers, current, committed and at launch."""
FIRMWARE_VERSION: Final = (1, 0, 1)
VMPL_LIMIT: Final = 3
GUEST_SVN: Final = 0

FIELD_POLICY: Final = 1 << 0
FIELD_IMAGE_ID: Final = 1 << 1
FIELD_FAMILY_ID: Final = 1 << 2
FIELD_MEASUREMENT: Final = 1 << 3
FIELD_GUEST_SVN: Final = 1 << 4
FIELD_TCB: Final = 1 << 5

_KEY_FIELDS = struct.Struct("<IQII")
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def expand(secret: bytes, label: str, context: bytes, size: int) -> bytes:
    """`size` bytes derived from a uniformly random secret: HKDF-Expand (RFC 5869) with SHA-384."""
    output, block, index = b"", b"", 1
    while len(output) < size:
        info = label.encode() + b"\0" + context + bytes([index])
        block = hmac.digest(secret, block + info, "sha384")
        output, index = output + block, index + 1
    return output[:size]


def chip_id(secret: bytes) -> bytes:
    """The chip's 64-byte public identity."""
    return expand(secret, "kokon simulated chip id", b"", 64)


def vcek_key(secret: bytes, tcb: bytes) -> ec.EllipticCurvePrivateKey:
    """The chip's endorsement key (P-384) for one 8-byte TCB version: another TCB, another key."""
    wide = int.from_bytes(expand(secret, "kokon simulated VCEK", tcb, 64), "big")
    return ec.derive_private_key(wide % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def current_tcb() -> bytes:
    """The simulated platform's TCB version, 8 bytes."""
    return tcb_bytes(TCB, turin=False)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """SNP MSG_KEY_REQ. `fields` says what is mixed in besides the chip's secret (FIELD_...); `root` 0 VCEK, 1
    VMRK."""

    root: int = 0
    fields: int = 0
    vmpl: int = 0
    guest_svn: int = 0
    tcb: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class Processor:
    """One chip: its secret (32 bytes) and the DER certificates VCEK, ASK, ARK for the current TCB."""

    secret: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(default=(), repr=False)

    def launch(self, measurement: bytes, host_data: bytes, policy: int, report_id: bytes) -> GuestContext:
        """A new guest. `report_id`: 32 random bytes that name it. Raises `MalformedError` (`launch-policy`)."""
        if not policy & POLICY_RESERVED_ONE or policy >> 25:
            raise MalformedError(
                "launch-policy", "the guest policy is not a valid one", expected="bit 17 set", found=hex(policy)
            )
        tcb = current_tcb()
        report = Report(
            version=3,
            guest_svn=GUEST_SVN,
            policy=policy,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            signature_algorithm=ECDSA_P384_SHA384,
            current_tcb=tcb,
            platform_info=1,
            key_info=0,
            report_data=bytes(64),
            measurement=measurement,
            host_data=host_data,
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=report_id,
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=(0, 0, 0),
            chip_id=chip_id(self.secret),
            committed_tcb=tcb,
            current_version=FIRMWARE_VERSION,
            committed_version=FIRMWARE_VERSION,
            launch_tcb=tcb,
            launch_mitigations=0,
            current_mitigations=0,
            signature=bytes(2 * SIGNATURE_SCALAR),
        )
        encode_report(report)
        return GuestContext(self, report)


@dataclass(frozen=True, slots=True)
class GuestContext:
    """What the processor keeps of one running guest. It answers for this guest only."""

    processor: Processor
    template: Report

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """A signed report, 1184 bytes, over 64 bytes of the guest's choice. Raises `MalformedError`
        (`guest-request`)."""
        if len(report_data) != 64 or not 0 <= vmpl <= VMPL_LIMIT:
            raise MalformedError("guest-request", "impossible report request", found=f"VMPL {vmpl}")
        unsigned = replace(self.template, report_data=report_data, vmpl=vmpl)
        key = vcek_key(self.processor.secret, self.template.reported_tcb)
        r, s = decode_dss_signature(key.sign(encode_report(unsigned)[:SIGNED_SIZE], ec.ECDSA(SHA384())))
        signature = r.to_bytes(SIGNATURE_SCALAR, "little") + s.to_bytes(SIGNATURE_SCALAR, "little")
        return encode_report(replace(unsigned, signature=signature))

    def evidence(self, report_data: bytes, vmpl: int = 0) -> Evidence:
        """The report with the chip's certificates. Raises as `report` does."""
        return Evidence("snp", self.report(report_data, vmpl), self.processor.certificates)

    def derived_key(self, request: KeyRequest) -> bytes:
        """A 32-byte key that only this chip and, by the chosen fields, only such guests get again.

        Raises `MalformedError` (`guest-request`): unknown fields, or security versions above the guest's own.
        """
        own = self.template
        allowed = request.root in (0, 1) and not request.fields >> 6 and 0 <= request.vmpl <= VMPL_LIMIT
        lower = len(request.tcb) == 8 and all(a <= b for a, b in zip(request.tcb, own.committed_tcb, strict=True))
        if not allowed or not lower or not 0 <= request.guest_svn <= own.guest_svn:
            raise MalformedError("guest-request", "impossible key request", found=f"fields {request.fields:#x}")
        parts = (
            (FIELD_POLICY, own.policy.to_bytes(8, "little")),
            (FIELD_IMAGE_ID, own.image_id),
            (FIELD_FAMILY_ID, own.family_id),
            (FIELD_MEASUREMENT, own.measurement),
            (FIELD_GUEST_SVN, request.guest_svn.to_bytes(4, "little")),
            (FIELD_TCB, request.tcb),
        )
        mixed = hashlib.sha384(_KEY_FIELDS.pack(request.root, request.fields, request.vmpl, 0))
        for bit, part in parts:
            mixed.update(part if request.fields & bit else bytes(len(part)))
        return expand(self.processor.secret, "kokon simulated guest key", mixed.digest(), 32)
