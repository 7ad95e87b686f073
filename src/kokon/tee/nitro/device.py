"""Evidence from inside an AWS Nitro enclave: the security module behind /dev/nsm.

Requests and responses are CBOR in the form of AWS's aws-nitro-enclaves-nsm-api: a request without parameters is its
name, any other a map of one name to its parameters; the response likewise. One ioctl carries both (Linux,
include/uapi/linux/nsm.h). Written from these documents and tested against a fake device; untested on hardware.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kokon.errors import HostError, MalformedError, UsageError
from kokon.tee.cbor import read_cbor, write_cbor
from kokon.tee.evidence import Evidence
from kokon.tee.nitro.document import DATA_LIMIT, REGISTERS, read_message

DEVICE: Final = Path("/dev/nsm")
NSM_IOCTL_RAW: Final = 0xC020_0A00
"""_IOWR(0x0A, 0, struct nsm_raw): two pairs of address and length, 64 bits each."""
RESPONSE_LIMIT: Final = 0x3000
_RAW: Final = struct.Struct("=QQQQ")

Ioctl = Callable[[int, int, bytearray], int]


@dataclass(frozen=True, slots=True)
class Register:
    """One PCR as the module describes it; a locked one cannot change any more."""

    locked: bool
    value: bytes


def attest(
    *,
    nonce: bytes | None = None,
    user_data: bytes | None = None,
    public_key: bytes | None = None,
    device: Path = DEVICE,
    ioctl: Ioctl = fcntl.ioctl,
) -> Evidence:
    """A fresh attestation document over the given bytes, at most 1024 each (the module may allow fewer).

    Raises `UsageError` (`nitro-data-too-large`), `HostError` (`nitro-device-missing`, `nitro-device-failed`,
    `nitro-device-refused`) and `MalformedError` (`nitro-device-response` and those of `read_message`).
    """
    fields = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    for name, value in fields.items():
        if value is not None and len(value) > DATA_LIMIT:
            raise UsageError(
                "nitro-data-too-large", f"{name} is too large", expected=f"<= {DATA_LIMIT}", found=len(value)
            )
    document = _call("Attestation", fields, device, ioctl).get("document")
    if not isinstance(document, bytes):
        raise MalformedError("nitro-device-response", "the security module sent no document")
    read_message(document)
    return Evidence("nitro", document)


def describe_register(index: int, *, device: Path = DEVICE, ioctl: Ioctl = fcntl.ioctl) -> Register:
    """One PCR. Raises as `attest` does, and `UsageError` (`nitro-register-index`)."""
    if not 0 <= index < REGISTERS:
        raise UsageError("nitro-register-index", "no such register", expected=f"0..{REGISTERS - 1}", found=index)
    answer = _call("DescribePCR", {"index": index}, device, ioctl)
    locked, value = answer.get("lock"), answer.get("data")
    if not isinstance(locked, bool) or not isinstance(value, bytes):
        raise MalformedError("nitro-device-response", "the security module described no register")
    return Register(locked, value)


def _call(name: str, parameters: dict[str, Any], device: Path, ioctl: Ioctl) -> dict[Any, Any]:
    response = _exchange(write_cbor({name: parameters}), device, ioctl)
    value = read_cbor(response, limit=RESPONSE_LIMIT, what="the security module's response", indefinite=True)
    if isinstance(value, dict) and len(value) == 1:
        if "Error" in value:
            raise HostError(
                "nitro-device-refused",
                "the security module refused",
                found=str(value["Error"])[:100],
                hint="InputTooLarge and InvalidArgument speak of the data given; InvalidOperation of the module",
            )
        answer = value.get(name)
        if isinstance(answer, dict):
            return answer
    raise MalformedError("nitro-device-response", "the security module's response is not understood", expected=name)


def _exchange(request: bytes, device: Path, ioctl: Ioctl) -> bytes:
    """One request through the device; the buffers live as long as the call."""
    incoming = ctypes.create_string_buffer(request, len(request))
    outgoing = ctypes.create_string_buffer(RESPONSE_LIMIT)
    message = bytearray(_RAW.pack(ctypes.addressof(incoming), len(request), ctypes.addressof(outgoing), RESPONSE_LIMIT))
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            "nitro-device-missing",
            "the security module's device cannot be opened",
            expected=device,
            found=error.strerror,
            hint="this is no Nitro enclave, or its kernel has no nsm driver, or this process may not open it",
        ) from error
    try:
        ioctl(descriptor, NSM_IOCTL_RAW, message)
    except OSError as error:
        raise HostError("nitro-device-failed", "the security module did not answer", found=error.strerror) from error
    finally:
        os.close(descriptor)
    size = _RAW.unpack(message)[3]
    if size > RESPONSE_LIMIT:
        raise MalformedError("nitro-device-response", "the security module's response is too large", found=size)
    return outgoing.raw[:size]
