"""Workloads: which enclaves get secrets, and which."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, KokonError, UntrustedError, UsageError
from kokon.launch.document import parse_document
from kokon.provisioning.access.roles import Action
from kokon.provisioning.admission import ADMISSION_LIMIT, Admission, Kind, admit, parse_admission
from kokon.provisioning.catalogue import SECRET, WORKLOAD
from kokon.provisioning.database.values import Delete, Entry, Put, Work
from kokon.provisioning.history import check_previous, digest_of
from kokon.provisioning.kbs.paths import resource_path
from kokon.provisioning.measured import parse_measured
from kokon.provisioning.secret.value import Secret, decode_secret, encode_secret
from kokon.provisioning.workload import Workload, decode_workload, encode_workload
from kokon.wire import parse_json

if TYPE_CHECKING:
    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.catalogue import Catalogue
    from kokon.provisioning.database.values import Change


def list_workloads(asked: Asked) -> dict[str, Any]:
    """All workloads in the scope, by name."""
    asked.allow_somewhere(Action.WORKLOAD_LIST)
    known = asked.core.catalogue(asked.project).workloads
    return {"workloads": [one.summary() for name, one in sorted(known.items()) if asked.covers(name)]}


def show_workload(asked: Asked, name: str) -> dict[str, Any]:
    """One workload, and the digest of its record. Raises `DeniedError` (`workload-not-found`)."""
    asked.allow(Action.WORKLOAD_LIST, name)
    record = asked.store.read(asked.project, WORKLOAD, name)
    if record is None:
        raise not_found(name)
    return {**decode_workload(record).summary(), "digest": digest_of(record)}


def history(asked: Asked, name: str) -> dict[str, Any]:
    """All that a workload ever was since it was first admitted, oldest first. Raises as `show_workload`."""
    asked.allow(Action.WORKLOAD_LIST, name)
    found = []
    for meta in asked.store.snapshot(asked.project).versions(WORKLOAD, name):
        record = asked.store.read(asked.project, WORKLOAD, name, meta.version)
        if record is not None:
            workload = decode_workload(record)
            members = {"version": meta.version, "digest": digest_of(record), "created": meta.created.isoformat()}
            found.append({**workload.summary(), **members})
    if not found:
        raise not_found(name)
    return {"history": found}


def admit_workload(asked: Asked, body: bytes) -> dict[str, Any]:
    """Admit a workload, replacing one of the same name; with `previous`, only the one with that digest. Refusals are
    logged. Raises `KokonError` as `admit`, `DeniedError` (`changed-meanwhile`)."""
    name = "?"
    try:
        value = parse_json(body, limit=ADMISSION_LIMIT, what="admission request")
        previous = value.pop("previous", None) if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            name = value["name"][:64]
        asked.allow(Action.WORKLOAD_ADMIT, name)
        if isinstance(value, dict) and "references" in value:
            workload = parse_measured(value, asked.now)
            return _put(asked, workload, previous, None)
        request = parse_admission(value)
        admission = admit(request, asked.core.keys.owner, asked.core.keys.certificate, asked.now)
        return _put(asked, admission.workload, previous, admission)
    except KokonError as error:
        details = {"code": error.code, "workload": name.encode("ascii", "replace").decode()}
        asked.write("admission-denied", {**details, "message": str(error)[:1000]})
        raise


def _put(asked: Asked, workload: Workload, previous: str | None, admission: Admission | None) -> dict[str, Any]:
    """Keep an admitted workload, with what belongs to it."""

    def decision(catalogue: Catalogue) -> tuple[dict[str, Any], Work]:
        snapshot = asked.store.snapshot(asked.project)
        meta = snapshot.get(WORKLOAD, workload.name)
        before = asked.store.read(asked.project, WORKLOAD, workload.name, meta.version) if meta else None
        check_previous(previous, digest_of(before))
        record = encode_workload(workload.following(digest_of(before), asked.by))
        changes: list[Change] = [Put(WORKLOAD, workload.name, record, previous=meta.version if meta else 0)]
        generated: list[str] = []
        if admission is not None:
            _check_unique(workload, catalogue)
            changes += _kek(asked, admission)
            for path, kind in admission.generate:
                if snapshot.get(SECRET, path) is None:
                    generated.append(path)
                    changes.append(Put(SECRET, path, encode_secret(_made(kind)), previous=0))
        old = decode_workload(before) if before else None
        details = _details(workload, old, generated) | {"sha256": digest_of(record), "by": asked.by}
        answer = {**workload.summary(), "digest": digest_of(record), "generated": generated, "replaced": _replaced(old)}
        entry = Entry("workload-admitted", details)
        return answer, Work(asked.project, (entry,), tuple(changes), (), catalogue.generation)

    return asked.core.decide(asked.project, decision)


def _replaced(old: Workload | None) -> str | None:
    return None if old is None else old.host_data.hex() or old.terms()


def _details(workload: Workload, old: Workload | None, generated: list[str]) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "image": workload.image,
        "host_data": workload.host_data.hex(),
        "terms": workload.terms(),
        "replaces": _replaced(old) or "",
        "author": workload.author_name,
        "not_after": workload.not_after.isoformat(),
        "resources": list(workload.resources),
        "generated": generated,
        "allow_debug": workload.allow_debug,
    }


def _check_unique(workload: Workload, catalogue: Catalogue) -> None:
    for other in catalogue.workloads.values():
        if other.name != workload.name and other.host_data == workload.host_data != b"":
            raise UsageError("workload-duplicate", "another workload has this launch document", found=other.name)


def _kek(asked: Asked, admission: Admission) -> list[Change]:
    """What keeps the image's layer key, if it is not there."""
    kept = asked.store.read(asked.project, SECRET, admission.kek_path)
    if kept is None:
        return [Put(SECRET, admission.kek_path, encode_secret(Secret("given", admission.kek)), previous=0)]
    if not hmac.compare_digest(decode_secret(kept).value, admission.kek):
        raise UntrustedError(
            "kek-conflict",
            "another layer key is kept under this image's key id",
            found=admission.kek_path,
            hint="an author reuses the key id of another image; have the image sealed again",
        )
    return []


