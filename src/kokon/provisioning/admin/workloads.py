"""Workloads: which enclaves get secrets, and which."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, KokonError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.access.roles import Action
from kokon.provisioning.admission import ADMISSION_LIMIT, Admission, Kind, admit, log_path, parse_admission
from kokon.provisioning.catalogue import RELEASE, SECRET, WORKLOAD
from kokon.provisioning.database.values import Delete, Entry, Put, Work
from kokon.provisioning.history import check_previous, digest_of
from kokon.provisioning.measured import parse_measured
from kokon.provisioning.rules.accept import accept
from kokon.provisioning.rules.compose import workload_of
from kokon.provisioning.rules.record import encode_release
from kokon.provisioning.rules.rule import decode_rule, parse_rule
from kokon.provisioning.secret.value import Secret, decode_secret, encode_secret
from kokon.provisioning.workload import Workload, decode_workload, encode_workload
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.catalogue import Catalogue
    from kokon.provisioning.database.values import Change
    from kokon.provisioning.rules.accept import Acceptance


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
            members = {"record": meta.version, "digest": digest_of(record), "created": meta.created.isoformat()}
            found.append({**workload.summary(), **members})
    if not found:
        raise not_found(name)
    return {"history": found}


def admit_workload(asked: Asked, body: bytes) -> dict[str, Any]:
    """Admit a workload, replacing one of the same name; with `previous`, only the one with that digest. Refusals are
    logged. Raises `KokonError` as `admit`, `DeniedError` (`changed-meanwhile`, `scope-exceeded`)."""
    with _refusals(asked, body) as value:
        previous = value.pop("previous", None)
        asked.allow(Action.WORKLOAD_ADMIT, _name(value))
        if "rule" in value:
            return _put(asked, workload_of(parse_rule(value, asked.now), asked.now), previous, None)
        if "references" in value:
            return _put(asked, parse_measured(value, asked.now), previous, None)
        request = parse_admission(value)
        admission = admit(request, asked.core.keys.owner, asked.core.keys.certificate, asked.now)
        return _put(asked, admission.workload, previous, admission)


def add_statement(asked: Asked, name: str, body: bytes) -> dict[str, Any]:
    """Let an image in as a release of a workload, if its rule allows it. Refusals are logged.

    Raises `KokonError` as `accept`, `DeniedError` (`workload-not-found`, `workload-without-rule`).
    """
    with _refusals(asked, body) as value:
        asked.allow(Action.STATEMENT_ADD, name)
        request = parse_admission(value)

        def decision(catalogue: Catalogue) -> tuple[dict[str, Any], Work]:
            workload = _ruled(catalogue, name)
            keys = asked.core.keys
            accepted = accept(decode_rule(workload.rule), request, keys.owner, keys.certificate, asked.now)
            release = accepted.release.by(asked.by)
            _check_unique(name, release.host_data, catalogue)
            generated, changes = _belongings(asked, accepted)
            changes.append(Put(RELEASE, release.name, encode_release(release)))
            changes += _surplus(asked, release.name)
            details = {
                "workload": name,
                "image": release.image,
                "version": release.version,
                "host_data": release.host_data.hex(),
                "certified_by": list(release.certified_by),
                "generated": generated,
                "by": asked.by,
            }
            answer = {**release.summary(), "generated": generated}
            return answer, Work(
                asked.project, (Entry("release-added", details),), tuple(changes), (), catalogue.generation
            )

        return asked.core.decide(asked.project, decision)


def _surplus(asked: Asked, name: str) -> list[Change]:
    """Of a release only the last record counts."""
    versions = asked.store.snapshot(asked.project).versions(RELEASE, name)
    return [Delete(RELEASE, name, one.version) for one in versions]


def delete_statement(asked: Asked, name: str, host_data: str) -> dict[str, Any]:
    """Take a release back: its enclaves get nothing any more. Raises `DeniedError` (`release-not-found`)."""
    asked.allow(Action.STATEMENT_ADD, name)
    release = f"{name}/{host_data}"
    if asked.store.snapshot(asked.project).get(RELEASE, release) is None:
        raise DeniedError("release-not-found", "the workload has no such release", found=release[:128])
    details = {"workload": name, "host_data": host_data}
    asked.write("release-removed", details, (Delete(RELEASE, release),))
    return {"workload": name, "host_data": host_data}


@contextlib.contextmanager
def _refusals(asked: Asked, body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON object of a request; whatever it is refused for is logged."""
    value: Any = {}
    try:
        value = parse_json(body, limit=ADMISSION_LIMIT, what="admission request")
        if not isinstance(value, dict):
            raise MalformedError("field-type", "an admission request is an object", found=type(value).__name__)
        yield value
    except KokonError as error:
        details = {"code": error.code, "workload": _name(value).encode("ascii", "replace").decode()}
        asked.write("admission-denied", {**details, "message": str(error)[:1000]})
        raise


