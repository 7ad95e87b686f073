"""What the owner admits instead of one launch document: whose images, from which version on, and what they may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.image.dsse import SIGNATURES_LIMIT
from kokon.image.ecdsa import PEM_LIMIT, key_id, load_public_key, public_pem
from kokon.image.version import VERSION_LIMIT, parse_version
from kokon.provisioning.admission import log_path
from kokon.provisioning.kbs.paths import check_path, resource_path
from kokon.provisioning.restrictions import read_activations, read_chips, read_policy, read_tees
from kokon.provisioning.workload import parse_time
from kokon.wire import Fields, canonical_json, parse_json

RULE_LIMIT: Final = 1 << 20
"""Bytes of a rule."""
CERTIFIERS_LIMIT: Final = SIGNATURES_LIMIT - 1
"""Certifiers of a rule: an envelope has no room for more beside the author."""
RESOURCES_LIMIT: Final = 256
IMAGE_LIMIT: Final = 1024
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""As launch documents name workloads (`kokon.launch.document`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which releases of the workload `name` are let in, and what their enclaves get.

    `signer` and `certifiers` are keys (PEM SubjectPublicKeyInfo), `certifiers_needed` of which must have countersigned;
    the signer is none of them. `image` is the name that the author gave (host/repository), "" for any image of the
    signer's. Statements count from `minimum_version` on. `policy` is the text of a platform policy in the place of the
    project's, "" for that; `tees` and `chips` are what enclaves may run on, none named: all. `resources` are paths that
    they may read, `generate` those of them that the server makes as keys of volumes; the token of the log and the
    image's layer key are granted besides. Nothing is released after `not_after` (aware).
    """

    name: str
    signer: str
    minimum_version: str
    not_after: datetime
    resources: tuple[str, ...]
    generate: tuple[str, ...] = ()
    image: str = ""
    certifiers: tuple[str, ...] = ()
    certifiers_needed: int = 0
    tees: tuple[str, ...] = ()
    chips: tuple[bytes, ...] = ()
    policy: str = ""
    max_activations: int | None = None

    def granted(self) -> tuple[str, ...]:
        """All paths that the rule grants."""
        return tuple(dict.fromkeys((log_path(self.name), *self.resources, *self.generate)))

    def members(self) -> dict[str, Any]:
        """The rule as `parse_rule` reads it, without the workload's name."""
        return {
            "signer": self.signer,
            "image": self.image,
            "minimum_version": self.minimum_version,
            "certifiers": list(self.certifiers),
            "certifiers_needed": self.certifiers_needed,
            "tees": list(self.tees),
            "chips": [chip.hex() for chip in self.chips],
            "policy": self.policy,
            "max_activations": self.max_activations,
            "resources": [f"kbs:///{path}" for path in self.resources],
            "generate": [f"kbs:///{path}" for path in self.generate],
            "not_after": self.not_after.isoformat(),
        }

    def summary(self) -> dict[str, Any]:
        """The rule for people and programs: keys by their fingerprints. Nothing in it is secret."""
        return {
            **self.members(),
            "name": self.name,
            "signer": key_name(self.signer),
            "certifiers": [key_name(key) for key in self.certifiers],
            "resources": list(self.resources),
            "generate": list(self.generate),
        }


def parse_rule(value: Any, now: datetime) -> Rule:
    """The rule of an admission request: `name`, and `rule` with `signer` (PEM), `minimum_version`, `resources`
    (kbs:///a/b/c) and `not_after` (RFC 3339), and optionally `image`, `certifiers` (PEM), `certifiers_needed` (all of
    them), `tees`, `chips` (hex), `policy` (text), `max_activations`, `generate` (kbs:///a/b/c).

    Raises `MalformedError` (`workload-name`, `workload-expired`, `key-malformed`, `version-malformed`,
    `certifier-is-signer`, `resource-path`, `tee-not-known`, `chip-malformed`, those of `kokon.wire`), `UsageError` as
    policy files do.
    """
    fields = Fields(value, "workload")
    name, members = fields.text("name", limit=64), fields.table("rule")
    fields.finish()
    if not _NAME.fullmatch(name):
        expected = "lower-case letters, digits and - between them, at most 40"
        raise MalformedError("workload-name", "not a workload's name", expected=expected, found=repr(name))
    rule = _rule(name, members)
    if rule.not_after <= now:
        found = rule.not_after.isoformat()
        raise MalformedError("workload-expired", "the workload's end is in the past", expected="later", found=found)
    return rule


def encode_rule(rule: Rule) -> str:
    """The text of a rule that a workload's record holds: canonical JSON."""
    return canonical_json({**rule.members(), "name": rule.name}).decode()


@lru_cache(maxsize=256)
def decode_rule(text: str) -> Rule:
    """The inverse of `encode_rule`. Raises as `parse_rule`, whether or not the rule's end has come."""
    members = parse_json(text.encode(), limit=RULE_LIMIT, what="rule")
    fields = Fields(members, "rule")
    name = fields.text("name", limit=64)
    return _rule(name, {key: value for key, value in members.items() if key != "name"})


@lru_cache(maxsize=1024)
def key_name(pem: str) -> str:
    """The fingerprint of a key (PEM), in hex. Raises `MalformedError` (`key-malformed`)."""
    return key_id(load_public_key(pem))


def _rule(name: str, members: Mapping[str, Any]) -> Rule:
    fields = Fields(members, "rule")
    signer = _key(fields.text("signer", limit=PEM_LIMIT))
    certifiers, needed = _certifiers(fields, signer)
    rule = Rule(
        name=name,
        signer=signer,
        image=fields.text("image", default="", limit=IMAGE_LIMIT),
        minimum_version=parse_version(fields.text("minimum_version", limit=VERSION_LIMIT)).text,
        certifiers=certifiers,
        certifiers_needed=needed,
        tees=read_tees(fields),
        chips=read_chips(fields),
        policy=read_policy(fields, "policy"),
        max_activations=read_activations(fields),
        resources=_paths(fields.array("resources", limit=RESOURCES_LIMIT)),
        generate=_paths(fields.array("generate", default=[], limit=RESOURCES_LIMIT)),
        not_after=parse_time(fields.text("not_after", limit=40)),
    )
    fields.finish()
    return rule


def _certifiers(fields: Fields, signer: str) -> tuple[tuple[str, ...], int]:
    """The certifiers' keys, each once, and how many of them are needed."""
    keys = tuple(dict.fromkeys(map(_key, fields.array("certifiers", default=[], limit=CERTIFIERS_LIMIT))))
    if signer in keys:
        raise MalformedError(
            "certifier-is-signer",
            "the signer of an image does not certify it",
            expected="keys of others",
            found=key_name(signer),
        )
    low = 1 if keys else 0
    return keys, fields.integer("certifiers_needed", default=len(keys), low=low, high=len(keys))


def _key(text: object) -> str:
    """The key in the one way in which this library writes it, so that equal keys are equal texts."""
    if not isinstance(text, str):
        raise MalformedError("key-malformed", "a key is a text", expected="PEM SubjectPublicKeyInfo")
    return public_pem(load_public_key(text))


def _paths(uris: list[Any]) -> tuple[str, ...]:
    """Paths of exact addresses: there are no patterns."""
    return tuple(dict.fromkeys(resource_path(uri) if isinstance(uri, str) else check_path("") for uri in uris))
