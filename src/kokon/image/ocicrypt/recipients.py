"""Who can open a layer: the annotations that wrap its private options, for keys (JWE) and for the attestation agent.

Format: ocicrypt spec (facts oci.md 1.2). Each scheme's annotation is a comma-separated list; every element wraps the
same private options, so recipients come and go without the ciphertext. Who has seen the options once can keep them:
to take access away for good, encrypt anew. Pure but for randomness.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, UntrustedError, UsageError
from kokon.image.keyprovider import parse_packet, unwrap, wrap
from kokon.image.layer import AGENT_ANNOTATION, ANNOTATION_PREFIX, JWE_ANNOTATION, parse_private_options, recipients
from kokon.jose.jwe import JWE_LIMIT, decrypt
from kokon.jose.several import JweKey, encrypt_to_all
from kokon.wire import b64, parse_json, unb64url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kokon.image.layer import PrivateOptions
    from kokon.jose.jwe import PrivateKey

KEYS_PREFIX = ANNOTATION_PREFIX + "keys."


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key (32 bytes) that the attestation agent gets from the key broker at `kid` (`kbs:///repo/type/tag`)."""

    kid: str
    kek: bytes = field(repr=False)


Recipient = JweKey | AgentKey


@dataclass(frozen=True, slots=True)
class Opener:
    """What may open a layer: private keys, and keys of the key broker by their address."""

    keys: tuple[PrivateKey, ...] = field(default=(), repr=False)
    agent: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """One recipient of a layer: its number (from 1), the scheme (`jwe`, `provider.attestation-agent`, ...), algorithm
    and key name, both "" where the annotation does not say."""

    number: int
    scheme: str
    algorithm: str = ""
    key: str = ""


def wrapped(private: bytes, to: Sequence[Recipient]) -> dict[str, str]:
    """The annotations that give the private options to all of `to`.

    Raises `UsageError` (`recipient-needed`), and what `encrypt_to_all` and `kokon.image.keyprovider.wrap` raise.
    """
    jwe = [one for one in to if isinstance(one, JweKey)]
    agents = [one for one in to if isinstance(one, AgentKey)]
    if not to:
        raise UsageError("recipient-needed", "for whom?", expected="at least one recipient")
    made: dict[str, str] = {}
    if jwe:
        made[JWE_ANNOTATION] = b64(_dump(encrypt_to_all(jwe, private)))
    if agents:
        made[AGENT_ANNOTATION] = ",".join(b64(wrap(one.kek, one.kid, private, os.urandom)) for one in agents)
    return made


def opened(annotations: Mapping[str, str], opener: Opener) -> tuple[PrivateOptions, bytes]:
    """The private options of a layer, parsed and as they were wrapped; the first element that opens counts.

    Raises `UntrustedError` (`layer-key-missing`: nothing of `opener` opens it), `MalformedError` (of damaged options).
    """
    refused: KokonError | None = None
    for message in recipients(annotations, JWE_ANNOTATION):
        for key in opener.keys:
            try:
                data = decrypt(message, key)
            except KokonError as error:
                refused = refused or error
                continue
            return parse_private_options(data), data
    for message in recipients(annotations, AGENT_ANNOTATION):
        try:
            packet = parse_packet(message)
            if packet.kid not in opener.agent:
                continue
            data = unwrap(packet, opener.agent[packet.kid])
        except KokonError as error:
            refused = refused or error
            continue
        return parse_private_options(data), data
    raise UntrustedError(
        "layer-key-missing",
        "none of the keys opens the layer",
        expected=", ".join(f"{one.scheme} {one.key}".strip() for one in holders(annotations))[:400] or "a recipient",
        found=None if refused is None else refused.code,
        hint="give the private key of one of its recipients",
    ) from refused


def holders(annotations: Mapping[str, str]) -> tuple[Holder, ...]:
    """All recipients of a layer. Raises `MalformedError` (`layer-recipients`, `base64-malformed`)."""
    return tuple(
        Holder(number, scheme, *said) for number, (scheme, _, _, said) in enumerate(_all(annotations), start=1)
    )


def added(annotations: Mapping[str, str], private: bytes, to: Sequence[Recipient]) -> dict[str, str]:
    """The annotations with more recipients of the same private options. Raises as `wrapped`."""
    result = dict(annotations)
    for name, text in wrapped(private, to).items():
        result[name] = f"{result[name]},{text}" if result.get(name) else text
    recipients(result, JWE_ANNOTATION)
    return result


