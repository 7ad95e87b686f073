"""A workload as the server remembers it after admission, and its form in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.wire import Fields, canonical_json, parse_json, unhex

if TYPE_CHECKING:
    from kokon.tee.evidence import Check

RECORD_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What was admitted under a name.

    `host_data` is the launch document's SHA-256; `measurements` are pairs of TEE ("snp", "simulated") and launch
    digest (48 bytes); `resources` are the paths that it may read; `author` the PEM key that signed. A workload that is
    known by its measurements alone (`measured.py`) has none of these but `resources`, and the texts of a reference file
    and of a policy instead. One that is known by a rule (`kokon.provisioning.rules`) has the text of the `rule`; what
    its enclaves are held against are its `releases`, each a workload of the same name made from rule and statement, and
    `standing` are the checks of such a release against the rule. Neither is in the record.

    `platform` is the text of a policy in the place of the project's ("": none); `tees` and `chips` are what it may run
    on, none named: all (`restrictions.py`). At most `max_activations` attestations are granted (None: any number).
    `version` is the image's, `certified_by` the key ids of certifiers. `previous` is the hex digest of the record that
    this one took the place of, `admitted_by` whose decision it was.
    """

    name: str
    document: str = ""
    host_data: bytes = b""
    image: str = ""
    author: str = ""
    author_name: str = ""
    statement: Mapping[str, Any] = field(default_factory=dict)
    measurements: tuple[tuple[str, bytes], ...] = ()
    not_after: datetime
    resources: tuple[str, ...]
    admitted: datetime
    allow_debug: bool = False
    minimum_tcb: tuple[tuple[str, int], ...] = ()
    references: str = ""
    platform: str = ""
    max_activations: int | None = None
    previous: str = ""
    admitted_by: str = ""
    version: str = ""
    certified_by: tuple[str, ...] = ()
    tees: tuple[str, ...] = ()
    chips: tuple[bytes, ...] = ()
    rule: str = ""
    releases: tuple[Workload, ...] = ()
    standing: tuple[Check, ...] = ()
    _terms: str = field(default="", init=False, repr=False, compare=False)

    def following(self, previous: str, by: str) -> Workload:
        """This workload as the record that takes the place of the one with the hex digest `previous` ("": none),
        admitted by the principal `by`."""
        return replace(self, previous=previous, admitted_by=by)

    def terms(self) -> str:
        """Hex SHA-256 of what an enclave of this workload is judged by: launch document, measurements, policy, TEEs and
        chips.

        A token is good only under the terms that it was given under. What a rule says of a release is not among them:
        it is looked at whenever something is released.
        """
        if not self._terms:
            object.__setattr__(self, "_terms", self._make_terms())
        return self._terms

    def _make_terms(self) -> str:
        members: dict[str, Any] = {
            "host_data": self.host_data.hex(),
            "measurements": [[tee, value.hex()] for tee, value in self.measurements],
            "allow_debug": self.allow_debug,
            "minimum_tcb": [[name, value] for name, value in self.minimum_tcb],
        }
        if self.references:
            members |= {"references": self.references, "platform": self.platform}
        optional = {
            "platform": self.platform,
            "tees": list(self.tees),
            "chips": [chip.hex() for chip in self.chips],
            "rule": self.rule,
        }
        members |= {name: value for name, value in optional.items() if value}
        return hashlib.sha256(canonical_json(members)).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The workload for people and programs; nothing in it is secret."""
        return {
            "name": self.name,
            "image": self.image,
            "author": self.author_name,
            "host_data": self.host_data.hex(),
            "measurements": [{"tee": tee, "measurement": value.hex()} for tee, value in self.measurements],
            "not_after": self.not_after.isoformat(),
            "resources": list(self.resources),
            "policy": {"allow_debug": self.allow_debug, "minimum_tcb": dict(self.minimum_tcb)},
            "admitted": self.admitted.isoformat(timespec="seconds"),
            "references": self.references,
            "platform": self.platform,
            "max_activations": self.max_activations,
            "previous": self.previous,
            "admitted_by": self.admitted_by,
            "version": self.version,
            "certified_by": list(self.certified_by),
            "tees": list(self.tees),
            "chips": [chip.hex() for chip in self.chips],
            "rule": json.loads(self.rule) if self.rule else None,
        }


def encode_workload(workload: Workload) -> bytes:
    """The record of `workload`."""
    members = {
        **workload.summary(),
        "rule": workload.rule,
        "document": workload.document,
        "author_key": workload.author,
        "statement": dict(workload.statement),
    }
    return json.dumps(members).encode()


def decode_workload(data: bytes) -> Workload:
    """The inverse of `encode_workload`. Raises `MalformedError` (`workload-record`, those of `kokon.wire`).

    What kind of workload it is: `rule` is the text of a rule, `references` that of a reference file; neither: it has a
    launch document.
    """
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what="workload record"), "workload record")
    allow_debug, minimum_tcb = parse_policy(fields.table("policy"))
    measured = fields.text("references", default="", limit=RECORD_LIMIT)
    rule = fields.text("rule", default="", limit=RECORD_LIMIT)
    workload = Workload(
        name=fields.text("name"),
        document=fields.text("document", limit=RECORD_LIMIT),
        host_data=_host_data(fields.text("host_data"), measured or rule),
        image=fields.text("image"),
        author=fields.text("author_key", limit=8192),
        author_name=fields.text("author"),
        statement=fields.table("statement"),
        measurements=tuple(read_measurement(value) for value in fields.array("measurements")),
        not_after=parse_time(fields.text("not_after")),
        resources=tuple(fields.array("resources", limit=1024)),
        allow_debug=allow_debug,
        minimum_tcb=minimum_tcb,
        admitted=parse_time(fields.text("admitted")),
        references=measured,
        platform=fields.text("platform", default="", limit=RECORD_LIMIT),
        max_activations=fields.value("max_activations", default=None),
        previous=fields.text("previous", default="", limit=64),
        admitted_by=fields.text("admitted_by", default="", limit=64),
        version=fields.text("version", default=""),
        certified_by=tuple(fields.array("certified_by", default=[])),
        tees=tuple(fields.array("tees", default=[])),
        chips=tuple(unhex(chip, what="chip") for chip in fields.array("chips", default=[], limit=1024)),
        rule=rule,
    )
    fields.finish()
    return workload


def parse_policy(value: Any) -> tuple[bool, tuple[tuple[str, int], ...]]:
    """`allow_debug` and `minimum_tcb` of a policy object. Raises `MalformedError` as `kokon.wire`."""
    fields = Fields(value, "policy")
    allow_debug = fields.flag("allow_debug", default=False)
    given = fields.table("minimum_tcb", default={})
    fields.finish()
    names = Fields(given, "minimum_tcb")
    minimum = tuple((name, names.integer(name, high=255)) for name in sorted(given))
    return allow_debug, minimum


def _host_data(text: str, other: str) -> bytes:
    return b"" if other and not text else unhex(text, what="host_data", size=32)


def read_measurement(value: Any) -> tuple[str, bytes]:
    """TEE and launch digest of an object of a record. Raises `MalformedError` as `kokon.wire`."""
    fields = Fields(value, "measurement")
    pair = (fields.text("tee"), unhex(fields.text("measurement"), what="measurement", size=48))
    fields.finish()
    return pair


def parse_time(text: str) -> datetime:
    """A time with a zone (RFC 3339). Raises `MalformedError` (`workload-record`)."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("workload-record", "a time of the workload is malformed", found=repr(text)) from error
    if when.tzinfo is None:
        raise MalformedError("workload-record", "a time of the workload has no zone", found=repr(text))
    return when
