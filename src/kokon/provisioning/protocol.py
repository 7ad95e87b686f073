"""The key broker protocol, bytes to values and back, and its sessions. No sockets, files or clocks.

Versions 0.1.1, 0.2.0, 0.3.0 and 0.4.0 are spoken side by side: they differ in the form of the attestation and in what
its report data covers. A session keeps the version that it was opened with.

Facts: Confidential Containers, kbs attestation protocol. One handshake: Request -> Challenge (a nonce and a session),
Attestation -> token. A session admits one attestation, whether it succeeds or fails, so that nothing can be replayed.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, MalformedError
from kokon.jose.jwe import from_jwk, public_jwk
from kokon.wire import Fields, b64, canonical_json, parse_json

if TYPE_CHECKING:
    from kokon.jose.jwe import PublicKey

VERSION = "0.4.0"
VERSIONS = ("0.1.1", "0.2.0", "0.3.0", VERSION)
TEES = ("snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm", "nitro")
"""TEE names of the protocol that this server has a verifier for; Nitro's is ours. `sample` proves nothing."""
COOKIE = "kbs-session-id"
ERROR_PREFIX = "https://github.com/confidential-containers/kbs/errors/"
REQUEST_LIMIT = 64 << 10
ATTEST_LIMIT = 1 << 20
NONCE_SIZE = 32
SESSIONS = 4096
SESSION_LIFETIME = timedelta(minutes=5)
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Attestation:
    """The guest's message: the nonce it answers, its key as JWK (rebuilt) and as key, evidence, launch document.

    `nonce` is empty in versions whose message has none; `additional` is None before 0.4.0, which knows no composite
    evidence.
    """

    nonce: str
    jwk: dict[str, str]
    key: PublicKey
    evidence: Any
    additional: str | None
    init_data: bytes | None


@dataclass(frozen=True, slots=True)
class Hello:
    """What a Request says: the protocol's version and the TEE's name."""

    version: str
    tee: str


