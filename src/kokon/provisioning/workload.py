"""A workload as the server remembers it after admission, and its form in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kokon.errors import MalformedError
from kokon.wire import Fields, canonical_json, parse_json, unhex

RECORD_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Workload:
    """What was admitted under a name.

    `host_data` is the launch document's SHA-256; `measurements` are pairs of TEE ("snp", "simulated") and launch
    digest (48 bytes); `resources` are the paths that it may read; `author` the PEM key that signed.
    """

    name: str
    document: str
    host_data: bytes
    image: str
    author: str
    author_name: str
    statement: Mapping[str, Any]
    measurements: tuple[tuple[str, bytes], ...]
    not_after: datetime
    resources: tuple[str, ...]
    admitted: datetime
    allow_debug: bool = False
    minimum_tcb: tuple[tuple[str, int], ...] = ()

    def terms(self) -> str:
        """Hex SHA-256 of what an enclave of this workload is judged by: launch document, measurements and policy.

        A token is good only under the terms that it was given under.
        """
        members = {
            "host_data": self.host_data.hex(),
            "measurements": [[tee, value.hex()] for tee, value in self.measurements],
            "allow_debug": self.allow_debug,
            "minimum_tcb": [[name, value] for name, value in self.minimum_tcb],
        }
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
        }


def encode_workload(workload: Workload) -> bytes:
    """The record of `workload`."""
    members = {
        **workload.summary(),
        "document": workload.document,
        "author_key": workload.author,
        "statement": dict(workload.statement),
    }
    return json.dumps(members).encode()


def decode_workload(data: bytes) -> Workload:
    """The inverse of `encode_workload`. Raises `MalformedError` (`workload-record`, those of `kokon.wire`)."""
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what="workload record"), "workload record")
    allow_debug, minimum_tcb = parse_policy(fields.table("policy"))
    workload = Workload(
        name=fields.text("name"),
        document=fields.text("document", limit=RECORD_LIMIT),
        host_data=unhex(fields.text("host_data"), what="host_data", size=32),
        image=fields.text("image"),
        author=fields.text("author_key", limit=8192),
        author_name=fields.text("author"),
        statement=fields.table("statement"),
        measurements=tuple(_measurement(value) for value in fields.array("measurements")),
        not_after=_time(fields.text("not_after")),
        resources=tuple(fields.array("resources", limit=1024)),
        allow_debug=allow_debug,
        minimum_tcb=minimum_tcb,
        admitted=_time(fields.text("admitted")),
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


def _measurement(value: Any) -> tuple[str, bytes]:
    fields = Fields(value, "measurement")
    pair = (fields.text("tee"), unhex(fields.text("measurement"), what="measurement", size=48))
    fields.finish()
    return pair


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("workload-record", "a time in the workload record is malformed", found=text) from error
