"""A project's log, or the server's own, as auditors and witnesses read it; what is checked here is what is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from kokon.errors import MalformedError, UntrustedError
from kokon.provisioning.client_transport import Transport
from kokon.provisioning.ledger.checkpoint import Checkpoint, verify_checkpoint
from kokon.provisioning.ledger.keys import VerifierKey, parse_verifier_key
from kokon.provisioning.ledger.merkle import HASH_SIZE, Frontier, leaf_hash
from kokon.provisioning.ledger.note import NOTE_LIMIT
from kokon.wire import Fields, unb64

PAGE = 1000
_KEY_LIMIT = 1024


class LogCalls(Transport):
    """Calls about logs: of the client's project, or of the server itself if `server`. All raise as `Transport`."""

    def log(
        self, *, last: int = 0, server: bool = False, key: VerifierKey | None = None
    ) -> tuple[list[bytes], Checkpoint]:
        """The `last` entries (0: all) and the head, which is signed by `key` (None: the one that the server tells). All
        entries up to it were read and hashed.

        Raises `UntrustedError` (`log-signature`, `log-broken`), `MalformedError` as notes are parsed.
        """
        key = key or self.log_key(server=server)
        page, size = self._page(0, server=server)
        head = verify_checkpoint(self.checkpoint(server=server), [key])
        tree, kept = Frontier(), deque[bytes](maxlen=last or None)
        while page:
            page = page[: head.size - tree.size]
            tree = tree.append(map(leaf_hash, page))
            kept.extend(page)
            page = self._page(tree.size, server=server)[0] if tree.size < head.size else []
        if tree.size != head.size or tree.root() != head.root:
            raise UntrustedError(
                "log-broken",
                "the log's entries are not those that its head stands for",
                expected=f"{head.size} entries, root {head.root.hex()}",
                found=f"{tree.size} entries of {size}, root {tree.root().hex()}",
                hint="export it with `kokon audit export`, and keep that as evidence",
            )
        return list(kept), head

    def log_key(self, *, server: bool = False) -> VerifierKey:
        """The log's public key, as the server tells it. Raises `MalformedError` as `parse_verifier_key`."""
        data = self.data(f"{_log(server)}/key", server=server)[:_KEY_LIMIT]
        return parse_verifier_key(_text(data).strip())

    def checkpoint(self, *, server: bool = False) -> bytes:
        """The latest signed checkpoint."""
        return self.data(f"{_log(server)}/checkpoint", server=server)

    def receipt(self, index: int, *, server: bool = False) -> bytes:
        """One entry with all that proves it."""
        return self.data(f"{_log(server)}/receipt/{index}", server=server)

    def consistency(self, first: int, *, server: bool = False) -> tuple[bytes, tuple[bytes, ...]]:
        """The latest checkpoint, and what proves that the log of `first` entries is its beginning.

        Raises `MalformedError` (those of `kokon.wire`).
        """
        answer = self.call("GET", f"{_log(server)}/consistency", server=server, params={"from": first})
        fields = Fields(answer, "proof")
        note, proof = fields.text("checkpoint", limit=NOTE_LIMIT), fields.array("proof", limit=128)
        return note.encode(), tuple(unb64(str(each), what="proof", size=HASH_SIZE) for each in proof)

    def cosigned(self, *, server: bool = False) -> dict[str, bytes]:
        """The latest checkpoint that each witness cosigned, by the witnesses' names."""
        answer = self.call("GET", f"{_log(server)}/cosigned", server=server)
        return {name: str(note).encode() for name, note in Fields(answer, "answer").table("cosigned").items()}

    def add_cosignature(self, note: bytes, line: str, key: VerifierKey, *, server: bool = False) -> dict[str, Any]:
        """Hand in what the witness with `key` signed."""
        body = {"checkpoint": note.decode(), "line": line, "key": str(key)}
        return self.call("POST", f"{_log(server)}/cosignature", server=server, json=body)

    def export(self, *, server: bool = False) -> Iterator[bytes]:
        """The whole log, piece by piece, for `ledger.audit`."""
        return self.stream(f"{_log(server)}/export", server=server)

    def entries(self, size: int, *, server: bool = False) -> Iterator[bytes]:
        """The log's first `size` entries, unverified. Raises `MalformedError` (`provisioning-answer`)."""
        at = 0
        while at < size:
            page = self._page(at, server=server)[0][: size - at]
            if not page:
                raise MalformedError("provisioning-answer", "the log ends early", expected=size, found=at)
            yield from page
            at += len(page)

    def _page(self, start: int, *, server: bool) -> tuple[list[bytes], int]:
        answer = self.call("GET", _log(server), server=server, params={"start": start, "limit": PAGE})
        fields = Fields(answer, "log")
        page = [str(entry).encode() for entry in fields.array("entries", limit=PAGE)]
        return page, fields.integer("size")


def _log(server: bool) -> str:
    return "/kokon/v1/server/log" if server else "/kokon/v1/log"


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("provisioning-answer", "the server's answer is not text") from error