def removed(annotations: Mapping[str, str], numbers: Sequence[int] = (), kids: Sequence[str] = ()) -> dict[str, str]:
    """The annotations without the recipients of these numbers (of `holders`) or key names.

    Raises `UsageError` (`recipient-unknown`; `recipient-last`: nobody could open the layer), `MalformedError`.
    """
    everyone = _all(annotations)
    gone = {
        index for index, (_, _, _, said) in enumerate(everyone) if index + 1 in numbers or (said[1] and said[1] in kids)
    }
    known = {everyone[index][3][1] for index in gone}
    if set(kids) - known or not set(numbers) <= set(range(1, len(everyone) + 1)):
        raise UsageError(
            "recipient-unknown",
            "a layer has no such recipient",
            expected=f"a number from 1 to {len(everyone)}, or a key that it was encrypted to",
            found=", ".join([*map(str, numbers), *kids]),
            hint="see kokon recipients list; other tools write no key names: remove by number",
        )
    if len(gone) == len(everyone):
        raise UsageError("recipient-last", "without this recipient nobody could open the layer")
    result = {name: text for name, text in annotations.items() if not name.startswith(KEYS_PREFIX)}
    kept: dict[str, dict[int, list[int | None]]] = {}
    for index, (scheme, element, inner, _) in enumerate(everyone):
        if index not in gone:
            kept.setdefault(scheme, {}).setdefault(element, []).append(inner)
    for scheme, elements in kept.items():
        messages = recipients(annotations, KEYS_PREFIX + scheme)
        result[KEYS_PREFIX + scheme] = ",".join(b64(_cut(messages[one], inner)) for one, inner in elements.items())
    return result


def without_encryption(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of the decrypted layer."""
    return {name: text for name, text in annotations.items() if not name.startswith(ANNOTATION_PREFIX)}


_One = tuple[str, int, int | None, tuple[str, str]]


def _all(annotations: Mapping[str, str]) -> list[_One]:
    """Scheme, element, recipient inside (None: the element has one) and what is said of it, for every recipient."""
    found: list[_One] = []
    for name in sorted(annotations):
        if not name.startswith(KEYS_PREFIX):
            continue
        scheme = name.removeprefix(KEYS_PREFIX)
        for element, message in enumerate(recipients(annotations, name)):
            found += [(scheme, element, inner, said) for inner, said in _said(scheme, message)]
    return found


def _said(scheme: str, message: bytes) -> list[tuple[int | None, tuple[str, str]]]:
    """What an element says of its recipients; nothing where it is of a kind or form that is not read here."""
    try:
        if scheme == "jwe":
            return _said_by_jwe(message)
        if KEYS_PREFIX + scheme == AGENT_ANNOTATION:
            return [(None, ("A256GCM", parse_packet(message).kid))]
    except KokonError:
        pass
    return [(None, ("", ""))]


def _said_by_jwe(message: bytes) -> list[tuple[int | None, tuple[str, str]]]:
    if message.lstrip()[:1] != b"{":
        return [(None, _named(_header(message.partition(b".")[0].decode("latin-1"))))]
    document = _object(parse_json(message, limit=JWE_LIMIT, what="JWE"))
    shared = _header(str(document.get("protected", "")))
    inside = document.get("recipients")
    if not isinstance(inside, list):
        return [(None, _named({**_object(document.get("header")), **shared}))]
    headers = [_object(_object(one).get("header")) for one in inside]
    return [(number, _named({**header, **shared})) for number, header in enumerate(headers)]


def _cut(message: bytes, inner: list[int | None]) -> bytes:
    """An element with only these of its recipients. `recipients` is not covered by the JWE's authentication."""
    if None in inner:
        return message
    document = parse_json(message, limit=JWE_LIMIT, what="JWE")
    if len(inner) == len(document["recipients"]):
        return message
    document["recipients"] = [document["recipients"][number] for number in inner]
    document.pop("encrypted_key", None)  # go-jose's copy of the first recipient's
    return _dump(document)


def _header(protected: str) -> dict[str, Any]:
    return _object(parse_json(unb64url(protected, what="JWE header", limit=8192), limit=8192, what="JWE header"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _named(header: dict[str, Any]) -> tuple[str, str]:
    algorithm, kid = header.get("alg"), header.get("kid")
    return (algorithm if isinstance(algorithm, str) else "")[:64], (kid if isinstance(kid, str) else "")[:128]


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
