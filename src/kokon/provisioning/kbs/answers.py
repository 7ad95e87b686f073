"""How a guest is refused: statuses, the protocol's error documents, when to come again. Pure.

A guest is told a code and the id under which the owner finds the rest, never more. Statuses are the right ones, which
stock clients bear: at a resource they attest anew on 401 and give up on all others, and every body must be the
document. The stock server says 401 to everything; for clients that count on it (an integration test of upstream waits
until its client has attested in vain, three times, and says "request unauthorized") there is a `literal` mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from kokon.errors import KokonError

Where = Literal["handshake", "resource", "admin"]
"""What was asked for: /auth and /attest, anything a guest reads, or what only the owner may do."""

ERROR_PREFIX: Final = "https://github.com/confidential-containers/kbs/errors/"
VARIANTS: Final = frozenset(
    {
        "AdminAuthAccess",
        "AttestationError",
        "InvalidRequestPath",
        "JweError",
        "PluginInternalError",
        "PluginNotFound",
        "PolicyDeny",
        "PolicyEngineError",
        "SerdeError",
        "TokenNotFound",
        "TokenVerifierError",
    }
)
"""Last parts of `type` that are used here: those of the stock server (trustee, kbs/src/error.rs)."""
RETRY_SECONDS: Final = 5

STATUS_BY_KIND: Final[Mapping[str, int]] = {
    "malformed": 400,
    "usage": 400,
    "untrusted": 403,
    "denied": 403,
    "stale": 403,
    "unreachable": 503,
    "host": 503,
    "internal": 500,
}
"""What a refusal of each kind (`kokon.errors`) is, unless its code is listed."""
STATUS_BY_CODE: Final[Mapping[str, int]] = {
    **dict.fromkeys(("session-unknown", "nonce-used", "principal-unknown", "principal-expired", "admin-token"), 401),
    **dict.fromkeys(("token-missing", "token-malformed", "token-signature", "token-expired", "token-early"), 401),
    **dict.fromkeys(("token-key-unknown", "token-audience", "token-issuer", "admin-token-malformed"), 401),
    **dict.fromkeys(("no-such-path", "resource-path", "plugin-unknown", "project-unknown"), 404),
    **dict.fromkeys(("resource-unknown", "workload-not-found", "denial-unknown"), 404),
    **dict.fromkeys(("policy-unknown", "reference-unknown", "release-not-found", "tile-unknown"), 404),
    "principal-not-found": 404,
    "no-such-method": 405,
    "body-timeout": 408,
    **dict.fromkeys(("changed-meanwhile", "project-exists"), 409),
    **dict.fromkeys(("body-too-large", "json-too-large", "resource-size"), 413),
    "rate-limited": 429,
    **dict.fromkeys(("store-tampered", "store-key-unknown", "keyring-tampered"), 500),
}
_VARIANT_BY_CODE: Final[Mapping[str, str]] = {
    "token-missing": "TokenNotFound",
    **dict.fromkeys(("no-such-path", "no-such-method", "resource-path", "project-unknown"), "InvalidRequestPath"),
    "plugin-unknown": "PluginNotFound",
}
_VARIANT_BY_STATUS: Final[Mapping[Where, Mapping[int, str]]] = {
    "handshake": {400: "SerdeError", 413: "SerdeError", 500: "PluginInternalError", 503: "PluginInternalError"},
    "resource": {400: "SerdeError", 401: "TokenVerifierError", 403: "PolicyDeny", 413: "SerdeError"},
    "admin": {400: "SerdeError", 401: "AdminAuthAccess", 403: "AdminAuthAccess", 413: "SerdeError"},
}
_OTHERWISE: Final[Mapping[Where, str]] = {
    "handshake": "AttestationError",
    "resource": "PluginInternalError",
    "admin": "PluginInternalError",
}
_LITERAL_404: Final = frozenset({"InvalidRequestPath", "PluginNotFound"})
_LATER: Final = frozenset({429, 503})
_LITERAL_TEXT: Final = "request unauthorized"


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal: status, the last part of its type, its text, and after how many seconds to come again."""

    status: int
    variant: str
    detail: str
    retry_after: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The protocol's ErrorInformation."""
        return error_document(self.variant, self.detail)

    @property
    def body(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        known = {"Content-Type": "application/json"}
        return known if self.retry_after is None else known | {"Retry-After": str(self.retry_after)}


def error_document(variant: str, detail: str) -> dict[str, str]:
    """The body of every refusal."""
    return {"type": ERROR_PREFIX + variant, "detail": detail}


def status_of(code: str, kind: str) -> int:
    """The HTTP status of a refusal: by its code, else by its kind, 500 if that is none of ours."""
    return STATUS_BY_CODE.get(code, STATUS_BY_KIND.get(kind, 500))


def refusal(
    code: str,
    kind: str,
    where: Where,
    *,
    denial: str | None = None,
    literal: bool = False,
    retry_after: int = RETRY_SECONDS,
) -> Answer:
    """How `code`, an error's of that `kind`, is answered. `denial` is the id under which the log has it.

    `literal`: as the stock server does, 401 for everything but unknown paths and plugins. `retry_after` is in seconds,
    for 429 and 503.
    """
    status = status_of(code, kind)
    variant = _VARIANT_BY_CODE.get(code) or _VARIANT_BY_STATUS[where].get(status, _OTHERWISE[where])
    detail = code if denial is None else f"{code}: id {denial}"
    later = max(1, retry_after) if status in _LATER else None
    if not literal:
        return Answer(status, variant, detail, later)
    status = 404 if variant in _LITERAL_404 else 401
    return Answer(status, variant, f"{detail}; {_LITERAL_TEXT}" if status == 401 else detail, later)


def refusal_of(
    error: KokonError,
    where: Where,
    *,
    denial: str | None = None,
    literal: bool = False,
    retry_after: int = RETRY_SECONDS,
) -> Answer:
    """How `error` is answered; as `refusal`."""
    return refusal(error.code, error.kind, where, denial=denial, literal=literal, retry_after=retry_after)
