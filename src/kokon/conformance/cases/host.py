"""Cases of the server as such: errors in the protocol's form, no faults, TLS, health. Tried last: they look back."""

from __future__ import annotations

from typing import Final

from kokon.conformance.case import Cases, Level, Notes, Skip, Violation
from kokon.conformance.connection import Answer
from kokon.conformance.world import KBS, World

CASES: Final = Cases()
VARIANTS: Final = frozenset({
    "AdminAuthInitialization", "AdminAuthAccess", "AttestationError", "HTTPFailed", "HTTPSFailed", "InvalidRequestPath",
    "JweError", "PluginManagerInitialization", "PluginNotFound", "PluginInternalError", "PolicyDeny",
    "ParsePolicyError", "PolicyEngineError", "PrometheusError", "RvpsError", "SerdeError",
    "StorageBackendInitialization", "TokenNotFound", "TokenVerifierError",
})  # fmt: skip


def _refusals(world: World) -> list[Answer]:
    """All that was refused so far below /kbs/v0, and three refusals that any server must give."""
    world.get(world.own_path("missing"))
    world.call("POST", f"{KBS}/auth", body=b"{")
    world.post("/attest", {})
    prefix = world.client.target.prefix + KBS
    return [answer for answer in world.client.refusals if answer.target.startswith(prefix)]


def _for_clients(answer: Answer, prefix: str) -> bool:
    """Whether clients parse the body: refusals of GET /resource, and 401 of /auth and /attest. Odd paths are not."""
    path = answer.target.removeprefix(prefix + KBS)
    if answer.method == "GET" and path.startswith("/resource/"):
        return path.count("/") == 4 and "%" not in path and len(path) < 400
    return answer.method == "POST" and path in ("/auth", "/attest") and answer.status == 401


def _without(notes: Notes, refusals: list[Answer]) -> None:
    bare = [answer for answer in refusals if answer.error() is None]
    if bare:
        shown = ", ".join(dict.fromkeys(f"{answer.method} {answer.status}" for answer in bare))
        raise Violation(f"{len(bare)} of {len(refusals)} without: {shown[:120]}")
    notes.say(f"{len(refusals)} of {len(refusals)}")


@CASES.add("error-documents", Level.MUST, "Error Information", "refusals that clients parse carry the error document")
def documents(world: World, notes: Notes) -> None:
    prefix = world.client.target.prefix
    _without(notes, [answer for answer in _refusals(world) if _for_clients(answer, prefix)])


@CASES.add("error-documents-all", Level.SHOULD, "Error Information", "all refusals below /kbs/v0 carry it")
def documents_all(world: World, notes: Notes) -> None:
    _without(notes, _refusals(world))


@CASES.add("error-variants", Level.SHOULD, "Error Information", "the errors' types are those that the protocol names")
def variants(world: World, notes: Notes) -> None:
    found = {error[0] for answer in _refusals(world) if (error := answer.error()) is not None}
    if not found:
        raise Violation("no error document at all")
    if not found <= VARIANTS:
        raise Violation(", ".join(sorted(name[:40] for name in found - VARIANTS))[:120])
    notes.say(", ".join(sorted(found)))


@CASES.add("error-content-type", Level.SHOULD, "Error Information", "error documents come as application/json")
def content_type(world: World, notes: Notes) -> None:
    kinds = {
        answer.header("content-type").partition(";")[0] for answer in _refusals(world) if answer.error() is not None
    }
    if not kinds <= {"application/json", "application/problem+json"}:
        raise Violation(", ".join(sorted(kinds))[:120])
    notes.say(", ".join(sorted(kinds)))


@CASES.add(
    "error-statuses",
    Level.SHOULD,
    "Error Information",
    "not every refusal is a 401: 400, 403, 404, 413 say what is wrong",
)
def statuses(world: World, notes: Notes) -> None:
    found = sorted({answer.status for answer in _refusals(world)})
    if len(found) < 2:
        raise Violation(f"only {', '.join(map(str, found))}")
    notes.say(", ".join(map(str, found)))


@CASES.add("no-faults", Level.MUST, "HTTP Integration", "nothing in the whole run made the server answer with a fault")
def no_faults(world: World, notes: Notes) -> None:
    world.auth()
    faults = [answer for answer in world.client.refusals if answer.status >= 500 and answer.status not in (501, 503)]
    if faults:
        shown = ", ".join(dict.fromkeys(f"{answer.method} {answer.status}" for answer in faults))
        raise Violation(f"{len(faults)}: {shown[:120]}")
    notes.say(f"{world.client.budget.used} requests")


@CASES.add("retry-after", Level.SHOULD, "RFC 9110 10.2.3", "429 and 503 say when to come again")
def retry_after(world: World, notes: Notes) -> None:
    if not world.client.limited:
        raise Skip("there was neither")
    silent = [answer for answer in world.client.limited if not answer.header("retry-after")]
    if silent:
        raise Violation(f"{len(silent)} of {len(world.client.limited)} without Retry-After")
    notes.say(f"{len(world.client.limited)}")


@CASES.add("tls-version", Level.SHOULD, "RFC 8446", "the server speaks TLS 1.3")
def tls_version(world: World, notes: Notes) -> None:
    if world.client.target.scheme != "https":
        raise Violation("no TLS at all")
    world.auth()
    if world.client.tls != "TLSv1.3":
        raise Violation(str(world.client.tls))
    notes.say("TLSv1.3")


def _found(world: World, path: str) -> Answer | None:
    """The first good answer at `path`, below the prefix and at the root."""
    for prefix in dict.fromkeys((world.client.target.prefix, "")):
        answer = world.client.send("GET", prefix + path)
        if answer.status == 200:
            return answer
    return None


@CASES.add("health", Level.MAY, "HTTP Integration", "GET /healthz is answered with 200")
def health(world: World, notes: Notes) -> None:
    if _found(world, "/healthz") is None:
        raise Violation("not there")
    notes.say("200")


@CASES.add("metrics", Level.MAY, "HTTP Integration", "GET /metrics is answered in the Prometheus text format")
def metrics(world: World, notes: Notes) -> None:
    answer = _found(world, "/metrics")
    if answer is None or b"# TYPE " not in answer.body:
        raise Violation("not there")
    notes.say("200")
