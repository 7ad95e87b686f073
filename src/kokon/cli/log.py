"""`kokon log`: what happened at the provisioning server; and why something was denied, for `kokon explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kokon.cli.output import emit, note

_BRIEF = ("workload", "resource", "code", "denial", "text", "image")
_TOLD = ("expected", "found", "hint")
_MARKS = {"passed": "ok  ", "failed": "FAIL", "not-checked": "-   "}


def log(*, last: int = 0, admin: Path | None = None, json: bool = False) -> None:
    """Show the provisioning server's log and verify its chain.

    Example: `kokon log --last 20`

    Parameters
    ----------
    last
        Show only this many entries; the whole chain is verified all the same.
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.log import parse_entry

    with AdminClient.from_home(admin) as client:
        raw, head = client.log()
    entries = [parse_entry(data) for data in (raw[-last:] if last > 0 else raw)]
    members = [
        {
            "sequence": entry.sequence,
            "time": entry.time.isoformat(timespec="milliseconds"),
            "event": entry.event,
            "previous": entry.previous,
            "digest": entry.digest,
            **entry.details,
        }
        for entry in entries
    ]
    answer = {"entries": members, "head": {"sequence": head.sequence, "digest": head.digest}, "verified": True}
    emit(answer, "\n".join(map(_line, members)), json)
    note(f"chain of {head.sequence} entries verified, head {head.digest}")


def explain_denial(denial: str, *, admin: Path | None = None, json: bool = False) -> None:
    """Print why something was denied: every check, what was expected and what was found. Part of `kokon explain`."""
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home(admin) as client:
        entry = client.denial(denial)
    emit(entry, "\n".join(_explanation(entry)), json)


def _line(entry: Mapping[str, Any]) -> str:
    details = "  ".join(f"{name}={entry[name]}" for name in _BRIEF if entry.get(name))
    return f"{entry['sequence']:>6}  {entry['time']}  {entry['event']:<19}  {details}".rstrip()


def _explanation(entry: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"{entry['event']} at {entry['time']}: {entry['code']}: {entry['message']}"]
    lines += [f"  {name}: {entry[name]}" for name in ("workload", "resource", "evidence", "chip_id") if name in entry]
    for check in entry["checks"]:
        code = f"  [{check['code']}]" if "code" in check else ""
        lines.append(f"  {_MARKS.get(check['outcome'], '?   ')} {check['name']}{code}")
        if check["outcome"] == "failed" or check.get("code") == "endorsement-unavailable":
            lines += [f"         {name}: {check[name]}" for name in _TOLD if name in check]
    return lines
