"""AMD's X.509 extensions on VCEK and VLEK certificates (AMD document 57230, arc 1.3.6.1.4.1.3704.1). Values are bare
DER.

Security version numbers are INTEGERs (above 127 they take two bytes), product name and CSP are IA5Strings, and the
hardware id is a bare byte string, which some tools wrap into an OCTET STRING.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

ARC: Final = "1.3.6.1.4.1.3704.1"
STRUCT_VERSION: Final = f"{ARC}.1"
PRODUCT_NAME: Final = f"{ARC}.2"
BOOTLOADER: Final = f"{ARC}.3.1"
TEE: Final = f"{ARC}.3.2"
SNP: Final = f"{ARC}.3.3"
MICROCODE: Final = f"{ARC}.3.8"
FMC: Final = f"{ARC}.3.9"
HARDWARE_ID: Final = f"{ARC}.4"
CSP_ID: Final = f"{ARC}.5"

_INTEGER = 0x02
_OCTETS = 0x04
_IA5 = 0x16
_COMPONENTS: Final = {"bootloader": BOOTLOADER, "tee": TEE, "snp": SNP, "microcode": MICROCODE}


@dataclass(frozen=True, slots=True)
class ChipExtensions:
    """What a VCEK or VLEK says: product line ("Milan"), TCB components, hardware id (None on a VLEK), CSP (VLEK
    only)."""

    product: str
    tcb: Mapping[str, int]
    hardware_id: bytes | None
    csp: str | None


def encode_integer(value: int) -> bytes:
    """DER INTEGER of 0 to 255."""
    content = value.to_bytes(2, "big") if value > 0x7F else bytes([value])
    return bytes([_INTEGER, len(content)]) + content


def encode_text(text: str) -> bytes:
    """DER IA5String of at most 127 characters."""
    return bytes([_IA5, len(text)]) + text.encode("ascii")


def _content(value: bytes, tag: int, what: str) -> bytes:
    if len(value) < 2 or value[0] != tag or value[1] > 0x7F or len(value) != 2 + value[1]:
        raise MalformedError("amd-extension", f"{what} in the chip's certificate is malformed", found=value[:40].hex())
    return value[2:]


def _integer(value: bytes, what: str) -> int:
    content = _content(value, _INTEGER, what)
    number = int.from_bytes(content, "big")
    if number > 0xFF or encode_integer(number) != value:
        raise MalformedError("amd-extension", f"{what} in the chip's certificate is malformed", found=value[:40].hex())
    return number


def _text(value: bytes, what: str) -> str:
    content = _content(value, _IA5, what)
    if not content or not all(0x20 <= octet < 0x7F for octet in content):
        raise MalformedError("amd-extension", f"{what} in the chip's certificate is malformed", found=value[:40].hex())
    return content.decode("ascii")


def parse_extensions(values: Mapping[str, bytes]) -> ChipExtensions:
    """From extension values by dotted OID. Raises `MalformedError` (`amd-extension`)."""
    for oid in (PRODUCT_NAME, *_COMPONENTS.values()):
        if oid not in values:
            raise MalformedError("amd-extension", "the chip's certificate lacks an extension of AMD's", expected=oid)
    tcb = {name: _integer(values[oid], name) for name, oid in _COMPONENTS.items()}
    if FMC in values:
        tcb["fmc"] = _integer(values[FMC], "fmc")
    hardware = values.get(HARDWARE_ID)
    if hardware is not None:
        if len(hardware) in (66, 10) and hardware[0] == _OCTETS:
            hardware = _content(hardware, _OCTETS, "hardware id")
        if len(hardware) not in (64, 8):
            raise MalformedError("amd-extension", "the hardware id has a wrong size", found=f"{len(hardware)} bytes")
    return ChipExtensions(
        product=_text(values[PRODUCT_NAME], "product name").partition("-")[0],
        tcb=tcb,
        hardware_id=hardware,
        csp=_text(values[CSP_ID], "CSP id") if CSP_ID in values else None,
    )
