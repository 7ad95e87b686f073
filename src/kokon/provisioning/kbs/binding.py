"""Whether evidence was made for this handshake, this key and this launch document: the protocol's binding. Pure.

Facts: Confidential Containers' attesters and verifiers (trustee, guest-components). The digest of the runtime data is
48 bytes; each TEE carries it in a field of its own length, cut or followed by zeros. The launch document's digest
(initdata) stands in a field that the host filled before the launch and the hardware signs, or was extended into PCR 8.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from kokon.errors import MalformedError
from kokon.provisioning.kbs.initdata import ALGORITHMS, parse_init_data
from kokon.provisioning.kbs.messages import Attestation, primary_digest
from kokon.tee.evidence import Check, Claims, failed, not_checked, passed

REPORT_DATA: Final[Mapping[str, tuple[int, ...]]] = {
    "snp": (64,),
    "tdx": (64,),
    "sgx": (64,),
    "tpm": (32, 48, 64),
    "az-snp-vtpm": (48,),
    "az-tdx-vtpm": (48,),
    "nitro": (48, 64),
    "sample": (48,),
}
"""How many bytes carry the digest. TPM attesters have sent 32 and 64; for Nitro, which the protocol does not know, it
is the nonce."""
FIELDS: Final[Mapping[str, int]] = {"snp": 32, "tdx": 48, "sgx": 64}
"""Bytes of HOST_DATA, MRCONFIGID, CONFIGID: `Claims.host_data`."""
PCR_EIGHT: Final = frozenset({"tpm", "az-snp-vtpm", "az-tdx-vtpm"})
"""TEEs whose guests extend PCR 8 of the SHA-256 bank with the digest. Their attesters take digests of 32 bytes only."""


def fit(digest: bytes, size: int) -> bytes:
    """`digest` in a field of `size` bytes: cut, or followed by zeros."""
    return digest[:size].ljust(size, b"\0")


def check_binding(attestation: Attestation, tee: str, nonce: str, claims: Claims) -> tuple[Check, ...]:
    """What ties `claims` to the session (its `tee` and `nonce`) and to what the message says."""
    checks = [] if attestation.nonce is None else [check_nonce(attestation.nonce, nonce)]
    if claims.tee != tee:
        checks.append(failed("tee", "tee-mismatch", expected=tee, found=claims.tee))
    checks.append(check_report_data(primary_digest(attestation, nonce), claims))
    checks.append(check_init_data(attestation.init_data, claims))
    return tuple(checks)


def check_nonce(sent: str, nonce: str) -> Check:
    """The nonce that the message repeats is that of the session."""
    if hmac.compare_digest(sent.encode(), nonce.encode()):
        return passed("nonce")
    hint = "the attestation was made for another handshake: a replay, or two guests share a session"
    return failed("nonce", "nonce-mismatch", expected="the nonce of this session", found="another", hint=hint)


def check_report_data(digest: bytes, claims: Claims, name: str = "report-data") -> Check:
    """The evidence carries `digest` (48 bytes) as its TEE does."""
    sizes, size = REPORT_DATA.get(claims.tee, ()), len(claims.report_data)
    expected = fit(digest, size if size in sizes else len(digest))
    if hmac.compare_digest(expected, claims.report_data) and size in sizes:
        return passed(name, "bound to nonce and key")
    return failed(
        name,
        "report-data-mismatch",
        expected=expected.hex() if sizes else "a TEE of the protocol",
        found=claims.report_data.hex() or "nothing",
        hint="the evidence was not made for this nonce and key: a replay, or somebody in the middle",
    )


def check_init_data(text: bytes | None, claims: Claims, name: str = "init-data") -> Check:
    """The launch document that was sent is the one that the guest was launched with."""
    if text is None:
        return not_checked(name, "init-data-absent", "the guest did not send its launch document")
    if claims.tee == "sample":
        return not_checked(name, "init-data-unbound", "sample evidence does not say how the guest was launched")
    field, bound = _field(claims), {}
    for algorithm in ALGORITHMS:
        bound[algorithm] = _bound(hashlib.new(algorithm, text).digest(), claims.tee)
    matched = [one for one, value in bound.items() if value and hmac.compare_digest(value, field)]
    if not matched:
        return failed(
            name,
            "init-data-mismatch",
            expected=field.hex() or "evidence with a place for it",
            found=bound["sha256"].hex() or "a launch document",
            hint="the launch document that was sent is not the one that the enclave was launched with",
        )
    try:
        named = parse_init_data(text).algorithm
    except MalformedError as error:
        return failed(name, "init-data-malformed", expected=error.expected, found=f"{error.message}: {error.found}")
    if named not in matched:
        hint = "hash the launch document as it says itself"
        return failed(name, "init-data-algorithm", expected=named, found=matched[0], hint=hint)
    return passed(name, f"{named} {field.hex()}")


def _field(claims: Claims) -> bytes:
    """Where the hardware says which launch document it was; b"" if nowhere."""
    if claims.tee in PCR_EIGHT:
        return claims.registers.get("sha256:pcr8", b"")
    size = FIELDS.get(claims.tee, 0)
    return claims.host_data if len(claims.host_data) == size else b""


def _bound(digest: bytes, tee: str) -> bytes:
    """What that place must hold, b"" if the TEE has none."""
    if tee in PCR_EIGHT:
        return hashlib.sha256(bytes(32) + fit(digest, 32)).digest()
    size = FIELDS.get(tee, 0)
    return fit(digest, size)
