"""A policy as TOML: reading, strictly, and writing. The keys are described in docs/POLICY.md. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, NoReturn

from kokon.appraisal.policy import BOOT_PCRS, COMPONENTS, PRODUCTS, STATUSES, Policy, Tolerance
from kokon.errors import UsageError

POLICY_LIMIT: Final = 256 << 10
LIST_LIMIT: Final = 4096
TOLERANCES_LIMIT: Final = 256
TEXT_LIMIT: Final = 500
AGE_LIMIT: Final = 10 * 365 * 86_400
"""Seconds; more is no limit at all."""

_ALLOW: Final = (
    "debug",
    "migration",
    "sept_ve_off",
    "service_td",
    "vmpl_nonzero",
    "dynamic_platform",
    "cached_keys",
    "unbound_ak",
    "partial_references",
)
_REQUIRE: Final = ("smt_off", "current_tcb", "event_log", "revocation", "maximum_age", "pcrs")
_ONLY: Final = ("tees", "chips", "simulated_roots")


def parse_policy(data: bytes) -> Policy:
    """The policy in TOML of at most 256 KiB; what is left out keeps its strict default.

    Raises `UsageError`, always with the path of the key: `policy-too-large`, `policy-malformed` (no TOML),
    `policy-key-unknown` (with the nearest known key), `policy-type`, `policy-value`.
    """
    if len(data) > POLICY_LIMIT:
        raise UsageError("policy-too-large", "the policy is too large", expected=f"<= {POLICY_LIMIT}", found=len(data))
    try:
        members = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "policy-malformed", "the policy is not TOML", found=error, hint="docs/POLICY.md has an example"
        ) from error
    top = _Table(members, "", ("name", "allow", "require", "only", "tcb"))
    allow = top.table("allow", _ALLOW)
    tcb = top.table("tcb", ("snp", "intel"))
    snp = tcb.table("snp", (*COMPONENTS, *PRODUCTS))
    intel = tcb.table("intel", ("minimum_evaluation", "minimum_date", "statuses", "advisories"))
    switches: dict[str, Any] = {f"allow_{name}": allow.flag(name) for name in _ALLOW}
    return Policy(
        name=top.text("name", "custom"),
        **switches,
        **_requirements(top.table("require", _REQUIRE)),
        **_restrictions(top.table("only", _ONLY)),
        minimum_tcb=_components(snp),
        minimum_tcb_by_product={
            name: _components(snp.table(name, COMPONENTS)) for name in PRODUCTS if name in snp.members
        },
        tolerated_statuses=_tolerances(intel, "statuses", "status", _status),
        tolerated_advisories=_tolerances(intel, "advisories", "advisory", _advisory),
        minimum_evaluation=intel.integer("minimum_evaluation", 0, high=2**31 - 1),
        minimum_tcb_date=intel.day("minimum_date"),
    )


class _Table:
    """One table of the file: typed access to its members, with the path of the key in every error."""

    def __init__(self, members: Any, path: str, known: Iterable[str]) -> None:
        self._path = path
        if not isinstance(members, dict):
            self._wrong_type("", "a table", members)
        self.members: dict[str, Any] = members
        names = tuple(known)
        for name in members:
            if name not in names:
                self._unknown(name, names)

    def path(self, name: str) -> str:
        """The dotted path of a member."""
        return ".".join(part for part in (self._path, name) if part)

    def _unknown(self, name: str, known: tuple[str, ...]) -> NoReturn:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1, cutoff=0.5)
        raise UsageError(
            "policy-key-unknown",
            f"the policy has an unknown key {self.path(name)[:200]!r}",
            expected=", ".join(known),
            found=name[:200],
            hint=f"did you mean {self.path(near[0])}?" if near else "docs/POLICY.md lists all keys",
        )

    def _wrong_type(self, name: str, expected: str, found: Any) -> NoReturn:
        raise UsageError(
            "policy-type",
            f"{self.path(name)!r} of the policy has a wrong type",
            expected=expected,
            found=type(found).__name__,
        )

    def wrong_value(self, name: str, expected: str, found: object) -> NoReturn:
        """Refuse a member of the right type."""
        raise UsageError(
            "policy-value",
            f"{self.path(name)!r} of the policy is no such value",
            expected=expected,
            found=repr(found)[:200],
        )

    def table(self, name: str, known: Iterable[str]) -> _Table:
        """A table, empty if absent."""
        return _Table(self.members.get(name, {}), self.path(name), known)

    def flag(self, name: str) -> bool:
        """A boolean, false if absent."""
        value = self.members.get(name, False)
        if not isinstance(value, bool):
            self._wrong_type(name, "true or false", value)
        return value

    def integer(self, name: str, default: int, *, high: int) -> int:
        """An integer from 0 to `high`."""
        value = self.members.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong_type(name, "an integer", value)
        if not 0 <= value <= high:
            self.wrong_value(name, f"0 to {high}", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A printable text of 1 to 500 characters; required without a default."""
        if name not in self.members and default is None:
            self.wrong_value(name, "a text, which is required", "nothing")
        value = self.members.get(name, default)
        if not isinstance(value, str):
            self._wrong_type(name, "a text", value)
        if not 0 < len(value) <= TEXT_LIMIT or not value.isprintable() or not value.strip():
            self.wrong_value(name, f"1 to {TEXT_LIMIT} printable characters", value[:50])
        return value

    def array(self, name: str, limit: int = LIST_LIMIT) -> list[Any] | None:
        """An array; None if absent."""
        value = self.members.get(name)
        if value is not None and not isinstance(value, list):
            self._wrong_type(name, "an array", value)
        if value is not None and len(value) > limit:
            self.wrong_value(name, f"at most {limit} members", len(value))
        return value

    def day(self, name: str) -> date | None:
        """A date without a time; None if absent."""
        value = self.members.get(name)
        if value is None:
            return None
        if not isinstance(value, date) or isinstance(value, datetime):
            self._wrong_type(name, "a date, as 2026-11-23", value)
        return value

    def moment(self, name: str) -> datetime:
        """A time with its offset, or a date, which means its first moment in UTC."""
        value = self.members.get(name)
        if value is None:
            self.wrong_value(name, "a date, which is required", "nothing")
        if isinstance(value, datetime):
            if value.tzinfo is None:
                self.wrong_value(name, "a time with its offset, as 2026-11-23T12:00:00Z", value.isoformat())
            try:
                return value.astimezone(UTC)
            except OverflowError:
                self.wrong_value(name, "a time between the years 1 and 9999", value.isoformat())
        if not isinstance(value, date):
            self._wrong_type(name, "a date, as 2026-11-23", value)
        return datetime.combine(value, time(), UTC)


