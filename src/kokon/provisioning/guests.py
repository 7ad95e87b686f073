"""What a guest can ask for: a session, a token for its evidence, a resource, and that its event is logged.

Coroutines of one event loop. What takes the processor's time, evidence and policies, is done in a few threads; what is
written is waited for without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from kokon.appraisal.appraise import appraise
from kokon.appraisal.lacking import check_missing, worth_fetching
from kokon.errors import DeniedError, KokonError
from kokon.jose.jwe import encrypt_to, thumbprint
from kokon.provisioning.aside import Aside
from kokon.provisioning.bearer import Bearer, Granted, Holder, claims_of
from kokon.provisioning.catalogue import SECRET
from kokon.provisioning.core import ATTEMPTS, Core, Refusal
from kokon.provisioning.database.values import Count, Entry, StaleDecision, Work, busy
from kokon.provisioning.kbs.envelopes import allowed_tees, check_device, primary_tees, read_devices, read_evidence
from kokon.provisioning.kbs.messages import (
    REQUEST_LIMIT,
    device_digest,
    new_nonce,
    parse_attestation,
    parse_request,
    runtime_data,
)
from kokon.provisioning.kbs.paths import check_path
from kokon.provisioning.kbs.session import Session, new_session
from kokon.provisioning.rego.judge import allow_resource, appraise_by_policy
from kokon.provisioning.release import Attempt, Verdict, check_release, judge
from kokon.provisioning.secret.derive import derive
from kokon.provisioning.secret.value import Secret, decode_secret
from kokon.provisioning.secret.versions import choose
from kokon.provisioning.workload import Workload
from kokon.tee.evidence import failed
from kokon.tee.registry import verify
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.catalogue import Catalogue
    from kokon.provisioning.kbs.messages import Attestation
    from kokon.tee.evidence import Check, Claims

THREADS = 4
"""Attestations that are judged at the same time."""

SESSIONS = 1024
"""Sessions that are remembered open, some 4 KiB each."""
SHORT = 32 << 10
"""Bytes of an attestation that is judged without a thread, whose change would take as long."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Judged:
    """A verdict, and what it was made on."""

    verdict: Verdict
    catalogue: Catalogue