def parse_request(data: bytes) -> Hello:
    """A Request of at most 64 KiB.

    Raises `MalformedError` (`protocol-version`, `tee-unsupported`, and those of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=REQUEST_LIMIT, what="request"), "request")
    version = fields.text("version", limit=32)
    tee = fields.text("tee", limit=32)
    fields.value("extra-params")
    fields.finish()
    if version not in VERSIONS:
        raise MalformedError(
            "protocol-version",
            "this protocol version is not spoken here",
            expected=", ".join(VERSIONS),
            found=repr(version),
        )
    if tee not in TEES:
        raise MalformedError(
            "tee-unsupported", "there is no verifier for this TEE", expected=" ".join(TEES), found=repr(tee)
        )
    return Hello(version, tee)


def challenge(nonce: str) -> dict[str, Any]:
    """The Challenge that carries `nonce`."""
    return {"nonce": nonce, "extra-params": ""}


def parse_attestation(data: bytes, version: str = VERSION) -> Attestation:
    """An Attestation of at most 1 MiB in the form of `version`.

    Raises `MalformedError` (`init-data-format`, those of `from_jwk` and `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=ATTEST_LIMIT, what="attestation"), "attestation")
    if version in ("0.1.1", "0.2.0"):
        return _flat(fields)
    init_data = _init_data(fields.value("init-data", default=None))
    runtime = Fields(fields.table("runtime-data"), "runtime-data")
    nonce, given = runtime.text("nonce", limit=64), runtime.table("tee-pubkey")
    runtime.finish()
    if version == VERSION:
        evidence = Fields(fields.table("tee-evidence"), "tee-evidence")
        primary = evidence.value("primary_evidence")
        additional: str | None = evidence.text("additional_evidence", limit=ATTEST_LIMIT)
        evidence.finish()
    else:
        primary, additional = fields.value("tee-evidence"), None
    fields.finish()
    return _attestation(nonce, given, primary, additional, init_data)


def _flat(fields: Fields) -> Attestation:
    """The message before 0.3.0: key and evidence side by side, the evidence an object or, as the oldest clients send
    it, JSON in a text."""
    given, primary = fields.table("tee-pubkey"), fields.value("tee-evidence")
    fields.finish()
    if isinstance(primary, str):
        primary = parse_json(primary.encode(), limit=ATTEST_LIMIT, what="tee-evidence")
    return _attestation("", given, primary, None, None)


def _attestation(
    nonce: str, given: dict[str, Any], primary: Any, additional: str | None, init_data: bytes | None
) -> Attestation:
    key = from_jwk(given)
    return Attestation(
        nonce=nonce,
        jwk=public_jwk(key, algorithm=given.get("alg")),
        key=key,
        evidence=primary,
        additional=additional,
        init_data=init_data,
    )


def _init_data(value: Any) -> bytes | None:
    if value is None:
        return None
    fields = Fields(value, "init-data")
    kind = fields.text("format", limit=16)
    body = fields.text("body", limit=ATTEST_LIMIT)
    fields.finish()
    if kind != "toml":
        raise MalformedError("init-data-format", "init-data must be TOML", expected="toml", found=repr(kind))
    return body.encode()


def runtime_data(jwk: dict[str, str], nonce: str, additional: str | None) -> dict[str, Any]:
    """What the evidence's report data covers: the key, the nonce, and since 0.4.0 the additional evidence's text."""
    data: dict[str, Any] = {"tee-pubkey": jwk, "nonce": nonce}
    return data if additional is None else {**data, "additional-evidence": additional}


def runtime_digest(jwk: dict[str, str], nonce: str, additional: str | None) -> bytes:
    """SHA-384 (48 bytes) over the runtime data in canonical form: what the evidence's report data begins with."""
    return hashlib.sha384(canonical_json(runtime_data(jwk, nonce, additional))).digest()


def resource_path(uri: str) -> str:
    """`a/b/c` of `kbs:///a/b/c`. Raises `MalformedError` (`resource-path`)."""
    return check_path(uri.removeprefix("kbs:///") if uri.startswith("kbs:///") else "")


def check_path(path: str) -> str:
    """`path` itself if it is repository/type/tag. Raises `MalformedError` (`resource-path`)."""
    segments = path.split("/")
    if len(segments) != 3 or not all(map(_SEGMENT.fullmatch, segments)):
        raise MalformedError(
            "resource-path",
            "a resource is named by three plain segments",
            expected="repository/type/tag",
            found=repr(path[:200]),
        )
    return path


def error_document(variant: str, detail: str) -> dict[str, str]:
    """The body of every refusal."""
    return {"type": ERROR_PREFIX + variant, "detail": detail}


@dataclass(slots=True)
class Session:
    """One handshake. `spent` once an attestation came; `token` once it was granted; `identity` is as good as that."""

    identity: str = field(repr=False)
    nonce: str
    tee: str
    expires: datetime
    version: str = VERSION
    spent: bool = False
    token: str | None = field(default=None, repr=False)


class Sessions:
    """The open handshakes, bounded in number and age: the oldest gives way. Calls are safe from several threads.

    `random` gives that many unpredictable bytes.
    """

    def __init__(self, random: Callable[[int], bytes], limit: int = SESSIONS) -> None:
        self._random = random
        self._limit = limit
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, hello: Hello, now: datetime) -> Session:
        """A new session with a nonce of its own."""
        session = Session(
            identity=self._random(16).hex(),
            nonce=b64(self._random(NONCE_SIZE)),
            tee=hello.tee,
            expires=now + SESSION_LIFETIME,
            version=hello.version,
        )
        with self._lock:
            self._purge(now)
            while len(self._sessions) >= self._limit:
                self._sessions.popitem(last=False)
            self._sessions[session.identity] = session
        return session

    def spend(self, identity: str | None, now: datetime) -> Session:
        """The session, for its one attestation.

        Raises `DeniedError` (`session-unknown`: none such, or expired; `nonce-used`: a replay).
        """
        with self._lock:
            session = self._live(identity, now)
            if session is None:
                raise DeniedError("session-unknown", "no such session, or it has expired", hint="start a new handshake")
            if session.spent:
                raise DeniedError(
                    "nonce-used",
                    "this session has already been used for an attestation",
                    hint="start a new handshake; if this guest did not attest before, somebody replays its messages",
                )
            session.spent = True
        return session

    def grant(self, session: Session, token: str) -> None:
        """Let the session's cookie stand for `token`."""
        with self._lock:
            session.token = token

    def token(self, identity: str | None, now: datetime) -> str | None:
        """The token that was granted to the session, or None."""
        with self._lock:
            session = self._live(identity, now)
            return None if session is None else session.token

    def _live(self, identity: str | None, now: datetime) -> Session | None:
        session = self._sessions.get(identity or "")
        return None if session is None or now >= session.expires else session

    def _purge(self, now: datetime) -> None:
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if now < oldest.expires:
                return
            self._sessions.popitem(last=False)