def _requirements(table: _Table) -> dict[str, Any]:
    revocation = table.text("revocation", "required")
    if revocation not in ("required", "if-available"):
        table.wrong_value("revocation", "required or if-available", revocation)
    pcrs = table.array("pcrs", 24)
    for number in pcrs or ():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 24:
            table.wrong_value("pcrs", "numbers from 0 to 23", number)
    return {
        "require_smt_off": table.flag("smt_off"),
        "require_current_tcb": table.flag("current_tcb"),
        "require_event_log": table.flag("event_log"),
        "revocation": revocation,
        "maximum_age": _age(table),
        "required_pcrs": BOOT_PCRS if pcrs is None else tuple(sorted(set(pcrs))),
    }


def _age(table: _Table) -> timedelta | None:
    if table.members.get("maximum_age") == "any":
        return None
    return timedelta(seconds=table.integer("maximum_age", 300, high=AGE_LIMIT))


def _restrictions(table: _Table) -> dict[str, Any]:
    return {
        "only_tees": _texts(table, "tees", lambda text: text.isascii() and text.isprintable()),
        "only_chips": tuple(bytes.fromhex(text) for text in _texts(table, "chips", _chip)),
        "only_simulated_roots": _texts(table, "simulated_roots", lambda text: _chip(text) and len(text) == 64),
    }


def _chip(text: str) -> bool:
    return len(text) <= 128 and len(text) % 2 == 0 and all(digit in "0123456789abcdef" for digit in text)


