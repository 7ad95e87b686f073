"""`kokon workload`: which enclaves the provisioning server gives secrets to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.access import DEFAULT_ACCESS, Access, connect, table
from kokon.cli.admit import (
    KEY_LIMIT,
    UNLIMITED,
    Launch,
    Limits,
    expecting,
    limits_of,
    submit,
    tell_missing,
)
from kokon.cli.output import emit
from kokon.cli.policy import read_text
from kokon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_LIMIT = 1 << 20


def add(
    name: str,
    /,
    *,
    references: Path,
    secret: tuple[str, ...] = (),
    days: int = 365,
    limits: Limits = UNLIMITED,
    previous: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Admit guests by what the hardware measured of them, whatever made them: for images of Kokon use `kokon admit`.

    Example: `kokon workload add billing --references billing.toml --secret billing/db-password`

    The guest may be any client of the key broker protocol, in any TEE. If it matches several workloads, it is the first
    by name.

    Parameters
    ----------
    name
        Name of the workload.
    references
        Reference values, as `kokon evidence verify --references` takes them (docs/POLICY.md).
    secret
        WORKLOAD/NAME or kbs:///a/b/c: what it may read; may be given again.
    days
        How many days it is good for.
    previous
        Digest of the workload's record that you have seen (`none` for a new one): if it was changed meanwhile, nothing
        is admitted.
    json
        Print JSON.
    """
    body = {
        "name": name,
        "references": read_text(references, FILE_LIMIT),
        "resources": resources_of(secret),
        "not_after": end_of(days),
        **limits_of(limits, "policy"),
    }
    _admit(name, body, previous, access, json)


