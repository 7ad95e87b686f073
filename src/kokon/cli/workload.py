"""`kokon workload`: which enclaves the provisioning server gives secrets to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.cli.output import emit, note
from kokon.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

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
    admin: Path | None = None,
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
        Policy for the platform (docs/POLICY.md); default: the server's.
    secret
        WORKLOAD/NAME or kbs:///a/b/c: what it may read; may be given again.
    days
        How many days it is good for.
    max_activations
        How many attestations are granted in all; default: any number.
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.collect import secret_path

    if not 0 < days <= 36500:
        raise UsageError("days-malformed", "not a number of days", expected="1..36500", found=days)
    body = {
        "name": name,
        "references": _read(references),
        "policy": "" if policy is None else _read(policy),
        "resources": ["kbs:///" + secret_path(text) for text in secret],
        "not_after": (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds"),
        "max_activations": max_activations,
    }
    with AdminClient.from_home(admin) as client:
        answer = client.admit(body)
        present = {one["resource"] for one in client.resources()}
    for path in answer["resources"]:
        if path not in present:
            note(f"still missing: kokon secret put {path}")
    emit(answer, f"admitted {name}: until {answer['not_after']}", json)


def list_workloads(*, admin: Path | None = None, json: bool = False) -> None:
    """List the workloads that are admitted.

    Example: `kokon workload list`

    Parameters
    ----------
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home(admin) as client:
        workloads = client.workloads()
    emit({"workloads": workloads}, "\n".join(map(_line, workloads)) or "no workloads", json)


def rm(name: str, /, *, admin: Path | None = None, json: bool = False) -> None:
    """Withdraw a workload: its enclaves get nothing any more, those that run now neither.

    Example: `kokon workload rm billing`

    Parameters
    ----------
    name
        Name of the workload.
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home(admin) as client:
        client.withdraw(name)
    emit({"withdrawn": name}, f"{name}: withdrawn", json)


def _line(workload: dict[str, Any]) -> str:
    by = workload["image"] or "by measurement"
    limit = workload["max_activations"]
    times = "" if limit is None else f"  at most {limit} activations"
    return f"{workload['name']}  {by}  until {workload['not_after']}  {len(workload['resources'])} resources{times}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_LIMIT + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("file-unreadable", f"cannot read {path} as text", found=error) from error