def _texts(table: _Table, name: str, good: Callable[[str], bool]) -> tuple[str, ...]:
    values = table.array(name)
    if values == []:
        table.wrong_value(name, "at least one member: an empty list would refuse everything", [])
    for value in values or ():
        if not isinstance(value, str) or not 0 < len(value) <= 128 or not good(value):
            kind = "names" if name == "tees" else "hexadecimal texts in lower case"
            table.wrong_value(name, kind, value)
    return tuple(dict.fromkeys(values or ()))


def _components(table: _Table) -> dict[str, int]:
    return {name: table.integer(name, 0, high=255) for name in COMPONENTS if name in table.members}


def _status(table: _Table, name: str) -> None:
    if name not in STATUSES:
        table.wrong_value("status", ", ".join(STATUSES), name)


def _advisory(table: _Table, name: str) -> None:
    number = name.removeprefix("INTEL-SA-")
    if number == name or not number.isascii() or not number.isdigit() or len(number) > 8:
        table.wrong_value("advisory", "INTEL-SA- and a number", name)


def _tolerances(table: _Table, key: str, member: str, check: Callable[[_Table, str], None]) -> tuple[Tolerance, ...]:
    found: dict[str, Tolerance] = {}
    for index, value in enumerate(table.array(key, TOLERANCES_LIMIT) or ()):
        entry = _Table(value, f"{table.path(key)}[{index}]", (member, "until", "reason"))
        name = entry.text(member)
        check(entry, name)
        if name in found:
            entry.wrong_value(member, "each one once", name)
        found[name] = Tolerance(name, entry.moment("until"), entry.text("reason"))
    return tuple(found.values())


def as_dict(policy: Policy) -> dict[str, Any]:
    """The policy as nested plain values, every key spelled out; what `parse_policy` reads, with texts for dates."""
    snp: dict[str, Any] = {name: policy.minimum_tcb[name] for name in sorted(policy.minimum_tcb)}
    snp |= {name: dict(sorted(minimum.items())) for name, minimum in sorted(policy.minimum_tcb_by_product.items())}
    intel: dict[str, Any] = {"minimum_evaluation": policy.minimum_evaluation}
    if policy.minimum_tcb_date is not None:
        intel["minimum_date"] = policy.minimum_tcb_date.isoformat()
    for key, member, tolerances in _tolerated(policy):
        if tolerances:
            intel[key] = [
                {member: one.name, "until": one.until.isoformat(), "reason": one.reason} for one in tolerances
            ]
    age = policy.maximum_age
    members: dict[str, Any] = {
        "name": policy.name,
        "allow": {name: getattr(policy, f"allow_{name}") for name in _ALLOW},
        "require": {
            "smt_off": policy.require_smt_off,
            "current_tcb": policy.require_current_tcb,
            "event_log": policy.require_event_log,
            "revocation": policy.revocation,
            "maximum_age": "any" if age is None else int(age.total_seconds()),
            "pcrs": list(policy.required_pcrs),
        },
        "tcb": {"snp": snp, "intel": intel},
    }
    only: dict[str, Any] = {
        "tees": list(policy.only_tees),
        "chips": [chip.hex() for chip in policy.only_chips],
        "simulated_roots": list(policy.only_simulated_roots),
    }
    return members | {"only": {name: values for name, values in only.items() if values}}


def _tolerated(policy: Policy) -> tuple[tuple[str, str, tuple[Tolerance, ...]], ...]:
    return (
        ("statuses", "status", policy.tolerated_statuses),
        ("advisories", "advisory", policy.tolerated_advisories),
    )


def render_policy(policy: Policy) -> bytes:
    """The policy as TOML, every key spelled out; inverse of `parse_policy`."""
    lines: list[str] = []
    _render(as_dict(policy), "", lines)
    return ("\n".join(lines).strip() + "\n").encode()


_DATES: Final = ("until", "minimum_date")


def _render(members: Mapping[str, Any], path: str, lines: list[str]) -> None:
    """Plain members first: in TOML whatever follows a table's head belongs to that table."""
    for name, value in members.items():
        if not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], dict)):
            lines.append(f"{name} = {value if name in _DATES else _literal(value)}")
    for name, value in members.items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            lines += ["", f"[{inner}]"]
            _render(value, inner, lines)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                lines += ["", f"[[{inner}]]"]
                _render(entry, inner, lines)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
