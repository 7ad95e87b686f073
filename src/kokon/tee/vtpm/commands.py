"""TPM 2.0 commands as bytes, and their answers taken apart (TPM 2.0 Library, Part 3). Pure: nothing is sent here.

Sessions are passwords with an empty password, which is what attestation keys and indexes of clouds have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kokon.errors import HostError, MalformedError
from kokon.tee.eventlog.log import ALGORITHMS
from kokon.tee.vtpm.tpm import NUMBERS, Reader

OWNER: Final = 0x40000001
ENDORSEMENT: Final = 0x4000000B
_PASSWORD: Final = 0x40000009
_PLAIN: Final = 0x8001
_WITH_SESSION: Final = 0x8002
_NULL: Final = b"\x00\x10"
RETRY: Final = 0x922
"""TPM_RC_RETRY: ask again."""
_HANDLE_ERRORS: Final = (0x18B, 0x28B, 0x184, 0x284)
"""TPM_RC_HANDLE and TPM_RC_VALUE of the first and second handle: no such key or index."""

ANSWER_LIMIT: Final = 4096
NV_CHUNK: Final = 512
"""Bytes read from an index at once; every TPM takes that (TPM_PT_NV_BUFFER_MAX is at least 512)."""
NV_LIMIT: Final = 16 << 10

RSA_AK: Final = bytes.fromhex("0001000b00050072000000100014000b0800000000000000")
"""TPMT_PUBLIC template of an attestation key: RSA 2048, restricted, RSASSA with SHA-256, of this TPM."""
_OWNER_READ: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Quoted:
    """What TPM2_Quote gives: TPMS_ATTEST and TPMT_SIGNATURE."""

    message: bytes
    signature: bytes


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _sized(data: bytes) -> bytes:
    return _number(len(data), 2) + data


def command(code: int, handles: tuple[int, ...], parameters: bytes, *, session: bool) -> bytes:
    """A whole command with its header, and a password session if it needs one."""
    body = b"".join(_number(handle, 4) for handle in handles)
    if session:
        area = _number(_PASSWORD, 4) + _sized(b"") + b"\0" + _sized(b"")
        body += _number(len(area), 4) + area
    body += parameters
    return _number(_WITH_SESSION if session else _PLAIN, 2) + _number(10 + len(body), 4) + _number(code, 4) + body


def answer(data: bytes, *, handles: int = 0) -> bytes:
    """The parameters in an answer, after `handles` handles, which stay at their beginning.

    Raises `HostError` (`tpm-command`) with the TPM's response code if it refused, (`tpm-handle`) if what was named does
    not exist; `MalformedError` (`tpm-malformed`).
    """
    reader = Reader(data, "the TPM's answer", limit=ANSWER_LIMIT)
    tag, size, code = reader.number(2), reader.number(4), reader.number(4)
    if size != len(data) or tag not in (_PLAIN, _WITH_SESSION):
        reader.refuse("it has a wrong size or tag", len(data), size)
    if code in _HANDLE_ERRORS:
        raise HostError("tpm-handle", "the TPM has no such key or index", found=f"{code:#x}")
    if code:
        raise HostError("tpm-command", "the TPM refused a command", expected="0", found=f"{code:#x}")
    found = reader.take(4 * handles)
    if tag == _PLAIN:
        return found + reader.take(len(data) - 10 - 4 * handles)
    return found + reader.take(reader.number(4))


def refused(data: bytes) -> int:
    """The response code of an answer, 0 for success."""
    return int.from_bytes(data[6:10], "big")


def _selection(bank: str, pcrs: tuple[int, ...]) -> bytes:
    bits = sum(1 << index for index in pcrs)
    return _number(1, 4) + _number(NUMBERS[bank], 2) + b"\x03" + bits.to_bytes(3, "little")


def pcr_read(bank: str, pcrs: tuple[int, ...]) -> bytes:
    """TPM2_PCR_Read; a TPM answers with eight values at most."""
    return command(0x17E, (), _selection(bank, pcrs), session=False)


def pcr_values(data: bytes, bank: str) -> tuple[int, dict[int, bytes]]:
    """The update counter and the values in an answer to TPM2_PCR_Read; none if the TPM has no such bank."""
    reader = Reader(answer(data), "PCR values", limit=ANSWER_LIMIT)
    counter, selections = reader.number(4), reader.number(4)
    indexes: list[int] = []
    for _ in range(min(selections, len(ALGORITHMS))):
        number, size = reader.number(2), reader.number(1)
        bits = int.from_bytes(reader.take(size), "little")
        if number != NUMBERS[bank] and bits:
            reader.refuse("another bank than asked for", bank, f"{number:#x}")
        indexes += [index for index in range(8 * size) if bits >> index & 1]
    count = reader.number(4)
    if count != len(indexes):
        reader.refuse("another number of values than selected", len(indexes), count)
    values = {index: reader.sized(64) for index in indexes}
    reader.finish()
    return counter, values


def quote(handle: int, nonce: bytes, bank: str, pcrs: tuple[int, ...]) -> bytes:
    """TPM2_Quote with the key's own scheme."""
    return command(0x158, (handle,), _sized(nonce) + _NULL + _selection(bank, pcrs), session=True)


