"""ocicrypt's key-provider protocol, our side: wrap and unwrap one layer's options. Pure but for randomness.

Protocol: ocicrypt docs/keyprovider.md and its Go structures (facts oci.md 1.8). The packets inside are those of the
attestation agent (`kokon.image.keyprovider`), so a confidential guest opens what this wraps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, MalformedError, UsageError
from kokon.image.keyprovider import parse_packet, unwrap, wrap
from kokon.image.layer import parse_private_options
from kokon.wire import Fields, b64, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_LIMIT = 1 << 20
OPTIONS_LIMIT = 8192
DEFAULT_PARAMETER = "Enabled"
"""What ocicrypt sends where the user gave no parameter."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A key provider: its name in ocicrypt's configuration, keys (32 bytes) by their address `kbs:///repo/type/tag`,
    which packets it writes (1 or 2), and whether it unwraps at all."""

    keys: Mapping[str, bytes] = field(repr=False)
    name: str = "attestation-agent"
    version: int = 2
    unwraps: bool = True

    def answer(self, request: bytes) -> bytes:
        """The reply to one request, both JSON.

        Raises `MalformedError` (`keyprovider-request`, those of `kokon.wire`, of packets and of layer options),
        `UsageError` (`keyprovider-key`: it is not said which key, or it is not there), `DeniedError`
        (`keyprovider-wraps-only`), `UntrustedError` (`kek-wrong`).
        """
        fields = Fields(parse_json(request, limit=REQUEST_LIMIT, what="key provider request"), "key provider request")
        operation = fields.text("op", limit=32)
        to_wrap = Fields(fields.value("keywrapparams", default=None) or {}, "keywrapparams")
        to_unwrap = Fields(fields.value("keyunwrapparams", default=None) or {}, "keyunwrapparams")
        fields.finish()
        if operation == "keywrap":
            return _reply("keywrapresults", "annotation", self._wrap(to_wrap))
        if operation == "keyunwrap":
            return _reply("keyunwrapresults", "optsdata", self._unwrap(to_unwrap))
        raise MalformedError("keyprovider-request", "unknown operation", expected="keywrap or keyunwrap")

    def _wrap(self, fields: Fields) -> bytes:
        options = unb64(fields.text("optsdata", limit=2 * OPTIONS_LIMIT), what="optsdata", limit=OPTIONS_LIMIT)
        parse_private_options(options)
        kid = self._wanted(Fields(fields.table("ec"), "ec").table("Parameters"))
        return wrap(self.keys[kid], kid, options, os.urandom, version=self.version)

    def _wanted(self, parameters: Mapping[str, Any]) -> str:
        """The address of the key that the user named, or of the only one."""
        given = parameters.get(self.name)
        if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], str):
            raise MalformedError(
                "keyprovider-request", "one parameter is needed", expected=f"Parameters[{self.name!r}]"
            )
        text = unb64(given[0], what="parameter", limit=1024).decode("utf-8", "replace")
        kid = _key_name(text)
        if not kid and len(self.keys) == 1:
            return next(iter(self.keys))
        if kid not in self.keys:
            raise UsageError(
                "keyprovider-key",
                "the key provider has no such key" if kid else "which key?",
                expected=", ".join(sorted(self.keys)),
                found=repr(kid[:200]),
                hint=f"provider:{self.name}:kbs:///REPOSITORY/TYPE/TAG",
            )
        return kid

    def _unwrap(self, fields: Fields) -> bytes:
        if not self.unwraps:
            raise DeniedError("keyprovider-wraps-only", "this key provider only wraps")
        packet = parse_packet(unb64(fields.text("annotation", limit=1 << 17), what="annotation", limit=1 << 16))
        if packet.kid not in self.keys:
            raise UsageError("keyprovider-key", "the key provider has no such key", found=packet.kid)
        options = unwrap(packet, self.keys[packet.kid])
        parse_private_options(options)
        return options


def _key_name(parameter: str) -> str:
    """The key's address in a parameter: alone, or `keyid` of the attestation agent's `name=value::...`; else ""."""
    if parameter == DEFAULT_PARAMETER:
        return ""
    if parameter.startswith("kbs://"):
        return parameter
    pairs = dict(part.partition("=")[::2] for part in parameter.split("::"))
    return pairs.get("keyid", "")


def _reply(outer: str, inner: str, data: bytes) -> bytes:
    return json.dumps({outer: {inner: b64(data)}}, separators=(",", ":")).encode()
