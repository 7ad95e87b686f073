"""Guests as clients over TLS: they take every handshake step for real, honour Retry-After, and go to another replica
when theirs is gone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from bench.load.seen import Seen
from kokon.errors import KokonError
from kokon.jose.jwe import decrypt, public_jwk
from kokon.tee.simulated.processor import GuestContext
from kokon.tee.snp.envelope import to_envelope
from kokon.wire import canonical_json

TOO_OFTEN = 429
LATER = frozenset({TOO_OFTEN, 503})
_GONE = (OSError, EOFError, asyncio.TimeoutError, ssl.SSLError)
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, "" if there is none."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(self.json()["error"]["code"] if "error" in self.json() else self.json()["detail"]).split(":")[0]
        return ""


class Line:
    """One connection, kept; `source` is the client's own address, each of which has a rate limit of its own."""

    def __init__(self, context: ssl.SSLContext, port: int, source: str | None = None) -> None:
        self._context = context
        self.port = port
        self._source = source
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}, host: str = "kokon"
    ) -> Reply:
        """Ask, on a new connection if there is none. Raises those of `_GONE`."""
        try:
            return await asyncio.wait_for(self._ask(method, path, body, headers, host), _ANSWER_SECONDS)
        except _GONE:
            self.close()
            raise

    async def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], host: str) -> Reply:
        if self._writer is None:
            local = None if self._source is None else (self._source, 0)
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self._context, local_addr=local, limit=1 << 20
            )
        reader, writer = self._reader, self._writer
        if reader is None:
            raise ConnectionError
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {text}" for name, text in headers.items())]
        if body is not None or method != "GET":
            lines.append(f"Content-Length: {len(body or b'')}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)}
        data = await reader.readexactly(int(found.get("content-length", "0")))
        if found.get("connection", "").lower() == "close":
            self.close()
        return Reply(int(head[0].split()[1]), found, data)

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            with contextlib.suppress(*_GONE, RuntimeError):
                self._writer.transport.abort()
        self._reader = self._writer = None


class GuestClient:
    """One enclave with a key of its own. `ports` are the replicas it may go to, the first at first."""

    def __init__(
        self,
        seen: Seen,
        context: ssl.SSLContext,
        ports: Sequence[int],
        guest: GuestContext,
        source: str | None = None,
        patience: float = 60.0,
    ) -> None:
        self.seen = seen
        self._guest = guest
        self._ports = list(ports)
        self._at = 0
        self._context = context
        self._source = source
        self.patience = patience
        self._line = Line(context, self._ports[0], source)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._jwk = public_jwk(self._key)
        self.cookie = ""
        self.token = ""

    def close(self) -> None:
        """End the connection."""
        self._line.close()

    async def handshake(self, path: str, values: frozenset[bytes] | None = None) -> bool:
        """All of it until the secret at `path` is out, and it is one of `values`; False if patience was over first.

        Only 429 and 503 (both with Retry-After), lost connections, and a session that ended meanwhile are borne; all
        else is noted as wrong.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < self.patience:
            try:
                if await self._attest() and await self.read(path, values):
                    self.seen.seconds.append(time.monotonic() - begin)
                    return True
            except _GONE:
                self.seen.lost += 1
                self._next()
                await asyncio.sleep(random.uniform(0.02, 0.2))
        return False

    async def _attest(self) -> bool:
        """auth and attest; False: later, from the beginning. Raises those of `_GONE`."""
        self.cookie = self.token = ""
        request = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        answer = await self.ask("POST", "/kbs/v0/auth", request)
        if not await self._fine(answer, "auth"):
            return False
        answer = await self.ask("POST", "/kbs/v0/attest", self.message(answer.json()["nonce"]))
        if not await self._fine(answer, "attest"):
            return False
        self.token = answer.json()["token"]
        self.seen.granted.add(identity(self.token))
        return True

    def message(self, nonce: str) -> dict[str, Any]:
        """The Attestation for that nonce."""
        runtime = {"nonce": nonce, "tee-pubkey": self._jwk}
        digest = hashlib.sha384(canonical_json({**runtime, "additional-evidence": ""})).digest()
        evidence = {"primary_evidence": to_envelope(self._guest.evidence(digest + bytes(16)))}
        return {"runtime-data": runtime, "tee-evidence": {**evidence, "additional_evidence": ""}}

    async def read(self, path: str, values: frozenset[bytes] | None = None) -> bool:
        """The secret; False: later, from the beginning. Raises those of `_GONE`."""
        answer = await self.ask("GET", f"/kbs/v0/resource/{path}")
        if not await self._fine(answer, "resource"):
            return False
        self.seen.released[identity(self.token), path] += 1
        try:
            value = decrypt(answer.json(), self._key)
        except (KokonError, ValueError):
            self.seen.wrong(f"{path} does not decrypt")
            return False
        if values is not None and value not in values:
            self.seen.wrong(f"another value of {path} came out")
        return True

    async def ask(self, method: str, path: str, message: Any = None) -> Reply:
        """One request with this guest's session, again as long as it is told to come later for having asked too often:
        then nothing was done. Raises those of `_GONE`."""
        headers = {"Cookie": self.cookie} if self.cookie else {}
        body = None if message is None else json.dumps(message).encode()
        end = time.monotonic() + self.patience
        while True:
            answer = await self._line.ask(method, path, body, headers)
            self.seen.statuses[answer.status] += 1
            told = answer.headers.get("retry-after", "")
            if answer.status != TOO_OFTEN or not told.isdecimal() or time.monotonic() > end:
                break
            await asyncio.sleep(int(told) * random.uniform(1.0, 2.0))
        if answer.status in LATER and not answer.headers.get("retry-after", "").isdecimal():
            self.seen.wrong(f"{answer.status} to {method} {path} without Retry-After: {answer.body[:200]!r}")
        cookie = answer.headers.get("set-cookie")
        if answer.status == 200 and cookie:
            self.cookie = cookie.partition(";")[0]
        return answer

    async def ask_with(self, token: str, path: str) -> Reply:
        """GET with a token instead of the session. Raises those of `_GONE`."""
        answer = await self._line.ask("GET", path, None, {"Authorization": f"Bearer {token}"})
        self.seen.statuses[answer.status] += 1
        if answer.status in LATER and not answer.headers.get("retry-after", "").isdecimal():
            self.seen.wrong(f"{answer.status} to GET {path} without Retry-After: {answer.body[:200]!r}")
        return answer

    async def _fine(self, answer: Reply, where: str) -> bool:
        if answer.status == 200:
            return True
        if answer.status in LATER:
            told = int(answer.headers.get("retry-after", "1") or 1)
            self._next()
            await asyncio.sleep(min(told, 5) * random.uniform(1.0, 1.5))
        elif answer.status == 401 and answer.code in ("session-unknown", "nonce-used", "token-early", "token-expired"):
            await asyncio.sleep(0.05)
        else:
            self.seen.wrong(f"{where} was answered {answer.status}: {answer.body[:300]!r}")
            await asyncio.sleep(0.5)
        return False

    def _next(self) -> None:
        if len(self._ports) > 1:
            self._line.close()
            self._at = (self._at + 1) % len(self._ports)
            self._line = Line(self._context, self._ports[self._at], self._source)


def identity(token: str) -> str:
    """The id of a token."""
    payload = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"])


def source(number: int) -> str:
    """A loopback address for client `number`, below 16 million."""
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"
