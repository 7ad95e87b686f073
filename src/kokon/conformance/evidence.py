"""Evidence of the suite's guests, in the protocol's JSON: `sample`, which nobody signs, and `snp` of a simulated chip.

The SNP envelope is taken from the report's raw bytes (AMD document 56860, table "ATTESTATION_REPORT").
"""

from __future__ import annotations

import hashlib
import struct
import tomllib
from dataclasses import dataclass, field
from typing import Any, Protocol

from kokon.conformance.case import Skip
from kokon.conformance.messages import b64
from kokon.errors import UsageError
from kokon.tee.simulated.processor import Processor

POLICY = 0x30000
"""SNP guest policy: SMT allowed, no debugging, no migration."""
_REPORT_ID = hashlib.sha256(b"kokon conformance").digest()


class Attester(Protocol):
    """Something that makes evidence over a digest."""

    @property
    def tee(self) -> str:
        """The protocol's name for it."""

    @property
    def binds_init_data(self) -> bool:
        """Whether the hardware names the launch document."""

    def evidence(self, digest: bytes) -> Any:
        """Evidence over `digest`, as JSON."""

    def altered(self, digest: bytes) -> Any:
        """The same with one claim changed after it was signed. Raises `Skip` if nothing is signed."""

    def truncated(self, digest: bytes) -> Any:
        """The same with something cut off."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Evidence for trials of the protocol: anyone can make it."""

    tee: str = "sample"
    binds_init_data: bool = False

    def evidence(self, digest: bytes) -> Any:
        """`svn` and `report_data`."""
        return {"svn": "1", "report_data": b64(digest)}

    def altered(self, digest: bytes) -> Any:
        """Nothing is signed."""
        del digest
        raise Skip("sample evidence is not signed")

    def truncated(self, digest: bytes) -> Any:
        """With half of the report data."""
        return self.evidence(digest[: len(digest) // 2])


@dataclass(frozen=True, slots=True)
class Snp:
    """Reports of one guest of a simulated chip, launched with a document and a measurement."""

    processor: Processor = field(repr=False)
    host_data: bytes
    measurement: bytes
    tee: str = "snp"
    binds_init_data: bool = True

    def evidence(self, digest: bytes) -> Any:
        """The report over `digest`, which zeros follow, and the chain."""
        guest = self.processor.launch(self.measurement, self.host_data, POLICY, _REPORT_ID)
        return envelope(guest.report(digest.ljust(64, b"\0")), self.processor.certificates)

    def altered(self, digest: bytes) -> Any:
        """With another measurement."""
        value = self.evidence(digest)
        value["attestation_report"]["measurement"][0] ^= 1
        return value

    def truncated(self, digest: bytes) -> Any:
        """Without the second half of the signature."""
        value = self.evidence(digest)
        value["attestation_report"]["signature"]["s"] = [0] * 72
        return value


def foreign(tee: str) -> Any:
    """Something that is the evidence of another TEE than `tee`."""
    return {"svn": "1", "report_data": b64(bytes(48))} if tee != "sample" else {"quote": b64(bytes(1020))}


def fitted_digest(document: str, size: int = 32) -> bytes:
    """The digest of a launch document by the algorithm that it names, cut or filled with zeros to `size` bytes.

    Raises `UsageError` (`conformance-initdata`).
    """
    try:
        algorithm = tomllib.loads(document).get("algorithm")
    except tomllib.TOMLDecodeError as error:
        raise UsageError("conformance-initdata", "the launch document is not TOML", found=error) from error
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise UsageError(
            "conformance-initdata",
            "the launch document names no hash",
            expected="sha256, sha384, sha512",
            found=algorithm,
        )
    return hashlib.new(algorithm, document.encode()).digest()[:size].ljust(size, b"\0")


def envelope(report: bytes, certificates: tuple[bytes, ...]) -> dict[str, Any]:
    """A report of version 3 (Milan, Genoa: no Turin) taken apart, with VCEK, ASK and ARK."""

    def array(start: int, size: int) -> list[int]:
        return list(report[start : start + size])

    def number(form: str, start: int) -> int:
        return int(struct.unpack_from(form, report, start)[0])

    def tcb(start: int) -> dict[str, int | None]:
        parts = report[start : start + 8]
        return {"fmc": None, "bootloader": parts[0], "tee": parts[1], "snp": parts[6], "microcode": parts[7]}

    def version(start: int) -> dict[str, int]:
        return {"build": report[start], "minor": report[start + 1], "major": report[start + 2]}

    fields: dict[str, Any] = {
        "version": number("<I", 0), "guest_svn": number("<I", 4), "policy": number("<Q", 8),
        "family_id": array(0x10, 16), "image_id": array(0x20, 16),
        "vmpl": number("<I", 0x30), "sig_algo": number("<I", 0x34), "current_tcb": tcb(0x38),
        "plat_info": number("<Q", 0x40), "key_info": number("<I", 0x48),
        "report_data": array(0x50, 64), "measurement": array(0x90, 48), "host_data": array(0xC0, 32),
        "id_key_digest": array(0xE0, 48), "author_key_digest": array(0x110, 48),
        "report_id": array(0x140, 32), "report_id_ma": array(0x160, 32), "reported_tcb": tcb(0x180),
        "cpuid_fam_id": report[0x188], "cpuid_mod_id": report[0x189], "cpuid_step": report[0x18A],
        "chip_id": array(0x1A0, 64), "committed_tcb": tcb(0x1E0),
        "current": version(0x1E8), "committed": version(0x1EC), "launch_tcb": tcb(0x1F0),
        "signature": {"r": array(0x2A0, 72), "s": array(0x2E8, 72)},
    }  # fmt: skip
    names = ("VCEK", "ASK", "ARK")
    chain = [{"cert_type": name, "data": list(der)} for name, der in zip(names, certificates, strict=False)]
    return {"attestation_report": fields, "cert_chain": chain or None}
