"""PCK certificates: what Intel's extension says about the platform. Strict DER, no cryptography.

Extension 1.2.840.113741.1.13.1 is a SEQUENCE of pairs of an object identifier below it and a value (Intel SGX PCK
Certificate and Certificate Revocation List Profile Specification, 1.3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kokon.errors import MalformedError

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
EXTENSION_LIMIT: Final = 4096
COMPONENTS: Final = 16
SGX_TYPES: Final = ("Standard", "Scalable", "Scalable with Integrity")
"""SGX types by number: which memory protection the platform has."""

_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_PCE_SVN, _CPU_SVN = 17, 18


@dataclass(frozen=True, slots=True)
class PckExtension:
    """What a PCK certificate says. `components` are the SGX TCB component SVNs 1 to 16.

    `platform_instance_id` (16 bytes) and the three flags stand in certificates of the PCK Platform CA only; else None.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None


def _malformed(what: str, found: object = None) -> MalformedError:
    return MalformedError("pck-extension", f"{what} in the PCK certificate is malformed", found=found)


def parse_pck_extension(der: bytes) -> PckExtension:
    """The extension's value of at most 4 KiB. Members that are not known are passed over: Intel signed them.

    Raises `MalformedError` (`pck-extension`).
    """
    if len(der) > EXTENSION_LIMIT:
        raise _malformed("the SGX extension", f"{len(der)} bytes")
    return _parse(der)


@lru_cache(maxsize=1024)
def _parse(der: bytes) -> PckExtension:
    values = _members(_whole(der, _SEQUENCE, "the SGX extension"), ())
    missing = {_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE} - set(values)
    if missing:
        raise _malformed("the SGX extension", f"members {sorted(values)}")
    tcb = _members(_value(values[_TCB], _SEQUENCE, "TCB"), (_TCB,))
    if set(tcb) != set(range(1, _CPU_SVN + 1)):
        raise _malformed("TCB", f"members {sorted(tcb)}")
    configuration: dict[int, bool] = {}
    if _CONFIGURATION in values:
        members = _members(_value(values[_CONFIGURATION], _SEQUENCE, "configuration"), (_CONFIGURATION,))
        configuration = {number: _boolean(member) for number, member in members.items()}
    return PckExtension(
        ppid=_octets(values[_PPID], 16, "PPID"),
        components=tuple(_integer(tcb[number], 0xFF) for number in range(1, COMPONENTS + 1)),
        pce_svn=_integer(tcb[_PCE_SVN], 0xFFFF),
        cpu_svn=_octets(tcb[_CPU_SVN], 16, "CPUSVN"),
        pce_id=_octets(values[_PCE_ID], 2, "PCE id"),
        fmspc=_octets(values[_FMSPC], 6, "FMSPC"),
        sgx_type=_integer(values[_SGX_TYPE], 0x7F, _ENUMERATED),
        platform_instance_id=_octets(values[_INSTANCE], 16, "platform instance id") if _INSTANCE in values else None,
        dynamic_platform=configuration.get(1),
        cached_keys=configuration.get(2),
        smt_enabled=configuration.get(3),
    )


_Element = tuple[int, bytes]


def _elements(data: bytes, what: str) -> Iterator[_Element]:
    """Tag and content of DER elements one after the other: short tags, definite lengths in the fewest bytes."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < 2:
            raise _malformed(what, "an element without length")
        tag, size = data[offset], data[offset + 1]
        offset += 2
        if size > 0x7F:
            count = size & 0x7F
            size = int.from_bytes(data[offset : offset + count], "big")
            if not 1 <= count <= 2 or size < (0x80, 0x100)[count - 1]:
                raise _malformed(what, "a length that is not DER")
            offset += count
        if offset + size > len(data):
            raise _malformed(what, "an element that is cut off")
        yield tag, data[offset : offset + size]
        offset += size


def _whole(data: bytes, tag: int, what: str) -> bytes:
    elements = list(_elements(data, what))
    if len(elements) != 1:
        raise _malformed(what, f"{len(elements)} elements")
    return _value(elements[0], tag, what)


def _members(data: bytes, arc: tuple[int, ...]) -> Mapping[int, _Element]:
    """Values by the last number of their identifiers, which lie directly below Intel's arc and `arc`, each once."""
    prefix = _ARC + bytes(arc)
    members: dict[int, _Element] = {}
    for tag, content in _elements(data, "the SGX extension"):
        pair = list(_elements(_value((tag, content), _SEQUENCE, "a member"), "a member"))
        if len(pair) != 2:
            raise _malformed("a member", f"{len(pair)} elements")
        identifier = _value(pair[0], _OID, "an identifier")
        number = identifier[-1] if len(identifier) == len(prefix) + 1 and identifier.startswith(prefix) else 0
        if not 0 < number < 0x80 or number in members:
            raise _malformed("an identifier", identifier.hex())
        members[number] = pair[1]
    return members


def _value(element: _Element, tag: int, what: str) -> bytes:
    if element[0] != tag:
        raise _malformed(what, f"tag {element[0]:#04x}")
    return element[1]


def _octets(element: _Element, size: int, what: str) -> bytes:
    value = _value(element, _OCTETS, what)
    if len(value) != size:
        raise _malformed(what, f"{len(value)} bytes")
    return value


def _integer(element: _Element, high: int, tag: int = _INTEGER) -> int:
    content = _value(element, tag, "a number")
    if not 1 <= len(content) <= 3 or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise _malformed("a number", content.hex())
    number = int.from_bytes(content, "big", signed=True)
    if not 0 <= number <= high:
        raise _malformed("a number", number)
    return number


def _boolean(element: _Element) -> bool:
    content = _value(element, _BOOLEAN, "a flag")
    if content not in (b"\x00", b"\xff"):
        raise _malformed("a flag", content.hex())
    return content == b"\xff"
