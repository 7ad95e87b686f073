"""What admin clients of Confidential Containers' key broker send and are answered. Pure.

    POST /attestation-policy   {"type": ..., "policy_id": id, "policy": base64url of the text}   -> nothing
    POST /resource-policy      {"policy": base64url of the text}                                 -> nothing
    GET  /resource-policy      -> ["resource-policy"]: ids, not texts
    POST /reference-value      {"version": "0.1.0", "type": kind, "payload": text}               -> nothing
    GET  /reference-value/ID   -> the value, any JSON

(kbs, api_server and attestation backend; kbs-client.) The original ignores members that it does not know; here they are
refused but for `type`, which clients send with policies and nobody reads. It knows base64url without padding alone;
people's scripts write padding and plain base64 too, and there is one way to read each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.rego.reference import StoredValue, current, read_message
from kokon.provisioning.rego.text import POLICY_LIMIT
from kokon.provisioning.rego.trial import PolicyKind
from kokon.wire import Fields, b64, b64url, parse_json, unb64, unb64url

__all__ = [
    "BODY_LIMIT",
    "POLICY_IDS",
    "PolicyMessage",
    "attestation_policy_body",
    "parse_attestation_policy",
    "parse_reference_values",
    "parse_resource_policy",
    "policy_ids_answer",
    "reference_answer",
    "references_answer",
    "resource_policy_body",
    "sample_values_body",
]

BODY_LIMIT: Final = 2 * POLICY_LIMIT
"""Bytes of a policy's message."""
POLICY_IDS: Final[Mapping[PolicyKind, str]] = {"attestation": "default", "resource": "resource-policy"}
"""The policy that is meant if a message names none: kbs-client's default, and the only one that the original has."""

_NAME_LIMIT: Final = 64

parse_reference_values = read_message
"""The reference values of a message: `reference.read_message`."""


@dataclass(frozen=True, slots=True)
class PolicyMessage:
    """A policy that a client sets: what it decides, its id, its text in Rego."""

    kind: PolicyKind
    name: str
    text: str


def parse_attestation_policy(body: bytes) -> PolicyMessage:
    """The policy in a message of at most 128 KiB. Its id may be left out, or be "default_cpu" for one class of TEEs.

    Raises `MalformedError` (`policy-name`, `policy-text`, and those of `kokon.wire`).
    """
    fields = _fields(body)
    name = fields.text("policy_id", default=POLICY_IDS["attestation"], limit=4096)
    return PolicyMessage("attestation", _name(name), _text(fields))


def parse_resource_policy(body: bytes) -> PolicyMessage:
    """The policy in a message of at most 128 KiB. Raises `MalformedError` (`policy-text`, those of `kokon.wire`)."""
    return PolicyMessage("resource", POLICY_IDS["resource"], _text(_fields(body)))


def attestation_policy_body(text: str, name: str = POLICY_IDS["attestation"]) -> bytes:
    """The message that sets an attestation policy."""
    return _dump({"type": "rego", "policy_id": name, "policy": b64url(text.encode())})


def resource_policy_body(text: str) -> bytes:
    """The message that sets the resource policy."""
    return _dump({"policy": b64url(text.encode())})


def sample_values_body(values: Mapping[str, Any]) -> bytes:
    """The message that registers reference values as they are, which nobody signs."""
    return _dump({"version": "0.1.0", "type": "sample", "payload": b64(_dump(dict(values)))})


def policy_ids_answer(names: Iterable[str]) -> bytes:
    """The answer to the question which policies there are: JSON, sorted."""
    return _dump(sorted(names))


def reference_answer(stored: Mapping[str, StoredValue], name: str, now: datetime) -> bytes:
    """The value of that name as JSON. Raises `DeniedError` (`reference-unknown`) if there is none, or has expired at
    `now` (aware)."""
    values = current({one: value for one, value in stored.items() if one == name}, now)
    if name not in values:
        raise DeniedError("reference-unknown", "there is no reference value of this name", found=name[:80])
    return _dump(values[name])


def references_answer(stored: Mapping[str, StoredValue], now: datetime) -> bytes:
    """All that have not expired at `now` (aware), by name, as releases of 2025 answered."""
    return _dump(current(stored, now))


def _fields(body: bytes) -> Fields:
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="the policy message"), "the policy message")
    fields.value("type", default=None)
    return fields


def _name(name: str) -> str:
    fits = 0 < len(name) <= _NAME_LIMIT and name.isascii() and all(char.isalnum() or char in "-_." for char in name)
    if not fits or name.startswith("."):
        raise MalformedError(
            "policy-name",
            "there can be no such policy",
            expected=f"1..{_NAME_LIMIT} letters, digits, - _ and ., the last not in front",
            found=repr(name[:80]),
        )
    return name


def _text(fields: Fields) -> str:
    """The message's last member, and no more."""
    encoded = fields.text("policy", limit=BODY_LIMIT)
    fields.finish()
    try:
        return _decoded(encoded).decode()
    except UnicodeDecodeError as error:
        raise MalformedError("policy-text", "the policy is not UTF-8", found=error) from error


def _decoded(encoded: str) -> bytes:
    if len(encoded) > POLICY_LIMIT * 4 // 3 + 4:
        _too_large(len(encoded))
    if "+" in encoded or "/" in encoded:
        return unb64(encoded, what="policy", limit=POLICY_LIMIT)
    bare = encoded.rstrip("=")
    if bare != encoded and (len(encoded) % 4 or len(encoded) - len(bare) > 2):
        raise MalformedError("base64-malformed", "policy is not base64", found="wrong padding")
    return unb64url(bare, what="policy", limit=POLICY_LIMIT)


def _too_large(found: int) -> NoReturn:
    raise MalformedError(
        "policy-too-large",
        "the policy is too large",
        expected=f"<= {POLICY_LIMIT} bytes",
        found=f"{found} characters of base64",
    )


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
