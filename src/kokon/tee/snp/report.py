"""The SNP attestation report: 1184 bytes to fields and back. No cryptography, no I/O.

Layout: AMD SEV-SNP firmware ABI (document 56860), table ATTESTATION_REPORT; all integers little-endian. Versions 2 to
5 are known.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from kokon.errors import MalformedError

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
SIGNATURE_SCALAR = 72
VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1

POLICY_SMT = 1 << 16
POLICY_RESERVED_ONE = 1 << 17
POLICY_MIGRATE_MA = 1 << 18
POLICY_DEBUG = 1 << 19
POLICY_BITS: Final[Mapping[str, int]] = {
    "smt_allowed": POLICY_SMT,
    "migrate_ma_allowed": POLICY_MIGRATE_MA,
    "debug_allowed": POLICY_DEBUG,
    "single_socket_required": 1 << 20,
    "cxl_allowed": 1 << 21,
    "mem_aes_256_xts": 1 << 22,
    "rapl_dis": 1 << 23,
    "ciphertext_hiding_dram": 1 << 24,
    "page_swap_disable": 1 << 25,
}
"""Bits of POLICY above the ABI version (56860, "Guest Policy")."""
PLATFORM_BITS: Final[Mapping[str, int]] = {
    "smt_en": 1 << 0,
    "tsme_en": 1 << 1,
    "ecc_en": 1 << 2,
    "rapl_dis": 1 << 3,
    "ciphertext_hiding_dram_en": 1 << 4,
    "alias_check_complete": 1 << 5,
    "tio_en": 1 << 7,
}
"""Bits of PLATFORM_INFO (56860, "ATTESTATION_REPORT")."""

VCEK = 0
VLEK = 1

_HEAD = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s3s21x64s8s3sx3sx8sQQ")
_NAMES = (
    "version",
    "guest_svn",
    "policy",
    "family_id",
    "image_id",
    "vmpl",
    "signature_algorithm",
    "current_tcb",
    "platform_info",
    "key_info",
    "report_data",
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "report_id",
    "report_id_ma",
    "reported_tcb",
    "cpuid",
    "chip_id",
    "committed_tcb",
    "current_version",
    "committed_version",
    "launch_tcb",
    "launch_mitigations",
    "current_mitigations",
)
"""The fields in their order, as in `Report`; its signature follows."""
_TCBS = tuple(map(_NAMES.index, ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")))
_CPUID = _NAMES.index("cpuid")
_TRIPLES = tuple(map(_NAMES.index, ("cpuid", "current_version", "committed_version")))
_SIGNATURE = slice(SIGNED_SIZE, SIGNED_SIZE + 2 * SIGNATURE_SCALAR)
_TURIN = ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode")
_MILAN = ("bootloader", "tee", None, None, None, None, "snp", "microcode")
TURIN_FAMILY = 0x1A
_UNUSED = bytes(4)
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Report:
    """All fields of a report, named as in the ABI. TCB versions are the 8 raw bytes: see `tcb_components`.

    `cpuid` is (family, model, stepping), zeros before version 3; `current_version` and `committed_version` are
    (build, minor, major) of the firmware; the mitigation vectors are zero before version 5; `signature` is R then S,
    little-endian, 72 bytes each.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int]
    chip_id: bytes
    committed_tcb: bytes
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: bytes
    launch_mitigations: int
    current_mitigations: int
    signature: bytes

    @property
    def debug(self) -> bool:
        """POLICY bit 19: the hypervisor may read the guest's memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def migratable(self) -> bool:
        """POLICY bit 18: a migration agent may move the guest."""
        return bool(self.policy & POLICY_MIGRATE_MA)

    @property
    def author_key_enabled(self) -> bool:
        """KEY_INFO bit 0."""
        return bool(self.key_info & 1)

    @property
    def chip_key_masked(self) -> bool:
        """KEY_INFO bit 1: the firmware was told not to sign."""
        return bool(self.key_info & 2)

    @property
    def signing_key(self) -> int:
        """KEY_INFO bits 4 to 2: 0 VCEK, 1 VLEK, 7 none."""
        return self.key_info >> 2 & 7

    @property
    def r(self) -> int:
        """First half of the ECDSA signature as an integer."""
        return int.from_bytes(self.signature[:SIGNATURE_SCALAR], "little")

    @property
    def s(self) -> int:
        """Second half of the ECDSA signature as an integer."""
        return int.from_bytes(self.signature[SIGNATURE_SCALAR:], "little")

    @property
    def turin(self) -> bool:
        """True if TCB versions are laid out as on Turin: by CPU family, or, in version 2, which names none, if they do
        not fit Milan's layout."""
        if self.version >= 3:
            return self.cpuid[0] == TURIN_FAMILY
        return _only_turin(self.current_tcb, self.reported_tcb, self.committed_tcb, self.launch_tcb)

    def tcb(self, raw: bytes, *, turin: bool | None = None) -> dict[str, int]:
        """Components of one of this report's TCB versions; `turin` overrides the layout, for a version 2 report whose
        certificate tells more. Raises `MalformedError` (`report-reserved`) only then."""
        return tcb_components(raw, turin=self.turin if turin is None else turin)


def _zero(data: bytes, what: str) -> None:
    if data.strip(b"\0"):
        raise MalformedError(
            "report-reserved", f"{what} of the report is not zero", expected="zeros", found=data.hex()[:64]
        )


