"""The protocol's messages as JSON values and bytes, for each version. Pure.

Source: Confidential Containers, KBS attestation protocol, and what its clients of each version send. Hashes:
0.1.1 to 0.3.0 over nonce and key; 0.4.0 over the additional evidence too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Final

from kokon.conformance.case import Skip, Violation

VERSIONS: Final = ("0.4.0", "0.3.0", "0.2.0", "0.1.1")
NEWEST: Final = "0.4.0"
COOKIE: Final = "kbs-session-id"
ERROR_PREFIX: Final = "https://github.com/confidential-containers/kbs/errors/"
HASHES: Final = ("sha256", "sha384", "sha512")


def jcs(value: Any) -> bytes:
    """RFC 8785 form of objects, arrays, texts, integers and literals; the suite hashes nothing else."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(jcs(name) + b":" + jcs(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(jcs, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64url(text: Any, what: str) -> bytes:
    """Bytes of URL-safe base64 without padding, and of nothing else. Raises `Violation`."""
    if not isinstance(text, str):
        raise Violation(f"{what} is not text")
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise Violation(f"{what} is not base64url") from error
    if b64url(data) != text:
        raise Violation(f"{what} is not base64url without padding")
    return data


def request(version: str, tee: str) -> dict[str, Any]:
    """The Request that a client of `version` sends."""
    offer: Any = {"supported-hash-algorithms": list(HASHES)} if version not in ("0.1.1", "0.2.0") else ""
    return {"version": version, "tee": tee, "extra-params": offer}


def runtime_digest(version: str, jwk: dict[str, str], nonce: str, additional: str, algorithm: str) -> bytes:
    """What evidence is bound to: the hash of the runtime data."""
    data = {"tee-pubkey": jwk, "nonce": nonce}
    if version == NEWEST:
        data["additional-evidence"] = additional
    return hashlib.new(algorithm, jcs(data)).digest()


def device_digest(jwk: dict[str, str], nonce: str, algorithm: str) -> bytes:
    """What the evidence of further devices is bound to."""
    return hashlib.new(algorithm, jcs({"tee-pubkey": jwk, "nonce": nonce})).digest()


def selected_hash(extra: Any) -> str:
    """The hash that a Challenge's `extra-params` choose. Raises `Skip` for one that is not known here."""
    chosen = extra.get("selected-hash-algorithm") if isinstance(extra, dict) else None
    if chosen is None:
        return "sha384"
    name = str(chosen).lower()
    if name not in HASHES:
        raise Skip(f"the server chose the hash {name[:20]!r}, which is not known here")
    return name


def attestation(
    version: str, nonce: str, jwk: dict[str, str], evidence: Any, additional: str, init_data: Any
) -> dict[str, Any]:
    """The Attestation that a client of `version` sends; up to 0.2.0 there is no place for `init_data`."""
    if version == "0.1.1":
        return {"tee-pubkey": jwk, "tee-evidence": json.dumps(evidence)}
    if version == "0.2.0":
        return {"tee-pubkey": jwk, "tee-evidence": evidence}
    composite = {"primary_evidence": evidence, "additional_evidence": additional}
    return {
        "init-data": init_data,
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
        "tee-evidence": composite if version == NEWEST else evidence,
    }


def init_data(text: str) -> dict[str, str]:
    """A launch document as it stands in an Attestation."""
    return {"format": "toml", "body": text}
