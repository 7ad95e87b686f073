"""Refusals: the right status and document for every kind, and the stock server's manners where they are wanted."""

import json

import pytest

from kokon.errors import (
    DeniedError,
    HostError,
    InternalError,
    KokonError,
    MalformedError,
    StaleError,
    UnreachableError,
    UntrustedError,
    UsageError,
)
from kokon.guest.agent.kbs import parse_refusal
from kokon.provisioning.kbs.answers import (
    ERROR_PREFIX,
    STATUS_BY_CODE,
    VARIANTS,
    Answer,
    Where,
    error_document,
    refusal,
    refusal_of,
)

KINDS: dict[type[KokonError], int] = {
    MalformedError: 400,
    UsageError: 400,
    UntrustedError: 403,
    DeniedError: 403,
    StaleError: 403,
    UnreachableError: 503,
    HostError: 503,
    InternalError: 500,
}
PLACES: tuple[Where, ...] = ("handshake", "resource", "admin")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_status(kind: type[KokonError], where: Where) -> None:
    answer = refusal_of(kind("some-code", "a message with a secret"), where, denial="0123abcd")
    assert answer.status == KINDS[kind]
    assert answer.detail == "some-code: id 0123abcd"
    assert answer.variant in VARIANTS
    assert (answer.retry_after is not None) == (answer.status == 503)
    assert json.loads(answer.body) == error_document(answer.variant, answer.detail)
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("code", "where", "status", "variant"),
    [
        ("json-malformed", "handshake", 400, "SerdeError"),
        ("protocol-version", "handshake", 400, "SerdeError"),
        ("session-unknown", "handshake", 401, "AttestationError"),
        ("nonce-used", "handshake", 401, "AttestationError"),
        ("json-too-large", "handshake", 413, "SerdeError"),
        ("session-unknown", "resource", 401, "TokenVerifierError"),
        ("token-missing", "resource", 401, "TokenNotFound"),
        ("token-expired", "resource", 401, "TokenVerifierError"),
        ("resource-unknown", "resource", 404, "PluginInternalError"),
        ("resource-path", "resource", 404, "InvalidRequestPath"),
        ("no-such-path", "resource", 404, "InvalidRequestPath"),
        ("project-unknown", "handshake", 404, "InvalidRequestPath"),
        ("plugin-unknown", "resource", 404, "PluginNotFound"),
        ("changed-meanwhile", "resource", 409, "PluginInternalError"),
        ("body-too-large", "admin", 413, "SerdeError"),
        ("rate-limited", "resource", 429, "PluginInternalError"),
        ("rate-limited", "handshake", 429, "AttestationError"),
        ("principal-unknown", "admin", 401, "AdminAuthAccess"),
        ("store-tampered", "resource", 500, "PluginInternalError"),
        ("store-tampered", "handshake", 500, "PluginInternalError"),
    ],
)
def test_codes_with_a_status_of_their_own(code: str, where: Where, status: int, variant: str) -> None:
    answer = refusal(code, "malformed", where)
    assert (answer.status, answer.variant, answer.detail) == (status, variant, code)
    assert (answer.retry_after is not None) == (status == 429)


@pytest.mark.parametrize(
    ("kind", "where", "variant"),
    [("untrusted", "handshake", "AttestationError"), ("denied", "resource", "PolicyDeny")],
)
def test_denials(kind: str, where: Where, variant: str) -> None:
    assert refusal("some-code", kind, where).variant == variant


def test_a_kind_that_nobody_knows_is_a_fault_of_ours() -> None:
    assert refusal("some-code", "weather", "resource").status == 500


@pytest.mark.parametrize("where", PLACES)
def test_the_stock_servers_manners(where: Where) -> None:
    for code in (*STATUS_BY_CODE, "some-code"):
        for kind in ("malformed", "denied", "host", "internal"):
            plain = refusal(code, kind, where, denial="ab12")
            answer = refusal(code, kind, where, denial="ab12", literal=True)
            assert answer.variant == plain.variant
            assert answer.status == (404 if plain.variant in {"InvalidRequestPath", "PluginNotFound"} else 401)
            if answer.status == 401:
                assert answer.detail == f"{code}: id ab12; request unauthorized"


@pytest.mark.parametrize("literal", [False, True])
def test_our_guest_reads_code_and_denial(literal: bool) -> None:
    answer = refusal("not-affirming", "denied", "resource", denial="0123abcd", literal=literal)
    assert parse_refusal(answer.body) == ("PolicyDeny", "not-affirming", "0123abcd")


def test_headers() -> None:
    assert refusal("rate-limited", "denied", "handshake", retry_after=0).headers["Retry-After"] == "1"
    assert refusal("disk-full", "host", "resource", retry_after=30).headers == {
        "Content-Type": "application/json",
        "Retry-After": "30",
    }
    assert "Retry-After" not in Answer(403, "PolicyDeny", "x").headers
    assert ERROR_PREFIX == "https://github.com/confidential-containers/kbs/errors/"
