"""What the server does, without HTTP: handshakes, releases, admission, secrets, each with its log entry.

Whatever is answered was written first, in the same transaction as the log entry that tells of it.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kokon.appraisal.policy import Policy
from kokon.errors import DeniedError, KokonError, MalformedError, UntrustedError, UsageError
from kokon.jose.jwe import encrypt_to, from_jwk, public_jwk, thumbprint
from kokon.launch.document import parse_document
from kokon.provisioning.admission import ADMISSION_LIMIT, Admission, Kind, admit, parse_admission
from kokon.provisioning.bearer import Bearer, Granted, Tokens
from kokon.provisioning.kbs.envelopes import allowed_tees, check_device, primary_tees, read_devices, read_evidence
from kokon.provisioning.kbs.messages import (
    REQUEST_LIMIT,
    device_digest,
    new_nonce,
    parse_attestation,
    parse_request,
)
from kokon.provisioning.kbs.paths import check_path, resource_path
from kokon.provisioning.kbs.session import Session, SessionSealer, new_session
from kokon.provisioning.kbs.spent import SpentNonces
from kokon.provisioning.keys import fingerprint, session_key
from kokon.provisioning.measured import parse_measured
from kokon.provisioning.release import Attempt, Verdict, check_release, error_check, judge
from kokon.provisioning.throttle import Throttle
from kokon.provisioning.workload import Workload, decode_workload, encode_workload
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims
from kokon.tee.registry import verify
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from kokon.appraisal.lacking import Completion
    from kokon.provisioning.keys import ServerKeys
    from kokon.provisioning.store import Store
    from kokon.provisioning.token.keys import TokenKeys

PROJECT = "default"
"""The project of every guest: there is one yet."""
RESOURCE_LIMIT = 1 << 20
LOG_PAGE = 1000


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A refusal that was logged: all that the guest is told is `code` and `denial`, the id for the owner. `kind` is
    that of the error behind it."""

    def __init__(self, code: str, denial: str, kind: str = DeniedError.kind) -> None:
        super().__init__(code)
        self.code = code
        self.denial = denial
        self.kind = kind