def quoted(data: bytes) -> Quoted:
    """Quote and signature in an answer to TPM2_Quote."""
    body = answer(data)
    reader = Reader(body, "the TPM's quote", limit=ANSWER_LIMIT)
    message = reader.sized(ANSWER_LIMIT)
    return Quoted(message, body[2 + len(message) :])


def read_public(handle: int) -> bytes:
    """TPM2_ReadPublic of a key."""
    return command(0x173, (handle,), b"", session=False)


def public_area(data: bytes) -> bytes:
    """The TPMT_PUBLIC in an answer to TPM2_ReadPublic."""
    return Reader(answer(data), "the TPM's key", limit=ANSWER_LIMIT).sized(ANSWER_LIMIT)


def create_primary(hierarchy: int, template: bytes) -> bytes:
    """TPM2_CreatePrimary of a key from its TPMT_PUBLIC template: the same template gives the same key."""
    sensitive = _sized(_sized(b"") + _sized(b""))
    parameters = sensitive + _sized(template) + _sized(b"") + _number(0, 4)
    return command(0x131, (hierarchy,), parameters, session=True)


def created(data: bytes) -> tuple[int, bytes]:
    """Handle and TPMT_PUBLIC in an answer to TPM2_CreatePrimary."""
    reader = Reader(answer(data, handles=1), "the TPM's new key", limit=ANSWER_LIMIT)
    return reader.number(4), reader.sized(ANSWER_LIMIT)


def flush(handle: int) -> bytes:
    """TPM2_FlushContext of a key that is no longer needed."""
    return command(0x165, (), _number(handle, 4), session=False)


def nv_read_public(index: int) -> bytes:
    """TPM2_NV_ReadPublic."""
    return command(0x169, (index,), b"", session=False)


def nv_public(data: bytes) -> tuple[int, bool]:
    """Size of an index, and whether the owner may read it, from an answer to TPM2_NV_ReadPublic."""
    area = Reader(answer(data), "the TPM's index", limit=ANSWER_LIMIT).sized(256)
    reader = Reader(area, "the TPM's index")
    reader.take(6)
    attributes = reader.number(4)
    reader.sized(64)
    size = reader.number(2)
    reader.finish()
    if size > NV_LIMIT:
        raise MalformedError("tpm-malformed", "the index is too large", expected=f"<= {NV_LIMIT}", found=size)
    return size, bool(attributes & _OWNER_READ)


def nv_read(index: int, size: int, offset: int, *, owner: bool) -> bytes:
    """TPM2_NV_Read, by the owner or by the index's own empty password."""
    return command(0x14E, (OWNER if owner else index, index), _number(size, 2) + _number(offset, 2), session=True)


def nv_data(data: bytes) -> bytes:
    """The bytes in an answer to TPM2_NV_Read."""
    return Reader(answer(data), "the TPM's index", limit=ANSWER_LIMIT).sized(ANSWER_LIMIT)


def nv_write(index: int, data: bytes) -> bytes:
    """TPM2_NV_Write by the owner."""
    return command(0x137, (OWNER, index), _sized(data) + _number(0, 2), session=True)


def nv_define(index: int, size: int) -> bytes:
    """TPM2_NV_DefineSpace of an index that the owner reads and writes."""
    attributes = 1 << 1 | _OWNER_READ
    public = _number(index, 4) + _number(NUMBERS["sha256"], 2) + _number(attributes, 4) + _sized(b"") + _number(size, 2)
    return command(0x12A, (OWNER,), _sized(b"") + _sized(public), session=True)
