"""`kokon workload`: which enclaves the provisioning server gives secrets to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.access import DEFAULT_ACCESS, Access, connect, table
from kokon.cli.admit import tell_missing
from kokon.cli.output import emit
from kokon.cli.policy import digest_option, read_text
from kokon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_LIMIT = 1 << 20


def add(
    name: str,
    /,
    *,
    references: Path,
    policy: Path | None = None,
    secret: tuple[str, ...] = (),
    days: int = 365,
    max_activations: int | None = None,
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
    policy
        Policy for the platform (docs/POLICY.md); default: the project's.
    secret
        WORKLOAD/NAME or kbs:///a/b/c: what it may read; may be given again.
    days
        How many days it is good for.
    max_activations
        How many attestations are granted in all; default: any number.
    previous
        Digest of the workload's record that you have seen (`none` for a new one): if it was changed meanwhile, nothing
        is admitted.
    json
        Print JSON.
    """
    body = {
        "name": name,
        "references": read_text(references, FILE_LIMIT),
        "policy": "" if policy is None else read_text(policy, FILE_LIMIT),
        "resources": resources_of(secret),
        "not_after": end_of(days),
        "max_activations": max_activations,
    }
    _admit(name, body, previous, access, json)


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
    expected = digest_option(previous)
    more = {} if expected is None else {"previous": expected}
    with connect(access) as client:
        answer = client.admit({**body, **more})
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