class Guests:
    """The guests' side of a server."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tees = allowed_tees(sample=core.demands.sample)
        self._threads = ThreadPoolExecutor(THREADS, "attestation")
        self._aside = Aside()
        self._sessions: dict[tuple[str, str], Session] = {}

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown()

    def auth(self, project: str, body: bytes) -> tuple[str, str]:
        """The sealed session and the nonce for a Request. Nothing is kept. Raises as `parse_request`, and
        `DeniedError` (`project-unknown`)."""
        core = self._core
        request = parse_request(body, primary_tees(self._tees))
        session = new_session(core.check_project(project), request, new_nonce(secrets.token_bytes), core.clock())
        return core.sealer.seal(session), session.nonce

    # -- attestation -----------------------------------------------------------------------------------------------

    async def attest(self, project: str, cookie: str | None, body: bytes) -> Granted:
        """The token for an Attestation. Raises `Refusal`, `DeniedError` (`project-unknown`), `HostError` as the store
        does."""
        core = self._core
        core.check_project(project)
        now = core.clock()
        try:
            attempt, claims, judged = await self._judged(project, cookie, body, now)
            if core.demands.complete is not None and judged.verdict.wanted:
                claims = await self._aside.run(lambda: self._completed(attempt))
                now = core.clock()
                judged = await self._in_thread(lambda: self._judge(attempt, claims, now))
        except KokonError as error:
            core.counters.handshake("unknown", "refused")
            raise await self._refused(project, "attestation-denied", error, {}) from error
        granted = await self._conclude(attempt, claims, judged, now)
        core.counters.handshake("simulated" if claims.simulated else attempt.session.tee, "granted")
        return granted

    async def _judged(
        self, project: str, cookie: str | None, body: bytes, now: datetime
    ) -> tuple[Attempt, Claims, _Judged]:
        """An attestation read and judged: a short one at once, which takes a millisecond, others in a thread."""

        def work() -> tuple[Attempt, Claims, _Judged]:
            attempt, claims = self._read(project, cookie, body, now)
            return attempt, claims, self._judge(attempt, claims, now)

        known = self._core.known_catalogue(project)
        waits = known is None or known.rego.chosen is not None
        return await self._in_thread(work) if waits or len(body) > SHORT else work()

    def _read(self, project: str, cookie: str | None, body: bytes, now: datetime) -> tuple[Attempt, Claims]:
        """What an attestation consists of, and what its evidence says. Raises `DeniedError` (`session-unknown`,
        `nonce-used`), `MalformedError`, as `verify`."""
        session = self._core.sealer.open(cookie, project, now)
        if session.token is not None:
            raise DeniedError("nonce-used", "this session has attested already", hint="start a new handshake")
        attestation = parse_attestation(body, session.version)
        evidence = read_evidence(session.tee, attestation.evidence)
        attempt = Attempt(attestation, session, evidence, self._devices(attestation, session, now))
        return attempt, verify(evidence, self._core.demands.endorsements, now)

    def _devices(self, attestation: Attestation, session: Session, now: datetime) -> tuple[Check, ...]:
        """The checks of devices' evidence, none for none. Raises as `read_devices`, `check_device`."""
        devices = read_devices(attestation.additional, self._tees)
        if not devices:
            return ()
        digest, known = device_digest(attestation, session.nonce), self._core.demands.endorsements
        return tuple(check for device in devices for check in check_device(device, digest, known, now)[1])

    def _completed(self, attempt: Attempt) -> Claims:
        """What the evidence says, with what the vendors say about the chip; their services may take their time."""
        demands, now = self._core.demands, self._core.clock()
        if demands.complete is None:
            return verify(attempt.evidence, demands.endorsements, now)
        return demands.complete(lambda pool: verify(attempt.evidence, pool, now), demands.endorsements, now)[0]

    def _judge(self, attempt: Attempt, claims: Claims, now: datetime) -> _Judged:
        catalogue = self._core.catalogue(attempt.session.project)
        verdict = judge(attempt, claims, catalogue.pinned.get, catalogue.workloads, catalogue.policy, now)
        if verdict.workload is None and verdict.granted is None and catalogue.rego.chosen is not None:
            verdict = self._judge_by_policy(catalogue, attempt, claims, verdict, now)
        return _Judged(verdict, catalogue)

    def _judge_by_policy(
        self, catalogue: Catalogue, attempt: Attempt, claims: Claims, verdict: Verdict, now: datetime
    ) -> Verdict:
        """The verdict about evidence of no workload, in a project that has an attestation policy in Rego."""
        if not verdict.genuine:
            return verdict
        base = appraise(claims, (), catalogue.policy, now)
        sent, nonce = attempt.attestation, attempt.session.nonce
        result = appraise_by_policy(
            self._core.rego,
            catalogue.rego,
            attempt.evidence,
            base,
            runtime_data(sent, nonce),
            sent.init_data,
            tenant=catalogue.project,
            now=now,
        )
        checks = [*attempt.devices, *result.verified, *check_missing(result), *result.appraised]
        if result.status != "affirming":
            checks.append(failed("appraisal", "not-affirming", expected="affirming", found=result.status))
        good = result.ok and all(check.outcome != "failed" for check in checks)
        if not good:  # what workload comes nearest is of interest then
            checks += [check for check in verdict.checks if check not in checks]
        nobody = Workload(name="", not_after=now, resources=(), admitted=now)
        return replace(
            verdict,
            checks=tuple(checks),
            granted=(nobody, result) if good else None,
            wanted=worth_fetching(claims),
        )

    async def _conclude(self, attempt: Attempt, claims: Claims, judged: _Judged, now: datetime) -> Granted:
        """Write what the verdict comes to; on other records than it was made on, make it anew."""
        core, session, spent = self._core, attempt.session, False
        for _ in range(ATTEMPTS):
            verdict = judged.verdict
            details = {**verdict.facts, "tee_key": thumbprint(dict(attempt.attestation.jwk))}
            if verdict.workload is not None:
                details["workload"] = verdict.workload.name
            try:
                if verdict.genuine and not spent:
                    core.spent.spend(session.nonce, session.expires, now)
                    spent = True
            except KokonError as error:
                raise await self._refused(session.project, "attestation-denied", error, details) from error
            if verdict.granted is None:
                core.counters.handshake("simulated" if claims.simulated else session.tee, "denied")
                raise await self._denied(session.project, verdict, details)
            try:
                return await self._grant(attempt, judged.catalogue, verdict.granted, details, now)
            except StaleDecision:
                judged = await self._in_thread(lambda: self._judge(attempt, claims, now))
        raise busy()

    async def _grant(
        self,
        attempt: Attempt,
        catalogue: Catalogue,
        granted: tuple[Workload, AttestationResult],
        details: dict[str, Any],
        now: datetime,
    ) -> Granted:
        """The token, once it is written that it was granted. Raises `StaleDecision`, `Refusal`."""
        core, session = self._core, attempt.session
        workload, result = granted
        terms = workload.terms() if workload.name else catalogue.rego.terms()
        holder = Holder(workload.name, workload.host_data.hex(), terms)
        token, identity = core.tokens.make(holder, result, attempt, now)
        entry = Entry("attestation-granted", {**details, "token": identity, **core.demands.marks})
        counts: tuple[Count, ...] = ()
        if workload.max_activations is not None:
            counts = (Count(catalogue.activations(workload), workload.max_activations),)
        try:
            await self._submit(Work(session.project, (entry,), (), counts, catalogue.generation))
        except DeniedError as error:
            refused = exhausted(workload.max_activations) if error.code == "count-exhausted" else error
            refusal = await self._refused(session.project, "attestation-denied", refused, details, attested=True)
            raise refusal from error
        attested = replace(session, token=token)
        cookie = core.sealer.seal(attested)
        self._keep(session.project, cookie, attested)
        return Granted(token, cookie)

    # -- resources -------------------------------------------------------------------------------------------------

    async def resource(
        self, project: str, cookie: str | None, bearer: str | None, path: str, version: int | None = None
    ) -> dict[str, str]:
        """The resource at `path`, encrypted to the enclave's key. Raises as `attest`."""
        core = self._core
        core.check_project(project)
        now, details = core.clock(), {"resource": path[:400]}
        for _ in range(ATTEMPTS):
            catalogue = await self._catalogue(project)
            try:
                token = self._token(project, cookie, bearer, now)
                holder = core.tokens.read(token, project, now)
                details |= {"workload": holder.workload, "tee_key": holder.thumbprint, "token": holder.identity}
                await self._check_release(catalogue, holder, token, check_path(path), version, now)
                value, kept = await self._secret(catalogue, holder, path, version, now)
                message = encrypt_to(holder.key, value, algorithm=holder.jwk["alg"])
            except KokonError as error:
                raise await self._refused(
                    project, "resource-denied", error, details, attested="token" in details
                ) from error
            entry = Entry("resource-released", {**details, "version": kept, **core.demands.marks})
            try:
                await self._submit(Work(project, (entry,), generation=catalogue.generation))
            except StaleDecision:
                continue
            core.counters.release()
            return message
        raise busy()

    async def _check_release(
        self, catalogue: Catalogue, holder: Bearer, token: str, path: str, version: int | None, now: datetime
    ) -> None:
        """Nothing, if the enclave may have `path`: by its workload, or by the project's own policies if it is of none;
        resource policies in Rego must let everybody. Raises `DeniedError`, `StaleError`, `HostError`."""
        if holder.workload:
            check_release(catalogue.workloads.get(holder.workload), holder.terms, path, now)
        elif not hmac.compare_digest(holder.terms.encode(), catalogue.rego.terms().encode()):
            raise DeniedError(
                "workload-withdrawn",
                "the project's policies or reference values were changed since this enclave attested",
                hint="attest again",
            )
        if catalogue.rego.resource or not holder.workload:
            query = {} if version is None else {"version": str(version)}
            claims, segments, tenant = claims_of(token), path.split("/"), catalogue.project
            await self._in_thread(
                lambda: allow_resource(self._core.rego, catalogue.rego, claims, segments, query, tenant=tenant)
            )

    async def _catalogue(self, project: str) -> Catalogue:
        """The project's catalogue; if records have to be read for it, that is done in a thread."""
        known = self._core.known_catalogue(project)
        return known if known is not None else await self._in_thread(lambda: self._core.catalogue(project))

    async def _secret(
        self, catalogue: Catalogue, holder: Bearer, path: str, version: int | None, now: datetime
    ) -> tuple[bytes, int]:
        """What is released of the secret at `path`, and which version it is."""
        project, store = catalogue.project, self._core.store
        kept = choose(store.snapshot(project).versions(SECRET, path), version, now, path)
        if store.at_hand(project, SECRET, path, kept):
            record = store.read(project, SECRET, path, kept)
        else:
            record = await self._in_thread(lambda: store.read(project, SECRET, path, kept))
        if record is None:
            raise unknown(path)
        secret = decode_secret(record)
        return _released(secret, project, path, kept, holder), kept

    # -- events ----------------------------------------------------------------------------------------------------

    async def event(self, project: str, bearer: str | None, body: bytes) -> None:
        """Log what an attested guest reports. Raises as `attest`, `MalformedError`."""
        core = self._core
        core.check_project(project)
        try:
            token = self._token(project, None, bearer, core.clock())
            holder = core.tokens.read(token, project, core.clock())
        except KokonError as error:
            raise await self._refused(project, "event-denied", error, {}) from error
        fields = Fields(parse_json(body, limit=REQUEST_LIMIT, what="event"), "event")
        code, text = fields.text("code", limit=64), fields.text("text", default="", limit=500)
        fields.finish()
        details = {"workload": holder.workload, "code": code, "text": text, "tee_key": holder.thumbprint}
        await self._submit(Work(project, (Entry("guest-event", details),)))

    # -- common ----------------------------------------------------------------------------------------------------

    def _token(self, project: str, cookie: str | None, bearer: str | None, now: datetime) -> str:
        """The token of who asks: the session's first, then the one that is shown (kbs protocol)."""
        token = bearer
        if cookie is not None:
            with contextlib.suppress(DeniedError):
                token = self._session(cookie, project, now).token or bearer
        if token is None:
            raise DeniedError("token-missing", "neither an attested session nor a token", hint="attest first")
        return token

    def _session(self, cookie: str, project: str, now: datetime) -> Session:
        """The session in a cookie that may come many times. For the event loop's thread."""
        known = self._sessions.get((project, cookie))
        if known is not None and now < known.expires:
            return known
        session = self._core.sealer.open(cookie, project, now)
        self._keep(project, cookie, session)
        return session

    def _keep(self, project: str, cookie: str, session: Session) -> None:
        """Remember what a cookie holds, so that it need not be opened again."""
        self._sessions[project, cookie] = session
        while len(self._sessions) > SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _submit(self, work: Work | None) -> None:
        if work is not None:
            await self._core.store.write(work)

    async def _refused(
        self, project: str, event: str, error: KokonError, details: Mapping[str, Any], *, attested: bool = False
    ) -> Refusal:
        refusal, work = self._core.refuse(project, event, error, details, attested=attested)
        await self._submit(work)
        return refusal

    async def _denied(self, project: str, verdict: Verdict, details: Mapping[str, Any]) -> Refusal:
        reason = (verdict.code or "not-affirming", "attestation denied")
        refusal, work = self._core.deny(project, "attestation-denied", reason, details, verdict.checks)
        await self._submit(work)
        return refusal


def _released(secret: Secret, project: str, path: str, version: int, holder: Bearer) -> bytes:
    if secret.kind != "derived":
        return secret.value
    return derive(
        secret.value,
        project=project,
        path=path,
        version=version,
        scope=secret.recipe,
        workload=holder.workload,
        platform=holder.platform,
        activation=holder.identity,
    )


def exhausted(limit: int | None) -> DeniedError:
    """A workload was activated `limit` times, as often as it may be."""
    return DeniedError(
        "activations-exhausted",
        "the workload was activated as often as it may be",
        expected=f"<= {limit}",
        found=(limit or 0) + 1,
        hint="admit it again with a higher number, or withdraw it, which starts the count anew",
    )


def unknown(path: str) -> DeniedError:
    """There is no such secret."""
    return DeniedError(
        "resource-unknown",
        "there is no such resource",
        found=path[:400],
        hint=f"put it there with `kokon secret put {path[:400]}`",
    )
