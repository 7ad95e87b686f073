"""A holder by passphrase: Argon2id (RFC 9106) makes a key of it, which wraps the master key in `master.json`.

The parameters stand in the file. They are bounded before anything is computed: a file from elsewhere can neither ask
for more memory than `MEMORY_HIGH`, nor for work without end, nor for less than RFC 9106's second recommendation.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from kokon.errors import HostError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody.master import KEY_SIZE, MasterKey, Random
from kokon.provisioning.custody.wrapped import decode_wrapped, encode_wrapped, parameters_of, seal, unseal
from kokon.wire import b64, unb64

if TYPE_CHECKING:
    from kokon.provisioning.custody.wrapped import HolderName, Wrapped

SALT_SIZE: Final = 16
"""Bytes of salt: RFC 9106 section 4."""
PASSPHRASE_LOW: Final = 12
PASSPHRASE_HIGH: Final = 1024
"""Bytes that a passphrase must and may have. The lower bound holds for new ones only."""
MEMORY_LOW: Final = 1 << 16
MEMORY_HIGH: Final = 1 << 21
"""KiB: what RFC 9106 section 4 recommends second (64 MiB) and first (2 GiB)."""
ITERATIONS_HIGH: Final = 64
LANES_HIGH: Final = 16
WORK_LOW: Final = 3 << 16
WORK_HIGH: Final = 1 << 23
"""KiB times passes: the second recommendation's work, and 8 GiB, some ten seconds."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id's parameters: `memory` in KiB, `iterations` (passes over it), `lanes` (threads)."""

    memory: int
    iterations: int
    lanes: int


RFC9106_FIRST: Final = Cost(memory=1 << 21, iterations=1, lanes=4)
"""RFC 9106 section 4, first recommended option: takes 2 GiB of memory at each start of the server."""
RFC9106_SECOND: Final = Cost(memory=1 << 16, iterations=3, lanes=4)
"""RFC 9106 section 4, second recommended option: 64 MiB."""


@dataclass(frozen=True, slots=True)
class PassphraseHolder:
    """Keeps a master key for whoever knows `passphrase`, whose bytes are taken as they are. `cost` is for wrapping."""

    passphrase: bytes = field(repr=False)
    cost: Cost = RFC9106_SECOND
    random: Random = field(default=secrets.token_bytes, repr=False)

    @property
    def name(self) -> HolderName:
        """`passphrase`."""
        return "passphrase"

    def wrap(self, master: MasterKey) -> bytes:
        """The content of `master.json`.

        Raises `UsageError` (`passphrase-short`, `passphrase-long`), `MalformedError` (`passphrase-cost`), `HostError`
        (`memory-short`).
        """
        if len(self.passphrase) < PASSPHRASE_LOW:
            raise UsageError(
                "passphrase-short",
                "the passphrase is too short",
                expected=f">= {PASSPHRASE_LOW} bytes",
                hint="take six random words or more",
            )
        salt = self.random(SALT_SIZE)
        key = self._stretch(salt, self.cost)
        return encode_wrapped(seal(key, self.name, _parameters(salt, self.cost), master, self.random))

    def open(self, data: bytes) -> MasterKey:
        """The master key.

        Raises `UntrustedError` (`passphrase-wrong`), `MalformedError` (`master-format`, `passphrase-cost`, and those of
        `kokon.wire`), `UsageError` (`passphrase-long`), `HostError` (`memory-short`).
        """
        wrapped = decode_wrapped(data)
        key = self._stretch(*_read_parameters(wrapped))
        try:
            return unseal(key, wrapped)
        except InvalidTag as error:
            raise UntrustedError(
                "passphrase-wrong",
                "the passphrase is wrong, or master.json was changed",
                hint="try again; if the passphrase is surely right, restore master.json from a backup",
            ) from error

    def _stretch(self, salt: bytes, cost: Cost) -> bytes:
        if len(self.passphrase) > PASSPHRASE_HIGH:
            raise UsageError("passphrase-long", "the passphrase is too long", expected=f"<= {PASSPHRASE_HIGH} bytes")
        check_cost(cost)
        try:
            return Argon2id(
                salt=salt, length=KEY_SIZE, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory
            ).derive(self.passphrase)
        except MemoryError as error:
            raise HostError(
                "memory-short",
                "there is not enough memory to try the passphrase",
                expected=f"{cost.memory >> 10} MiB",
                hint="free memory, or wrap the master key with a lower cost on a larger machine",
            ) from error


def check_cost(cost: Cost) -> None:
    """Refuse parameters that are out of bounds. Raises `MalformedError` (`passphrase-cost`)."""
    bounded = (
        MEMORY_LOW <= cost.memory <= MEMORY_HIGH
        and 1 <= cost.iterations <= ITERATIONS_HIGH
        and 1 <= cost.lanes <= LANES_HIGH
        and WORK_LOW <= cost.memory * cost.iterations <= WORK_HIGH
    )
    if not bounded:
        raise MalformedError(
            "passphrase-cost",
            "these parameters of Argon2id are too weak or too costly",
            expected=f"{MEMORY_LOW}..{MEMORY_HIGH} KiB, times passes {WORK_LOW}..{WORK_HIGH}, <= {LANES_HIGH} lanes",
            found=f"{cost.memory} KiB, {cost.iterations} passes, {cost.lanes} lanes",
        )


def _parameters(salt: bytes, cost: Cost) -> dict[str, Any]:
    return {
        "kdf": "argon2id",
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "memory-kib": cost.memory,
        "salt": b64(salt),
    }


def _read_parameters(wrapped: Wrapped) -> tuple[bytes, Cost]:
    fields = parameters_of(wrapped)
    kdf = fields.text("kdf", limit=32)
    if kdf != "argon2id":
        raise MalformedError("master-format", "master.json wants another function", expected="argon2id", found=kdf)
    cost = Cost(fields.integer("memory-kib"), fields.integer("iterations"), fields.integer("lanes"))
    salt = unb64(fields.text("salt", limit=64), what="salt", size=SALT_SIZE)
    fields.finish()
    return salt, cost