def _made(kind: Kind) -> Secret:
    value = secrets.token_bytes(32) if kind == "key" else secrets.token_hex(32).encode()
    return Secret("generated", value, "bytes:32" if kind == "key" else "hex:32")


def withdraw(asked: Asked, name: str) -> dict[str, Any]:
    """Forget a workload: its enclaves get nothing any more. Raises `DeniedError` (`workload-not-found`)."""
    asked.allow(Action.WORKLOAD_WITHDRAW, name)
    if asked.store.snapshot(asked.project).get(WORKLOAD, name) is None:
        raise not_found(name)
    asked.write("workload-withdrawn", {"workload": name}, (Delete(WORKLOAD, name),))
    return {"withdrawn": name}


def log_token(asked: Asked, name: str) -> dict[str, Any]:
    """The token that opens the log of a workload's containers; that it was asked for is logged.

    Raises `DeniedError` (`workload-not-found`, `log-not-kept`, `resource-unknown`).
    """
    asked.allow(Action.WORKLOAD_ADMIT, name)
    workload = asked.core.catalogue(asked.project).workloads.get(name)
    if workload is None:
        raise not_found(name)
    if not workload.document:
        raise DeniedError("log-not-kept", "guests of this workload keep no log for Kokon", found=name[:64])
    path = resource_path(parse_document(workload.document.encode()).log_key)
    record = asked.store.read(asked.project, SECRET, path)
    if record is None:
        raise DeniedError("resource-unknown", "there is no such resource", found=path)
    asked.write("log-token-read", {"workload": name, "resource": path})
    return {"token": decode_secret(record).value.decode("ascii", "replace")}


def not_found(name: str) -> DeniedError:
    """There is no such workload."""
    return DeniedError("workload-not-found", "there is no workload of this name", found=name[:64])


def add_statement(asked: Asked, name: str, body: bytes) -> dict[str, Any]:
    """TEMPORARY"""
    raise not_found(name)


def delete_statement(asked: Asked, name: str, host_data: str) -> dict[str, Any]:
    """TEMPORARY"""
    raise not_found(name)
