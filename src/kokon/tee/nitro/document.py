"""The attestation document of AWS Nitro Enclaves: the CBOR map that a COSE_Sign1 message carries. Pure.

Limits are those of AWS's "Nitro Enclaves Attestation Process", sections 2.2 (CDDL) and 3.2.2.2; where the two disagree
(user data and nonces of 512 or 1024 bytes) the larger one holds, since only AWS can sign either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.cbor import read_cbor
from kokon.tee.certificates import REMEMBERED
from kokon.tee.cose import CoseSign1, parse_sign1

MESSAGE_LIMIT: Final = 20 << 10
PAYLOAD_LIMIT: Final = 16 << 10
CERTIFICATE_LIMIT: Final = 1024
BUNDLE_LIMIT: Final = 8
DATA_LIMIT: Final = 1024
MODULE_ID_LIMIT: Final = 256
REGISTERS: Final = 32
REGISTER_SIZES: Final = (32, 48, 64)
_LAST_MOMENT: Final = 253_402_300_799_999
"""The year 9999's end in milliseconds."""

_MANDATORY: Final = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL: Final = ("public_key", "user_data", "nonce")
_NITRO_TPM: Final = "nitrotpm_pcrs"


@dataclass(frozen=True, slots=True)
class Document:
    """The fields by AWS's names. `timestamp` counts milliseconds since 1970; `cabundle` is DER, the root first; `pcrs`
    are by index; what an enclave may give along is None where it gave nothing."""

    module_id: str
    digest: str
    timestamp: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


@lru_cache(maxsize=REMEMBERED // 8)
def read_message(data: bytes) -> tuple[CoseSign1, Document]:
    """The signed message, at most 20 KiB, and the document in it. Nothing is verified.

    Raises `MalformedError` (`cbor-too-large`, `cbor-malformed`, `cose-malformed`, `nitro-malformed`,
    `nitro-not-an-enclave`).
    """
    message = parse_sign1(data, limit=MESSAGE_LIMIT, what="the attestation document")
    if message.payload is None:
        raise _malformed("the attestation document is detached from its signature")
    return message, parse_document(message.payload)


def parse_document(payload: bytes) -> Document:
    """The document, at most 16 KiB. Maps and strings may be of indefinite length: newer hypervisors write them so.

    Raises `MalformedError` (`cbor-too-large`, `cbor-malformed`, `nitro-malformed`, `nitro-not-an-enclave`).
    """
    value = read_cbor(payload, limit=PAYLOAD_LIMIT, what="the attestation document", indefinite=True)
    if not isinstance(value, dict):
        raise _malformed("the attestation document is no map", type(value).__name__)
    if _NITRO_TPM in value:
        raise MalformedError(
            "nitro-not-an-enclave",
            "this document is of a NitroTPM",
            expected="pcrs",
            found=_NITRO_TPM,
            hint="it speaks of an EC2 instance, whose owner can read its memory, and not of an enclave",
        )
    missing = set(_MANDATORY) - set(value)
    unknown = set(value) - set(_MANDATORY) - set(_OPTIONAL)
    if missing or unknown:
        raise _malformed(
            "the attestation document lacks fields or has unknown ones", sorted(map(str, missing | unknown))
        )
    return Document(
        module_id=_text(value["module_id"], "module_id", MODULE_ID_LIMIT),
        digest=_digest(value["digest"]),
        timestamp=_timestamp(value["timestamp"]),
        pcrs=_registers(value["pcrs"]),
        certificate=_bytes(value["certificate"], "certificate", 1, CERTIFICATE_LIMIT),
        cabundle=_bundle(value["cabundle"]),
        public_key=_optional(value, "public_key", 1),
        user_data=_optional(value, "user_data", 0),
        nonce=_optional(value, "nonce", 0),
    )


def _malformed(message: str, found: object = None) -> MalformedError:
    return MalformedError("nitro-malformed", message, found=found)


def _text(value: Any, name: str, limit: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= limit:
        raise _malformed(f"{name} must be a text of 1 to {limit} characters", type(value).__name__)
    return value


def _digest(value: Any) -> str:
    if value != "SHA384":
        raise _malformed("digest must be SHA384", repr(value)[:80])
    return "SHA384"


def _timestamp(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LAST_MOMENT:
        raise _malformed("timestamp must be milliseconds since 1970", repr(value)[:80])
    return value


def _bytes(value: Any, name: str, low: int, high: int) -> bytes:
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise _malformed(f"{name} must be {low} to {high} bytes", type(value).__name__)
    return value


def _optional(members: Mapping[Any, Any], name: str, low: int) -> bytes | None:
    value = members.get(name)
    return None if value is None else _bytes(value, name, low, DATA_LIMIT)


def _registers(value: Any) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= REGISTERS:
        raise _malformed(f"pcrs must be a map of 1 to {REGISTERS} registers", type(value).__name__)
    for index, register in value.items():
        if not isinstance(index, int) or not 0 <= index < REGISTERS:
            raise _malformed(f"a register's index must be from 0 to {REGISTERS - 1}", repr(index)[:80])
        if not isinstance(register, bytes) or len(register) not in REGISTER_SIZES:
            raise _malformed("a register must be 32, 48 or 64 bytes", index)
    return dict(sorted(value.items()))


def _bundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= BUNDLE_LIMIT:
        raise _malformed(f"cabundle must be 1 to {BUNDLE_LIMIT} certificates", type(value).__name__)
    return tuple(_bytes(certificate, "a certificate of cabundle", 1, CERTIFICATE_LIMIT) for certificate in value)
