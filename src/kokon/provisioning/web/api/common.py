"""What the operations have in common: parameters, credentials, and how each may refuse. Pure."""

from __future__ import annotations

from typing import Any, Final

from kokon.provisioning.web.table import Answer, Content, Parameter, ref

PREFIX: Final = "/p/{project}"
KBS: Final = "/kbs/v0"
KOKON: Final = "/kokon/v1"

ADMIN: Final = ("token", "certificate")
"""Who may administrate."""
ATTESTED: Final = ("session", "attestation")
"""Who has attested."""

PLAIN: Final = "text/plain"
BYTES: Final = "application/octet-stream"
DIGEST: Final = r"^[0-9a-f]{64}$"
_SEGMENT: Final = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$"
_LATER: Final = {"Retry-After": "seconds"}


def matching(pattern: str) -> dict[str, Any]:
    """A text that matches all of `pattern`."""
    return {"type": "string", "pattern": pattern}


def number(low: int = 0, high: int = 10**15 - 1) -> dict[str, Any]:
    """A whole number."""
    return {"type": "integer", "minimum": low, "maximum": high}


SECRET_PATH: Final = (
    Parameter("repository", "the first part of the secret's path", "path", matching(_SEGMENT)),
    Parameter("type", "the second", "path", matching(_SEGMENT)),
    Parameter("tag", "the third", "path", matching(_SEGMENT)),
)
WORKLOAD: Final = Parameter("name", "the workload's name", "path", matching(r"^[a-z0-9][a-z0-9_.-]{0,62}$"))


def ok(description: str, schema: Any = None, media_type: str = "application/json") -> Answer:
    """200 with a body."""
    return Answer(200, description, Content(schema, media_type))


def absent(description: str) -> Answer:
    """404, and what is not there: a project always may not be. For answers of the admin interface."""
    return _refusal(404, f"{description}, or no such project", "Error")


def guests(*special: Answer, attested: bool = True, body: bool = False) -> tuple[Answer, ...]:
    """How a guest is answered: `special` answers, and the common refusals as the protocol's error documents."""
    found = _refusals("BrokerError", body=body)
    if attested:
        found |= {401: _refusal(401, "not attested: attest anew", "BrokerError")}
        found |= {
            403: _refusal(403, "denied; `detail` has the code, and the id for `GET .../denials/{id}`", "BrokerError")
        }
    return _sorted(found, special)


def broker_admin(*special: Answer, body: bool = False) -> tuple[Answer, ...]:
    """How the key broker's admin clients are answered."""
    return _sorted(_refusals("BrokerError", body=body) | _denied("BrokerError"), special)


def admin(*special: Answer, body: bool = False, project: bool = True) -> tuple[Answer, ...]:
    """How principals are answered; `project`: something of a project."""
    found = _refusals("Error", body=body) | _denied("Error")
    if not project:
        del found[404]
    return _sorted(found, special)


def anybody(*special: Answer) -> tuple[Answer, ...]:
    """How anybody is answered who asks for nothing of a project's."""
    found = _refusals("Error", body=False)
    return _sorted({status: found[status] for status in (400, 429, 500, 503)}, special)


def conflict(schema: str = "Error") -> Answer:
    """409."""
    return _refusal(409, "it was changed meanwhile: `previous` does not hold", schema)


def _denied(schema: str) -> dict[int, Answer]:
    return {
        401: _common(401, "no token or certificate of a principal's, or not a good one", schema),
        403: _common(403, "not allowed to this principal, or refused", schema),
    }


def _refusals(schema: str, *, body: bool) -> dict[int, Answer]:
    found = {
        400: _common(400, "malformed, or what cannot be done", schema),
        404: _common(404, "there is no such project", schema),
        429: Answer(429, "too often: come again later", Content(ref(schema)), _LATER, common=True),
        500: _common(500, "a bug, or a record that was tampered with: the log says more", schema),
        503: Answer(
            503, "too much is under way, or something that is needed fails", Content(ref(schema)), _LATER, True
        ),
    }
    if body:
        found |= {408: _common(408, "the body did not come in time", schema)}
        found |= {413: _common(413, "the body is too large", schema)}
    return found


def _refusal(status: int, description: str, schema: str) -> Answer:
    return Answer(status, description, Content(ref(schema)))


def _common(status: int, description: str, schema: str) -> Answer:
    return Answer(status, description, Content(ref(schema)), common=True)


def _sorted(found: dict[int, Answer], special: tuple[Answer, ...]) -> tuple[Answer, ...]:
    merged = found | {answer.status: answer for answer in special}
    return tuple(merged[status] for status in sorted(merged))
