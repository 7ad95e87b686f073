"""Nonces that were used: one attestation for each session at this replica. Pure, given time.

Spend a nonce when the evidence was found genuine and bound to it, right before the token is granted: of several that
arrive at once one goes on, and whoever has no such evidence cannot fill the memory. What a replay at another replica
yields is told in `session`.
"""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Final

from kokon.errors import DeniedError, HostError
from kokon.provisioning.kbs.messages import NONCE_SIZE
from kokon.wire import unb64

LIMIT: Final = 1 << 18
"""Most nonces remembered, some 70 bytes each: 870 attestations a second for the five minutes that they are good for."""
_BUCKET: Final = 30
_KEPT: Final = 12
"""Bytes of a nonce that are remembered. They are ours and random: nobody chooses two that are alike."""


class SpentNonces:
    """The nonces spent and not yet expired, at most `limit`, forgotten by the half minute. Calls are safe from several
    threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._buckets: dict[int, set[int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def spend(self, nonce: str, expires: datetime, now: datetime) -> None:
        """Use `nonce`, of a session that ends at `expires`, at the time `now` (both aware).

        Raises `DeniedError` (`nonce-used`), `HostError` (`nonces-exhausted`: too many attestations in a few minutes;
        none is accepted that could not be remembered).
        """
        key = int.from_bytes(unb64(nonce, what="nonce", size=NONCE_SIZE)[:_KEPT], "big")
        bucket = int(expires.timestamp()) // _BUCKET
        with self._lock:
            self._forget(int(now.timestamp()) // _BUCKET)
            spent = self._buckets.setdefault(bucket, set())
            if key in spent:
                raise DeniedError(
                    "nonce-used",
                    "this session has already been used for an attestation",
                    hint="start a new handshake; if this guest did not attest before, somebody replays its messages",
                )
            if self._size >= self._limit:
                hint = "try again in a few minutes; add replicas if this is the usual load"
                raise HostError("nonces-exhausted", "too many attestations within minutes", hint=hint)
            spent.add(key)
            self._size += 1

    def _forget(self, current: int) -> None:
        """Drop the buckets whose sessions have all expired."""
        for bucket in [one for one in self._buckets if one < current]:
            self._size -= len(self._buckets.pop(bucket))
