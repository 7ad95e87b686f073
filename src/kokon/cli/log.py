"""`kokon log`: what happened at the provisioning server; and why something was denied, for `kokon explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.access import DEFAULT_ACCESS, Access, connect
from kokon.cli.output import emit, note

if TYPE_CHECKING:
    from kokon.provisioning.ledger.keys import VerifierKey

_BRIEF = ("workload", "resource", "code", "denial", "text", "image", "policy", "name", "by")
_TOLD = ("expected", "found", "hint")
_MARKS = {"passed": "ok  ", "failed": "FAIL", "not-checked": "-   "}


def log(
    *,
    last: int = 0,
    server: bool = False,
    key: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Show a project's log, every entry verified against the log's signed head.

    Example: `kokon log --last 20`

    For a proof that holds without the server: `kokon audit export` and `kokon audit verify`.

    Parameters
    ----------
    last
        Show only this many entries; all are verified all the same.
    server
        The server's own log instead: projects, principals, keys.
    key
        The log's verifier key, or a file with it; default: what the server says.
    json
        Print JSON.
    """
    from kokon.provisioning.ledger.entry import parse_entry

    pinned = None if key is None else read_key(key)
    with connect(access) as client:
        raw, head = client.log(last=max(0, last), server=server, key=pinned)
    entries = [parse_entry(data) for data in raw]
    first = head.size - len(entries)
    members = [
        {
            "index": first + number,
            "time": entry.time.isoformat(timespec="milliseconds"),
            "event": entry.event,
            **entry.details,
        }
        for number, entry in enumerate(entries)
    ]
    told = {"origin": head.origin, "size": head.size, "root": head.root.hex()}
    emit({"entries": members, "head": told, "verified": True}, "\n".join(map(_line, members)) or "no entries", json)
    whose = "" if pinned else ", by the key that the server tells"
    note(f"{head.origin}: {head.size} entries verified{whose}, root {head.root.hex()}")


def explain_denial(denial: str, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Print why something was denied: every check, what was expected and what was found. Part of `kokon explain`."""
    with connect(access) as client:
        entry = client.denial(denial)
    emit(entry, "\n".join(_explanation(entry)), json)


def read_key(text: str) -> VerifierKey:
    """A verifier key as typed: its text, or the name of a file that holds it.

    Raises `MalformedError` (`verifier-key-malformed`, and as `parse_verifier_key`), `UsageError` (`input-...`).
    """
    from kokon.cli.inputs import read_input
    from kokon.provisioning.ledger.keys import parse_verifier_key

    if text.count("+") >= 2 and not Path(text).is_file():
        return parse_verifier_key(text)
    return parse_verifier_key(read_input(Path(text), 4096).decode("utf-8", "replace").strip())


def _line(entry: Mapping[str, Any]) -> str:
    told = {name: entry[name] for name in _BRIEF if isinstance(entry.get(name), str) and entry[name]}
    if isinstance(entry.get("principal"), Mapping):
        told |= {name: entry["principal"].get(name) for name in ("id", "name", "role")}
    details = "  ".join(f"{name}={value}" for name, value in told.items())
    return f"{entry['index']:>6}  {entry['time']}  {entry['event']:<19}  {details}".rstrip()


def _explanation(entry: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"{entry['event']} at {entry['time']}: {entry['code']}: {entry['message']}"]
    lines += [f"  {name}: {entry[name]}" for name in ("workload", "resource", "evidence", "chip_id") if name in entry]
    for check in entry["checks"]:
        code = f"  [{check['code']}]" if "code" in check else ""
        lines.append(f"  {_MARKS.get(check['outcome'], '?   ')} {check['name']}{code}")
        if check["outcome"] == "failed" or check.get("code") == "endorsement-unavailable":
            lines += [f"         {name}: {check[name]}" for name in _TOLD if name in check]
    return lines
