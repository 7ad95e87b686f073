"""Masters, holders and enclaves for the tests of custody."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kokon.errors import KokonError
from kokon.provisioning.custody.enclave import EnclaveHolder
from kokon.provisioning.custody.master import MasterKey
from kokon.tee.simulated import wire
from kokon.tee.simulated.processor import GuestContext, Processor
from kokon.tee.simulated.service import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

MASTER = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(range(32, 64)))
MEASUREMENT = b"m" * 48
HOST_DATA = b"h" * 32
POLICY = 0x3_0000


@contextmanager
def refused(code: str, kind: type[KokonError] = KokonError) -> Iterator[None]:
    """Inside, an error with that code must be raised, and none that shows a secret of the kit."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    told = str(caught.value.as_dict())
    assert MASTER.key.hex() not in told
    assert OTHER.key.hex() not in told


def launched(
    chip: bytes = b"c" * 32, measurement: bytes = MEASUREMENT, host_data: bytes = HOST_DATA, policy: int = POLICY
) -> GuestContext:
    """A guest of the simulated processor with that chip secret."""
    return Processor(chip).launch(measurement, host_data, policy, b"r" * 32)


@dataclass(frozen=True)
class Device:
    """What the guest's device does, without a port: the words of the wire, answered by the processor."""

    guest: GuestContext

    def derived_key(self, *, fields: int) -> bytes:
        frame = answer(self.guest, bytes([wire.KIND_KEY]) + wire.KEY_BODY.pack(0, 0, fields, 0, 0, bytes(8)))
        assert frame[4] == wire.STATUS_OK
        return frame[5:]


def cheap_holder(secret: bytes = b"e" * 32) -> EnclaveHolder:
    """A wrapping holder that costs no time."""
    return EnclaveHolder(lambda context: bytes(a ^ b for a, b in zip(secret, context, strict=True)))