def allow(
    name: str,
    /,
    *,
    signer: Path,
    minimum_version: str,
    image: str = "",
    certifier: tuple[Path, ...] = (),
    certifiers_needed: int | None = None,
    secret: tuple[str, ...] = (),
    volume: tuple[str, ...] = (),
    days: int = 365,
    limits: Limits = UNLIMITED,
    previous: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Admit a workload by a rule: whose images, from which version on, certified by whom. Patch releases need no owner.

    Example: `kokon workload allow clinic --signer author.pub --minimum-version 2.1.0 --secret clinic/db-password`

    `kokon workload release` then lets images in, which an operator may do; what no longer fits a rule gets nothing.

    Parameters
    ----------
    name
        Name of the workload.
    signer
        Public key of the images' author (PEM).
    minimum_version
        The lowest version that is let in, as authors give it with `kokon seal --version`.
    image
        Name of the image, host/repository; default: any of the signer's.
    certifier
        Public key of somebody who must have certified the image (`kokon certify`). May be repeated.
    certifiers_needed
        How many of the certifiers are needed; default: all.
    secret
        WORKLOAD/NAME or kbs:///a/b/c: what it may read; may be given again.
    volume
        NAME of an encrypted volume, or kbs:///a/b/c: its key is made by the server. May be repeated.
    days
        How many days the rule is good for.
    previous
        Digest of the workload's record that you have seen (`none` for a new one): nothing is done if it was changed.
    json
        Print JSON.
    """
    rule: dict[str, Any] = {
        "signer": read_text(signer, KEY_LIMIT),
        "minimum_version": minimum_version,
        "image": image,
        "certifiers": [read_text(path, KEY_LIMIT) for path in certifier],
        "resources": resources_of(secret),
        "generate": [text if text.startswith("kbs:") else f"kbs:///{name}/volume/{text}" for text in volume],
        "not_after": end_of(days),
        **limits_of(limits, "policy"),
    }
    rule |= {} if certifiers_needed is None else {"certifiers_needed": certifiers_needed}
    _admit(name, {"name": name, "rule": rule}, previous, access, json)


def release(name: str, image: str, /, *, launch: Launch, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Let a sealed image in under a workload's rule, and write its launch document for the host.

    Example: `kokon workload release clinic 127.0.0.1:5000/clinic:2.1.1 --author author.pub --secret db-password`

    Needs the role of an operator: what the image gets, and where it may run, is the rule's to say.

    Parameters
    ----------
    name
        Name of the workload.
    image
        The sealed image: host[:port]/repository[:tag][@digest].
    json
        Print JSON.
    """
    submit(image, name, launch, access, lambda client, body: client.add_statement(name, body), json=json)


def revoke(name: str, host_data: str, /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Take back an image that was let in under a workload's rule: its enclaves get nothing any more.

    Example: `kokon workload revoke clinic 3f1c0a...`

    Parameters
    ----------
    name
        Name of the workload.
    host_data
        SHA-256 of its launch document in hex, as `kokon workload show` has it.
    json
        Print JSON.
    """
    with connect(access) as client:
        client.remove_statement(name, host_data)
    emit({"revoked": host_data, "workload": name}, f"{name}: {host_data} is not let in any more", json)


def list_workloads(*, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """List the workloads that are admitted.

    Example: `kokon workload list`

    Parameters
    ----------
    json
        Print JSON.
    """
    with connect(access) as client:
        workloads = client.workloads()
    emit({"workloads": workloads}, table([_row(one) for one in workloads], "no workloads"), json)


def show(name: str, /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Show a workload, and the digest of its record, for `--previous`.

    Example: `kokon workload show clinic`

    Parameters
    ----------
    name
        Name of the workload.
    json
        Print JSON.
    """
    with connect(access) as client:
        answer = client.workload(name)
    emit(answer, "\n".join(_described(answer)), json)


def history(name: str, /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Show all that a workload ever was, oldest first: each record names the digest of the one before it.

    Example: `kokon workload history clinic`

    Parameters
    ----------
    name
        Name of the workload.
    json
        Print JSON.
    """
    with connect(access) as client:
        records = client.workload_history(name)
    emit({"history": records}, table([_record(one) for one in records], "no records"), json)


def rm(name: str, /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Withdraw a workload: its enclaves get nothing any more, those that run now neither.

    Example: `kokon workload rm billing`

    Parameters
    ----------
    name
        Name of the workload.
    json
        Print JSON.
    """
    with connect(access) as client:
        client.withdraw(name)
    emit({"withdrawn": name}, f"{name}: withdrawn", json)


def resources_of(secrets: tuple[str, ...]) -> list[str]:
    """Secrets as typed, in full. Raises `UsageError` (`secret-name`)."""
    from kokon.provisioning.collect import secret_path

    return ["kbs:///" + secret_path(text) for text in secrets]


def end_of(days: int) -> str:
    """The time in so many days. Raises `UsageError` (`days-malformed`)."""
    if not 0 < days <= 36500:
        raise UsageError("days-malformed", "not a number of days", expected="1..36500", found=days)
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")


def _admit(name: str, body: Mapping[str, Any], previous: str | None, access: Access, json: bool) -> None:
    with connect(access) as client:
        answer = client.admit({**body, **expecting(previous)})
        tell_missing(client, answer["resources"])
    emit(answer, f"admitted {name}: until {answer['not_after']}", json)


def _row(workload: Mapping[str, Any]) -> tuple[str, ...]:
    limit = workload["max_activations"]
    return (
        workload["name"],
        _by(workload),
        f"until {workload['not_after'][:19]}",
        f"{len(workload['resources'])} resources",
        "" if limit is None else f"at most {limit} activations",
    )


def _by(workload: Mapping[str, Any]) -> str:
    if workload.get("rule"):
        return "by rule"
    return workload["image"] or "by measurement"


def _record(one: Mapping[str, Any]) -> tuple[str, ...]:
    by = f"by {one['by']}" if one.get("by") else ""
    return f"version {one['version']}", one["created"][:19], one["digest"], _by(one), by


def _described(workload: Mapping[str, Any]) -> list[str]:
    """A workload in lines; texts of files stand at the end."""
    texts = [(name, workload[name]) for name in ("references", "platform") if workload.get(name)]
    lines = [
        f"{name.replace('_', ' ')}: {_value(value)}"
        for name, value in workload.items()
        if name not in ("references", "platform") and value not in (None, "", [], {})
    ]
    for name, text in texts:
        lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name.replace('_', ' ')} {_value(one)}" for name, one in value.items()) + ")"
    return str(value)
