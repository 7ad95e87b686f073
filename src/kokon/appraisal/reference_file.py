"""Reference values from a file, in TOML or JSON (docs/POLICY.md), and from an author's identity statement. Pure.

A file proves nothing by itself. Whoever reads it says where it is from and who signed it, and that text stands in every
result as the reference's source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

from kokon.appraisal.policy import COMPONENTS
from kokon.appraisal.reference import ReferenceValues, register_name
from kokon.errors import MalformedError
from kokon.wire import Fields, parse_json, unhex

REFERENCES_LIMIT: Final = 1 << 20
ENTRIES_LIMIT: Final = 1024
VALUES_LIMIT: Final = 256
REGISTERS_LIMIT: Final = 64
DIGEST_LIMIT: Final = 64
"""Bytes of the longest value: REPORT_DATA, CONFIGID, SHA-512."""

_MEASUREMENTS: Final = ("measurement", "mrtd", "mrenclave", "launchmeasurement")


def parse_references(data: bytes, source: str = "") -> tuple[ReferenceValues, ...]:
    """The references in a file of at most 1 MiB: JSON if it begins with a brace, else TOML. `source` is for people.

    Raises `MalformedError`: `reference-malformed`, and as `kokon.wire` (`json-malformed`, `field-missing`,
    `field-type`, `field-unknown`, `field-range`, `field-too-long`, `hex-malformed`).
    """
    what = "the reference file"
    fields = Fields(_load(data), what)
    entries = fields.array("reference", limit=ENTRIES_LIMIT)
    fields.finish()
    if not entries:
        raise _malformed("the reference file names no reference", "at least one [[reference]]", "none")
    return tuple(_reference(value, f"reference {index + 1}", source) for index, value in enumerate(entries))


def from_entries(
    entries: Iterable[tuple[str, bytes]],
    *,
    not_after: datetime | None = None,
    host_data: bytes | None = None,
    name: str = "",
    source: str = "",
) -> tuple[ReferenceValues, ...]:
    """References of an identity statement: pairs of TEE and measurement become one reference for each kind of TEE.

    The caller has verified the statement, and says in `source` whose it is.
    """
    measured: dict[str, list[bytes]] = {}
    for tee, measurement in entries:
        measured.setdefault(tee, []).append(measurement)
    return tuple(
        ReferenceValues(
            tuple(dict.fromkeys(measurements)),
            not_after=not_after,
            host_data=host_data,
            tee=tee,
            name=name,
            source=source,
        )
        for tee, measurements in measured.items()
    )


def _malformed(message: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "reference-malformed", message, expected=expected, found=found, hint="docs/POLICY.md describes reference files"
    )


def _load(data: bytes) -> Any:
    if len(data) > REFERENCES_LIMIT:
        raise _malformed("the reference file is too large", f"<= {REFERENCES_LIMIT} bytes", len(data))
    if data.lstrip()[:1] == b"{":
        return parse_json(data, limit=REFERENCES_LIMIT, what="the reference file")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed("the reference file is neither JSON nor TOML", "[[reference]] tables", error) from error


def _reference(value: Any, what: str, source: str) -> ReferenceValues:
    fields = Fields(value, what)
    tee = fields.text("tee", default="", limit=64)
    measurements, registers = _registers(fields.table("registers", default={}), what)
    reference = ReferenceValues(
        measurements=(*_digests(fields, "measurement", what), *measurements),
        not_after=_moment(fields.value("not_after", default=None), what),
        host_data=_bytes(fields.optional_text("host_data"), "host_data", what),
        registers=registers,
        report_data=_bytes(fields.optional_text("report_data"), "report_data", what),
        report_data_prefix=fields.flag("report_data_prefix", default=False),
        signers=_digests(fields, "signer", what),
        product_id=fields.integer("product_id", default=None, high=0xFFFF),
        security_version=fields.integer("security_version", default=None, high=2**32 - 1),
        minimum_tcb=_minimum(fields.table("minimum_tcb", default={}), what),
        tee=tee,
        name=fields.text("name", default="", limit=256),
        source=source,
    )
    fields.finish()
    if not reference.given:
        raise _malformed(f"{what} does not say what runs", "measurement, registers or signer", "none of these")
    return reference


def _registers(members: Mapping[str, Any], what: str) -> tuple[tuple[bytes, ...], dict[str, tuple[bytes, ...]]]:
    """Values by register in its one spelling. MRTD and MRENCLAVE are the measurement by other names."""
    if len(members) > REGISTERS_LIMIT:
        raise _malformed(f"{what} names too many registers", f"<= {REGISTERS_LIMIT}", len(members))
    measurements: tuple[bytes, ...] = ()
    registers: dict[str, tuple[bytes, ...]] = {}
    for name, value in members.items():
        plain = register_name(name[:64])
        values = _values(value, name[:64], what)
        if not values or plain in registers or not plain.replace(":", "").isalnum():
            raise _malformed(f"{what} names a register without value, twice, or none", "rtmr1, pcr11", name[:64])
        if plain in _MEASUREMENTS:
            measurements += values
        else:
            registers[plain] = values
    return measurements, registers


def _digests(fields: Fields, name: str, what: str) -> tuple[bytes, ...]:
    """Values of which none is zero: the measurement of a debug enclave and the signer of an unsigned one are."""
    values = _values(fields.value(name, default=[]), name, what)
    if not all(map(any, values)):
        raise _malformed(f"{name!r} of {what} is zero", "a digest", "zeros")
    return values


def _values(value: Any, name: str, what: str) -> tuple[bytes, ...]:
    """One hexadecimal text or an array of them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > VALUES_LIMIT:
        raise _malformed(f"{name!r} of {what} is no value", f"a text, or up to {VALUES_LIMIT}", type(value).__name__)
    found = []
    for text in texts:
        data = _bytes(text, name, what)
        if not data:
            raise _malformed(f"{name!r} of {what} is empty", "a digest", "nothing")
        found.append(data)
    return tuple(dict.fromkeys(found))


def _bytes(text: Any, name: str, what: str) -> bytes | None:
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > 2 * DIGEST_LIMIT:
        raise _malformed(f"{name!r} of {what} is no value", f"hexadecimal, <= {DIGEST_LIMIT} bytes", repr(text)[:100])
    return unhex(text, what=f"{name!r} of {what}") if text else b""


def _minimum(members: Mapping[str, Any], what: str) -> dict[str, int]:
    fields = Fields(members, f"minimum_tcb of {what}")
    minimum = {name: fields.integer(name, high=255) for name in COMPONENTS if name in members}
    fields.finish()
    return minimum


def _moment(value: Any, what: str) -> datetime | None:
    """A time with its offset, or a date, which means its first moment in UTC; in JSON as a text."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise _malformed(f"'not_after' of {what} is no time", "as 2026-11-23T12:00:00Z", value[:40]) from error
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _malformed(f"'not_after' of {what} has no offset", "as 2026-11-23T12:00:00Z", value.isoformat())
        try:
            return value.astimezone(UTC)
        except OverflowError as error:
            raise _malformed(f"'not_after' of {what} is no time", "the years 1 to 9999", value.isoformat()) from error
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise _malformed(f"'not_after' of {what} is no time", "as 2026-11-23T12:00:00Z", type(value).__name__)