class Service:
    """One server over one store. Calls are safe from several threads; `clock` gives the time (aware, UTC).

    `policy` is what is demanded of every platform (None: the strict default). `complete` gets endorsements that are
    lacking; None: those given are all there are. `keep` makes new keys for tokens durable before they are used.
    """

    def __init__(
        self,
        store: Store,
        keys: ServerKeys,
        certificate: str,
        endorsements: Endorsements,
        clock: Callable[[], datetime],
        *,
        policy: Policy | None = None,
        complete: Completion | None = None,
        keep: Callable[[TokenKeys], None] = lambda _keys: None,
    ) -> None:
        self.certificate = certificate
        self._sealer = SessionSealer(session_key(keys.master), secrets.token_bytes)
        self._spent = SpentNonces()
        self._tokens = Tokens(keys.token, keep, self._token_key_rotated)
        self._tees = allowed_tees()
        self._store = store
        self._keys = keys
        self._clock = clock
        self._endorsements = endorsements
        self._policy = policy or Policy()
        self._complete = complete
        self._lock = threading.Lock()
        self._throttle = Throttle()
        self._workloads = self._load()
        store.append(
            clock(),
            "server-started",
            {
                "owner_key": fingerprint(keys.owner.public_key()),
                "workloads": sorted(self._workloads),
                "accepted_simulated": sorted(endorsements.accepted_simulated),
                "policy": self._policy.name[:100],
            },
        )

    def stop(self) -> None:
        """Note the end in the log and give the store back."""
        self._log_suppressed()
        self._store.append(self._clock(), "server-stopped", {})
        self._store.close()

    # -- guests ----------------------------------------------------------------------------------------------------

    def auth(self, body: bytes) -> tuple[str, str]:
        """The sealed session and the nonce for a Request. Nothing is kept. Raises as `parse_request`."""
        now, request = self._clock(), parse_request(body, primary_tees(self._tees))
        session = new_session(PROJECT, request, new_nonce(secrets.token_bytes), now)
        return self._sealer.seal(session), session.nonce

    def attest(self, cookie: str | None, body: bytes) -> Granted | Attempt:
        """The token for an Attestation; or, if endorsements are lacking that may be had, what `fetch` and then `resume`
        must be called with. Raises `Refusal`."""
        now = self._clock()
        try:
            attempt = self._attempt(self._sealer.open(cookie, PROJECT, now), body, now)
            claims = verify(attempt.evidence, self._endorsements, now)
        except KokonError as error:
            raise self._refuse("attestation-denied", error, {}) from error
        verdict = self._judge(attempt, claims, now)
        if self._complete is not None and verdict.wanted:
            return attempt
        return self._conclude(attempt, verdict, now)

    def _attempt(self, session: Session, body: bytes, now: datetime) -> Attempt:
        """What an attestation consists of. Raises `DeniedError` (`nonce-used`), `MalformedError`."""
        if session.token is not None:
            raise DeniedError("nonce-used", "this session has attested already", hint="start a new handshake")
        attestation = parse_attestation(body, session.version)
        evidence = read_evidence(session.tee, attestation.evidence)
        devices = read_devices(attestation.additional, self._tees)
        digest = device_digest(attestation, session.nonce)
        found = [check_device(device, digest, self._endorsements, now)[1] for device in devices]
        return Attempt(attestation, session, evidence, tuple(check for checks in found for check in checks))

    def fetch(self, attempt: Attempt) -> Claims:
        """What the evidence of `attempt` says, with what the vendors say about the chip; their services may take their
        time. Raises `Refusal`."""
        now = self._clock()
        if self._complete is None:
            return verify(attempt.evidence, self._endorsements, now)
        try:
            return self._complete(lambda pool: verify(attempt.evidence, pool, now), self._endorsements, now)[0]
        except KokonError as error:
            raise self._refuse("attestation-denied", error, {}) from error

    def resume(self, attempt: Attempt, claims: Claims) -> Granted:
        """The token for an `attempt` whose evidence says `claims`. Raises `Refusal`."""
        now = self._clock()
        return self._conclude(attempt, self._judge(attempt, claims, now), now)

    def _judge(self, attempt: Attempt, claims: Claims, now: datetime) -> Verdict:
        known = self._snapshot()
        found = {workload.host_data: workload for workload in known.values() if workload.host_data}
        return judge(attempt, claims, found.get, known, self._policy, now)

    def _conclude(self, attempt: Attempt, verdict: Verdict, now: datetime) -> Granted:
        details = {**verdict.facts, "tee_key": thumbprint(dict(attempt.attestation.jwk))}
        if verdict.workload is not None:
            details["workload"] = verdict.workload.name
        try:
            if verdict.genuine:
                self._spent.spend(attempt.session.nonce, attempt.session.expires, now)
        except KokonError as error:
            raise self._refuse("attestation-denied", error, details) from error
        if verdict.granted is None:
            code = verdict.code or "not-affirming"
            raise self._deny("attestation-denied", code, "attestation denied", details, verdict.checks)
        token = self._tokens.make(*verdict.granted, attempt, now)
        try:
            with self._store.transaction():
                self._count(verdict.granted[0], now)
                self._store.append(now, "attestation-granted", details)
        except DeniedError as error:
            raise self._refuse("attestation-denied", error, details, attested=True) from error
        return Granted(token, self._sealer.seal(replace(attempt.session, token=token)))

    def _count(self, workload: Workload, now: datetime) -> None:
        """One more activation of a workload that may have only so many. Raises `DeniedError`
        (`activations-exhausted`)."""
        if workload.max_activations is None:
            return
        kept = self._store.get("activations", workload.name)
        count = 0 if kept is None else int(kept)
        if count >= workload.max_activations:
            raise DeniedError(
                "activations-exhausted",
                "the workload was activated as often as it may be",
                expected=f"<= {workload.max_activations}",
                found=count + 1,
                hint="admit it again with a higher number, or withdraw it, which starts the count anew",
            )
        self._store.put("activations", workload.name, str(count + 1).encode(), now)

    def resource(self, cookie: str | None, bearer: str | None, path: str) -> dict[str, str]:
        """The resource at `path`, encrypted to the enclave's key. Raises `Refusal`."""
        now = self._clock()
        details: dict[str, Any] = {"resource": path[:400]}
        try:
            holder = self._holder(cookie, bearer, now)
            details |= {"workload": holder.workload, "tee_key": thumbprint(holder.jwk), "token": holder.identity}
            workload = self._snapshot().get(holder.workload)
            check_release(workload, holder.terms, check_path(path), now)
            value = self._store.get("resource", path)
            if value is None:
                raise DeniedError(
                    "resource-unknown",
                    "there is no such resource",
                    found=path,
                    hint=f"put it there with `kokon secret put {path}`",
                )
            message = encrypt_to(from_jwk(holder.jwk), value, algorithm=holder.jwk["alg"])
        except KokonError as error:
            raise self._refuse("resource-denied", error, details, attested="token" in details) from error
        self._store.append(now, "resource-released", details)
        return message

    def event(self, bearer: str | None, body: bytes) -> None:
        """Log what an attested guest reports. Raises `Refusal`, `MalformedError`."""
        now = self._clock()
        try:
            holder = self._holder(None, bearer, now)
        except KokonError as error:
            raise self._refuse("event-denied", error, {}) from error
        fields = Fields(parse_json(body, limit=REQUEST_LIMIT, what="event"), "event")
        code, text = fields.text("code", limit=64), fields.text("text", default="", limit=500)
        fields.finish()
        details = {"workload": holder.workload, "code": code, "text": text, "tee_key": thumbprint(holder.jwk)}
        self._store.append(now, "guest-event", details)

    def _holder(self, cookie: str | None, bearer: str | None, now: datetime) -> Bearer:
        """Who asks: by the session first, then by the token (kbs protocol)."""
        token = bearer
        if cookie is not None:
            with contextlib.suppress(DeniedError):
                token = self._sealer.open(cookie, PROJECT, now).token or bearer
        if token is None:
            raise DeniedError("token-missing", "neither an attested session nor a token", hint="attest first")
        return self._tokens.read(token, PROJECT, now)

    def _refuse(self, event: str, error: KokonError, details: Mapping[str, Any], *, attested: bool = False) -> Refusal:
        checks = [error_check("request", error)]
        refusal = self._deny(event, error.code, error.message, details, checks, attested=attested)
        return Refusal(refusal.code, refusal.denial, error.kind)

    def _deny(
        self,
        event: str,
        code: str,
        message: str,
        details: Mapping[str, Any],
        checks: Sequence[Check],
        *,
        attested: bool = False,
    ) -> Refusal:
        """The refusal, logged; one of many alike that nobody `attested` asked for is only counted."""
        denial = secrets.token_hex(8)
        listed = [_bounded(check) for check in checks[:64]]
        entry = {**details, "denial": denial, "code": code, "message": message, "checks": listed}
        if attested:
            self._store.append(self._clock(), event, entry, denial)
        else:
            self._append_throttled(event, code, entry, denial)
        return Refusal(code, denial)

    def _append_throttled(self, event: str, code: str, details: Mapping[str, Any], denial: str | None = None) -> None:
        now = self._clock()
        if self._throttle.admit(event, code, now):
            with self._store.transaction():
                self._log_suppressed(event, code)
                self._store.append(now, event, details, denial)

    def _log_suppressed(self, event: str | None = None, code: str | None = None) -> None:
        for one in self._throttle.drain(event, code):
            since = one.since.isoformat(timespec="milliseconds")
            details = {"refused": one.event, "code": one.code, "count": one.count, "since": since}
            self._store.append(self._clock(), "refusals-counted", details)

    # -- the owner -------------------------------------------------------------------------------------------------

    def is_admin(self, bearer: str | None) -> bool:
        """Whether `bearer` is the admin token; a wrong one is logged."""
        if bearer is not None and hmac.compare_digest(bearer.encode(), self._keys.admin_token.encode()):
            return True
        self._append_throttled("admin-denied", "admin-token", {"code": "admin-token"})
        return False

    def jwks(self) -> dict[str, Any]:
        """The keys that verify this server's tokens, as a JWK set (RFC 7517)."""
        return self._tokens.jwks(self._clock())

    def rotate_token_key(self) -> dict[str, str]:
        """Sign tokens with a new key from now on; those of the last one stay good. Raises `HostError`."""
        return {"kid": self._tokens.rotate(self._clock())}

    def _token_key_rotated(self, keys: TokenKeys, now: datetime) -> None:
        self._store.append(now, "token-key-rotated", {"kid": keys.current.kid})

    def owner_key(self) -> dict[str, Any]:
        """The owner's public key, to which authors encrypt layer keys."""
        public = self._keys.owner.public_key()
        return {"jwk": public_jwk(public), "fingerprint": fingerprint(public)}

    def put_resource(self, path: str, value: bytes) -> int:
        """Keep a resource; its version. Raises `MalformedError` (`resource-path`, `resource-size`)."""
        check_path(path)
        if not 0 < len(value) <= RESOURCE_LIMIT:
            raise MalformedError(
                "resource-size",
                "a resource must not be empty or too large",
                expected=f"1..{RESOURCE_LIMIT} bytes",
                found=len(value),
            )
        now = self._clock()
        with self._store.transaction():
            version = self._store.put("resource", path, value, now)
            self._store.append(now, "resource-put", {"resource": path, "version": version})
        return version

    def delete_resource(self, path: str) -> None:
        """Forget a resource. Raises `DeniedError` (`resource-unknown`), `MalformedError` (`resource-path`)."""
        check_path(path)
        with self._store.transaction():
            if not self._store.delete("resource", path):
                raise DeniedError("resource-unknown", "there is no such resource", found=path)
            self._store.append(self._clock(), "resource-deleted", {"resource": path})

    def resources(self) -> list[dict[str, Any]]:
        """Names, versions and times of all resources, never their values."""
        return [
            {"resource": info.name, "version": info.version, "created": info.created}
            for info in self._store.names("resource")
        ]

    def admit(self, body: bytes) -> dict[str, Any]:
        """Admit a workload, replacing one of the same name. Refusals are logged. Raises `KokonError` as `admit`."""
        now = self._clock()
        name = "?"
        try:
            value = parse_json(body, limit=ADMISSION_LIMIT, what="admission request")
            if isinstance(value, dict) and "references" in value:
                return self._admit_measured(parse_measured(value, now), now)
            request = parse_admission(body)
            name = request.name
            admission = admit(request, self._keys.owner, self.certificate, now)
            with self._lock:
                generated, previous = self._keep(admission, now)
                self._workloads = self._load()
        except KokonError as error:
            details = {"code": error.code, "workload": name.encode("ascii", "replace").decode()}
            self._store.append(now, "admission-denied", {**details, "message": str(error)[:1000]})
            raise
        return {**admission.workload.summary(), "generated": generated, "replaced": previous}

    def _admit_measured(self, workload: Workload, now: datetime) -> dict[str, Any]:
        with self._lock:
            with self._store.transaction():
                self._store.put("workload", workload.name, encode_workload(workload), now)
                details = {
                    "workload": workload.name,
                    "terms": workload.terms(),
                    "not_after": workload.not_after.isoformat(),
                    "resources": list(workload.resources),
                }
                self._store.append(now, "workload-admitted", details)
            replaced = self._workloads.get(workload.name)
            self._workloads = self._load()
        return {**workload.summary(), "generated": [], "replaced": replaced.terms() if replaced else None}

    def _keep(self, admission: Admission, now: datetime) -> tuple[list[str], str | None]:
        workload = admission.workload
        with self._store.transaction():
            old = self._workloads.get(workload.name)
            for other in self._workloads.values():
                if other.name != workload.name and other.host_data == workload.host_data != b"":
                    raise UsageError(
                        "workload-duplicate", "another workload has this launch document", found=other.name
                    )
            self._keep_kek(admission, now)
            generated = [path for path, kind in admission.generate if self._generate(path, kind, now)]
            self._store.put("workload", workload.name, encode_workload(workload), now)
            previous = old.host_data.hex() if old else None
            self._store.append(
                now,
                "workload-admitted",
                {
                    "workload": workload.name,
                    "image": workload.image,
                    "host_data": workload.host_data.hex(),
                    "replaces": previous or "",
                    "author": workload.author_name,
                    "not_after": workload.not_after.isoformat(),
                    "resources": list(workload.resources),
                    "generated": generated,
                    "allow_debug": workload.allow_debug,
                },
            )
        return generated, previous

    def _keep_kek(self, admission: Admission, now: datetime) -> None:
        kept = self._store.get("resource", admission.kek_path)
        if kept is None:
            self._store.put("resource", admission.kek_path, admission.kek, now)
        elif not hmac.compare_digest(kept, admission.kek):
            raise UntrustedError(
                "kek-conflict",
                "another layer key is kept under this image's key id",
                found=admission.kek_path,
                hint="an author reuses the key id of another image; have the image sealed again",
            )

    def _generate(self, path: str, kind: Kind, now: datetime) -> bool:
        if self._store.get("resource", path) is not None:
            return False
        value = secrets.token_bytes(32) if kind == "key" else secrets.token_hex(32).encode()
        self._store.put("resource", path, value, now)
        return True

    def withdraw(self, name: str) -> None:
        """Forget a workload: its enclaves get nothing any more. Raises `DeniedError` (`workload-not-found`)."""
        with self._lock:
            with self._store.transaction():
                if not self._store.delete("workload", name):
                    raise DeniedError("workload-not-found", "there is no workload of this name", found=name[:64])
                self._store.delete("activations", name)
                self._store.append(self._clock(), "workload-withdrawn", {"workload": name})
            self._workloads = self._load()

    def workloads(self) -> list[dict[str, Any]]:
        """All workloads, by name."""
        return [workload.summary() for _, workload in sorted(self._snapshot().items())]

    def log_token(self, name: str) -> str:
        """The token that opens the log of a workload's containers; that it was asked for is logged.

        Raises `DeniedError` (`workload-not-found`, `resource-unknown`).
        """
        workload = self._snapshot().get(name)
        if workload is None:
            raise DeniedError("workload-not-found", "there is no workload of this name", found=name[:64])
        if not workload.document:
            raise DeniedError("log-not-kept", "guests of this workload keep no log for Kokon", found=name[:64])
        path = resource_path(parse_document(workload.document.encode()).log_key)
        token = self._store.get("resource", path)
        if token is None:
            raise DeniedError("resource-unknown", "there is no such resource", found=path)
        self._store.append(self._clock(), "log-token-read", {"workload": name, "resource": path})
        return token.decode("ascii", "replace")

    def log(self, after: int, limit: int) -> dict[str, Any]:
        """Entries (exact texts) that follow number `after`, and where the log ends."""
        if after == 0:
            self._log_suppressed()
        entries, head = self._store.entries(after, min(limit, LOG_PAGE))
        return {
            "entries": [entry.decode() for entry in entries],
            "head": {"sequence": head.sequence, "digest": head.digest},
        }

    def denial(self, identity: str) -> dict[str, Any]:
        """The log entry of a denial, in full. Raises `DeniedError` (`denial-unknown`)."""
        entry = self._store.denial(identity)
        if entry is None:
            raise DeniedError(
                "denial-unknown",
                "there is no denial with this id",
                found=identity[:64],
                hint="of many refusals alike the log keeps some and the number of the others: kokon log",
            )
        return entry

    def _snapshot(self) -> Mapping[str, Workload]:
        return self._workloads

    def _load(self) -> dict[str, Workload]:
        workloads = {}
        for info in self._store.names("workload"):
            record = self._store.get("workload", info.name)
            if record is not None:
                workloads[info.name] = decode_workload(record)
        return workloads


def _bounded(check: Check) -> dict[str, str]:
    """A check for the log; texts of the guest were shortened where the check was made, this only makes sure."""
    return {name: text[:600].encode("utf-8", "replace").decode() for name, text in check.as_dict().items()}