def parse_report(raw: bytes) -> Report:
    """The report in exactly 1184 bytes.

    Raises `MalformedError`: `report-size`, `report-version`, `report-reserved` (a reserved byte is set, so either the
    report is broken or says something that this code does not understand).
    """
    if len(raw) != REPORT_SIZE:
        raise MalformedError(
            "report-size", "the SNP report has a wrong size", expected=f"{REPORT_SIZE} bytes", found=len(raw)
        )
    return _parse(raw)


@lru_cache(maxsize=64)
def _parse(raw: bytes) -> Report:
    """Remembered for a moment: who reads evidence out of an envelope verifies it next."""
    values = list(_HEAD.unpack_from(raw))
    version = values[0]
    if version not in VERSIONS:
        raise MalformedError("report-version", "unknown version of the SNP report", expected="2 to 5", found=version)
    if int.from_bytes(raw, "big") & _RESERVED[version]:
        _refuse_reserved(raw, version)
    tcbs = [values[place] for place in _TCBS]
    turin = values[_CPUID][0] == TURIN_FAMILY if version >= 3 else _only_turin(*tcbs)
    for tcb in tcbs:
        _components(tcb, turin)
    for place in _TRIPLES:
        values[place] = tuple(values[place])
    values.append(raw[_SIGNATURE])
    return Report(*values)


def _reserved(version: int) -> dict[str, list[tuple[int, bytes]]]:
    """Bits that must be zero in a report of that version, by what they are: offset and mask of the bytes."""
    gaps = ((0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0))
    found = {
        "a reserved field": [_whole(*gap) for gap in gaps],
        "the reserved end of the signed part": [_whole(_HEAD.size, SIGNED_SIZE)],
        "the part after the signature": [_whole(_SIGNATURE.stop, REPORT_SIZE)],
        "the key information": [(0x48, b"\xe0\xff\xff\xff")],
    }
    if version < 3:
        found["the CPUID field of a version 2 report"] = [_whole(0x188, 0x18B)]
    if version < 5:
        found["the mitigation vectors before version 5"] = [_whole(0x1F8, 0x208)]
    return found


def _whole(start: int, end: int) -> tuple[int, bytes]:
    return start, b"\xff" * (end - start)


def _mask(version: int) -> int:
    """The same as one number, to look at all of them at once."""
    mask = bytearray(REPORT_SIZE)
    for places in _reserved(version).values():
        for start, bits in places:
            mask[start : start + len(bits)] = bits
    return int.from_bytes(mask, "big")


_RESERVED: Final = {version: _mask(version) for version in VERSIONS}


def _refuse_reserved(raw: bytes, version: int) -> None:
    """Say which of the reserved bits is set."""
    for what, places in _reserved(version).items():
        for start, bits in places:
            _zero(bytes(found & bit for found, bit in zip(raw[start:], bits, strict=False)), what)


def encode_report(report: Report) -> bytes:
    """The 1184 bytes of a report; inverse of `parse_report`. Raises `MalformedError` (`report-field`)."""
    raw = encode_fields(*(getattr(report, name) for name in _NAMES), signature=report.signature)
    if parse_report(raw) != report:
        raise MalformedError("report-field", "a field of the SNP report has a wrong size")
    return raw


def encode_fields(*fields: Any, signature: bytes) -> bytes:
    """The same from fields in the order of `Report`, whose sizes are known to be right; parse what comes out.

    Raises `MalformedError` (`report-field`).
    """
    try:
        head = _HEAD.pack(*(bytes(field) if type(field) is tuple else field for field in fields))
    except (struct.error, ValueError, TypeError) as error:
        raise MalformedError("report-field", "a field does not fit into the SNP report", found=error) from error
    return (head.ljust(SIGNED_SIZE, b"\0") + signature).ljust(REPORT_SIZE, b"\0")


def _only_turin(*tcbs: bytes) -> bool:
    return any(tcb[2:6] != _UNUSED for tcb in tcbs)


def tcb_components(raw: bytes, *, turin: bool) -> dict[str, int]:
    """Components of an 8-byte TCB_VERSION by name: bootloader, tee, snp, microcode, and fmc on Turin.

    Raises `MalformedError` (`report-reserved`) if a byte that has no meaning is set.
    """
    return dict(_components(raw, turin))


@lru_cache(maxsize=_REMEMBERED)
def _components(raw: bytes, turin: bool) -> dict[str, int]:
    layout = _TURIN if turin else _MILAN
    _zero(bytes(value for name, value in zip(layout, raw, strict=True) if name is None), "a TCB version")
    return {name: value for name, value in zip(layout, raw, strict=True) if name is not None}


def tcb_bytes(components: Mapping[str, int], *, turin: bool) -> bytes:
    """The 8 bytes of a TCB_VERSION; inverse of `tcb_components`."""
    layout = _TURIN if turin else _MILAN
    return bytes(0 if name is None else components[name] for name in layout)


def product_of(report: Report) -> str | None:
    """Product line by the CPUID that a report of version 3 or later carries; None for version 2, "" if unknown.

    Family 0 is ours: no such CPU exists, the simulated processor uses it (docs/LIMITATIONS).
    """
    family, model, _stepping = report.cpuid
    if report.version < 3:
        return None
    if family == 0x19:
        if model <= 0x0F:
            return "Milan"
        return "Genoa" if model <= 0x1F or 0xA0 <= model <= 0xAF else ""
    if family == TURIN_FAMILY and model <= 0x11:
        return "Turin"
    return "Simulated" if report.cpuid == (0, 0, 0) else ""