def _name(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return name[:64] if isinstance(name, str) else "?"


def _ruled(catalogue: Catalogue, name: str) -> Workload:
    workload = catalogue.workloads.get(name)
    if workload is None:
        raise not_found(name)
    if not workload.rule:
        raise DeniedError(
            "workload-without-rule",
            "this workload is what it was admitted as, and has no rule by which more could be let in",
            found=name,
            hint="the owner admits a rule with `kokon workload allow`",
        )
    return workload


def _put(asked: Asked, workload: Workload, previous: str | None, admission: Admission | None) -> dict[str, Any]:
    """Keep an admitted workload, with what belongs to it."""
    kek = admission.kek_path if admission else None
    for path in workload.resources:
        if path != kek:  # where layer keys are, is nobody's scope
            asked.allow(Action.WORKLOAD_ADMIT, path)

    def decision(catalogue: Catalogue) -> tuple[dict[str, Any], Work]:
        meta = asked.store.snapshot(asked.project).get(WORKLOAD, workload.name)
        before = asked.store.read(asked.project, WORKLOAD, workload.name, meta.version) if meta else None
        check_previous(previous, digest_of(before))
        record = encode_workload(workload.following(digest_of(before), asked.by))
        changes: list[Change] = [Put(WORKLOAD, workload.name, record, previous=meta.version if meta else 0)]
        generated: list[str] = []
        if admission is not None:
            _check_unique(workload.name, workload.host_data, catalogue)
            generated, more = _belongings(asked, admission)
            changes += more
        old = decode_workload(before) if before else None
        details = _details(workload, old, generated) | {"sha256": digest_of(record), "by": asked.by}
        answer = {**workload.summary(), "digest": digest_of(record), "generated": generated, "replaced": _replaced(old)}
        entry = Entry("workload-admitted", details)
        return answer, Work(asked.project, (entry,), tuple(changes), (), catalogue.generation)

    return asked.core.decide(asked.project, decision)


def _belongings(asked: Asked, admitted: Admission | Acceptance) -> tuple[list[str], list[Change]]:
    """What is generated for an image, and the changes that keep that and its layer key."""
    changes, snapshot = _kek(asked, admitted), asked.store.snapshot(asked.project)
    generated = [path for path, _ in admitted.generate if snapshot.get(SECRET, path) is None]
    changes += [
        Put(SECRET, path, encode_secret(_made(kind)), previous=0)
        for path, kind in admitted.generate
        if path in generated
    ]
    return generated, changes


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


def _check_unique(name: str, host_data: bytes, catalogue: Catalogue) -> None:
    other = catalogue.pinned.get(host_data)
    if other is not None and other.name != name:
        raise UsageError("workload-duplicate", "another workload has this launch document", found=other.name)


def _kek(asked: Asked, admitted: Admission | Acceptance) -> list[Change]:
    """What keeps the image's layer key, if it is not there."""
    kept = asked.store.read(asked.project, SECRET, admitted.kek_path)
    if kept is None:
        return [Put(SECRET, admitted.kek_path, encode_secret(Secret("given", admitted.kek)), previous=0)]
    if not hmac.compare_digest(decode_secret(kept).value, admitted.kek):
        raise UntrustedError(
            "kek-conflict",
            "another layer key is kept under this image's key id",
            found=admitted.kek_path,
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
    releases = [one for one in asked.store.snapshot(asked.project).names(RELEASE) if one.startswith(f"{name}/")]
    changes = [Delete(WORKLOAD, name), *(Delete(RELEASE, one) for one in releases)]
    asked.write("workload-withdrawn", {"workload": name, "releases": len(releases)}, changes)
    return {"withdrawn": name}


def log_token(asked: Asked, name: str) -> dict[str, Any]:
    """The token that opens the log of a workload's containers; that it was asked for is logged.

    Raises `DeniedError` (`workload-not-found`, `log-not-kept`, `resource-unknown`).
    """
    asked.allow(Action.WORKLOAD_ADMIT, name)
    workload = asked.core.catalogue(asked.project).workloads.get(name)
    if workload is None:
        raise not_found(name)
    if not workload.document and not workload.rule:
        raise DeniedError("log-not-kept", "guests of this workload keep no log for Kokon", found=name[:64])
    path = log_path(name)
    record = asked.store.read(asked.project, SECRET, path)
    if record is None:
        raise DeniedError("resource-unknown", "there is no such resource", found=path)
    asked.write("log-token-read", {"workload": name, "resource": path})
    return {"token": decode_secret(record).value.decode("ascii", "replace")}


def not_found(name: str) -> DeniedError:
    """There is no such workload."""
    return DeniedError("workload-not-found", "there is no workload of this name", found=name[:64])
