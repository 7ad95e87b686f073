"""A release: what the server remembers of a statement that a rule let in, and its form in the store.

The record's name is `<workload>/<hex of host_data>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from kokon.provisioning.workload import RECORD_LIMIT, parse_time, read_measurement
from kokon.wire import Fields, canonical_json, parse_json, unhex

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One image, launched in one way, of the workload `workload`.

    `host_data` is the launch `document`'s SHA-256, `image` the manifest's digest, `image_name` what its author calls
    it, `version` the author's too. `author` is the key (PEM) that signed, `author_name` a name for people,
    `certified_by` the key ids of those of the rule's certifiers who countersigned. `measurements` are pairs of TEE and
    launch digest (48 bytes). The statement ends at `not_after`, the image's layer key is at `kek_path`. It was `added`
    (aware) by the principal `added_by`.
    """

    workload: str
    host_data: bytes
    document: str
    image: str
    image_name: str
    version: str
    author: str
    author_name: str
    statement: Mapping[str, Any] = field(repr=False)
    measurements: tuple[tuple[str, bytes], ...]
    kek_path: str
    not_after: datetime
    added: datetime
    certified_by: tuple[str, ...] = ()
    added_by: str = ""

    @property
    def name(self) -> str:
        """The name of its record."""
        return f"{self.workload}/{self.host_data.hex()}"

    def by(self, principal: str) -> Release:
        """The release as one that `principal` added."""
        return replace(self, added_by=principal)

    def summary(self) -> dict[str, Any]:
        """The release for people and programs; nothing in it is secret."""
        return {
            "workload": self.workload,
            "host_data": self.host_data.hex(),
            "image": self.image,
            "image_name": self.image_name,
            "version": self.version,
            "author": self.author_name,
            "certified_by": list(self.certified_by),
            "measurements": [{"tee": tee, "measurement": value.hex()} for tee, value in self.measurements],
            "not_after": self.not_after.isoformat(),
            "added": self.added.isoformat(timespec="seconds"),
            "added_by": self.added_by,
        }


def encode_release(release: Release) -> bytes:
    """The record of `release`."""
    return canonical_json(
        {
            **release.summary(),
            "record": _VERSION,
            "document": release.document,
            "author_key": release.author,
            "statement": dict(release.statement),
            "kek_path": release.kek_path,
        }
    )


def decode_release(data: bytes) -> Release:
    """The inverse of `encode_release`. Raises `MalformedError` (`workload-record`, those of `kokon.wire`)."""
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what="release record"), "release record")
    fields.integer("record", low=_VERSION, high=_VERSION)
    release = Release(
        workload=fields.text("workload"),
        host_data=unhex(fields.text("host_data"), what="host_data", size=32),
        document=fields.text("document", limit=RECORD_LIMIT),
        image=fields.text("image"),
        image_name=fields.text("image_name"),
        version=fields.text("version"),
        author=fields.text("author_key", limit=8192),
        author_name=fields.text("author"),
        statement=fields.table("statement"),
        measurements=tuple(map(read_measurement, fields.array("measurements"))),
        kek_path=fields.text("kek_path"),
        not_after=parse_time(fields.text("not_after")),
        added=parse_time(fields.text("added")),
        certified_by=tuple(fields.array("certified_by")),
        added_by=fields.text("added_by"),
    )
    fields.finish()
    return release
