"""Policies of a project: what is demanded of platforms (TOML), and Rego for attestation and resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kokon.appraisal.policy_file import parse_policy
from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.access.roles import Action
from kokon.provisioning.catalogue import ATTESTATION_POLICY, PLATFORM_POLICY, RESOURCE_POLICY
from kokon.provisioning.database.values import Delete, Put
from kokon.provisioning.history import TEXT_LIMIT, Text, check_previous, decode_text, digest_of, encode_text
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.rego.trial import PolicyKind

KINDS = {"platform": PLATFORM_POLICY, "attestation": ATTESTATION_POLICY, "resource": RESOURCE_POLICY}
BODY_LIMIT = 2 * TEXT_LIMIT
VERSIONS = 1000
"""Versions of a policy that are kept."""


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    name: str
    stored: str


def list_policies(asked: Asked) -> dict[str, Any]:
    """All policies of the project, without their texts."""
    asked.allow(Action.POLICY_READ)
    snapshot = asked.store.snapshot(asked.project)
    places = [_Place(kind, name, stored) for kind, stored in KINDS.items() for name in snapshot.names(stored)]
    found = [_summary(asked, place) for place in places]
    return {"policies": [one for one in found if one is not None]}


def show_policy(asked: Asked, kind: str, name: str) -> dict[str, Any]:
    """A policy, its text and its history. Raises `DeniedError` (`policy-unknown`)."""
    asked.allow(Action.POLICY_READ)
    place = _place(kind, name)
    record = asked.store.read(asked.project, place.stored, name)
    summary = _summary(asked, place)
    if record is None or summary is None:
        raise _unknown(place)
    return {**summary, "text": decode_text(record).text, "history": _history(asked, place)}


def put_policy(asked: Asked, kind: str, name: str, body: bytes) -> dict[str, Any]:
    """Set a policy's text; with `previous`, only in the place of the record with that digest.

    Raises `MalformedError` and `UsageError` as the policy is parsed, `DeniedError` (`changed-meanwhile`).
    """
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="policy"), "policy")
    text, previous = fields.text("text", limit=TEXT_LIMIT), fields.optional_text("previous", limit=64)
    fields.finish()
    return set_policy(asked, kind, name, text, previous)


def set_policy(asked: Asked, kind: str, name: str, text: str, previous: str | None) -> dict[str, Any]:
    """As `put_policy`."""
    asked.allow(Action.POLICY_SET)
    place = _place(kind, name)
    _check_text(asked, place, text)
    meta = asked.store.snapshot(asked.project).get(place.stored, name)
    found = asked.store.read(asked.project, place.stored, name, meta.version) if meta else None
    check_previous(previous, digest_of(found))
    record = encode_text(Text(text, digest_of(found), asked.by))
    versions = asked.store.snapshot(asked.project).versions(place.stored, name)
    old = [Delete(place.stored, name, one.version) for one in versions[: max(0, len(versions) - VERSIONS + 1)]]
    details = {"policy": f"{kind}/{name}", "sha256": digest_of(record), "previous": digest_of(found)}
    put = Put(place.stored, name, record, previous=meta.version if meta else 0)
    receipt = asked.write("policy-set", details, (put, *old))
    return {"kind": kind, "name": name, "version": receipt.versions[0], "digest": digest_of(record)}


def delete_policy(asked: Asked, kind: str, name: str) -> dict[str, Any]:
    """Remove a policy: the server's own holds again. Raises `DeniedError` (`policy-unknown`)."""
    asked.allow(Action.POLICY_SET)
    place = _place(kind, name)
    if asked.store.snapshot(asked.project).get(place.stored, name) is None:
        raise _unknown(place)
    asked.write("policy-deleted", {"policy": f"{kind}/{name}"}, (Delete(place.stored, name),))
    return {"deleted": f"{kind}/{name}"}


def _place(kind: str, name: str) -> _Place:
    fits = name.isascii() and 0 < len(name) <= 64 and all(char.isalnum() or char in "-_." for char in name)
    if kind not in KINDS or not fits or (kind == "platform" and name != "default"):
        raise MalformedError(
            "policy-name",
            "there can be no such policy",
            expected="platform/default, attestation/NAME or resource/NAME",
            found=f"{kind[:40]}/{name[:80]}",
        )
    return _Place(kind, name, KINDS[kind])


def _check_text(asked: Asked, place: _Place, text: str) -> None:
    """Refuse a policy that could not be used."""
    if place.kind == "platform":
        parse_policy(text.encode())
        return
    kind: PolicyKind = "attestation" if place.kind == "attestation" else "resource"
    asked.core.rego.check(text, kind, tenant=asked.project)


def _summary(asked: Asked, place: _Place) -> dict[str, Any] | None:
    meta = asked.store.snapshot(asked.project).get(place.stored, place.name)
    record = asked.store.read(asked.project, place.stored, place.name, meta.version) if meta else None
    if meta is None or record is None:
        return None
    return {
        "kind": place.kind,
        "name": place.name,
        "version": meta.version,
        "digest": digest_of(record),
        "created": meta.created.isoformat(),
    }


def _history(asked: Asked, place: _Place) -> list[dict[str, Any]]:
    found = []
    for meta in asked.store.snapshot(asked.project).versions(place.stored, place.name):
        record = asked.store.read(asked.project, place.stored, place.name, meta.version)
        if record is not None:
            text = decode_text(record)
            members = {"version": meta.version, "digest": digest_of(record), "previous": text.previous, "by": text.by}
            found.append({**members, "created": meta.created.isoformat()})
    return found


def _unknown(place: _Place) -> DeniedError:
    return DeniedError("policy-unknown", "there is no such policy", found=f"{place.kind}/{place.name}")
