"""Guests of every TEE that speak the protocol: their keys, their evidence and their messages, by a fake vendor."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.provisioning.kbs.envelopes import read_evidence
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify
from kokon.testing import FakeVendor
from kokon.testing.vendor.azure import RuntimeData
from kokon.testing.vendor.eventlog import BOOT, pcr_bank

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
CLIENT = ec.derive_private_key(int.from_bytes(bytes(range(1, 33)), "big"), ec.SECP256R1())
# kbs.md a.5, checked there.
NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "alg": "ECDH-ES+A256KW",
    "x": "UVw9brnjlrkE0_7Kf1T9zQzB6Ze_N13KUVrQpsO0A18",
    "y": "RTa-OlDzGPv5pUdZAqIhUCvvDVfgjFOyzApW8X2fk1Q",
}
PRIMARY = bytes.fromhex(
    "c97fc717bffcdca39b3485d4019c1de4133fc9622ba484e947b417b83ffbae1abbf11747fdebdecaaabc5b407be66821"
)
DEVICE = bytes.fromhex(
    "e350679595854437e84f52e9a82671d2b81e0cce5ff82fb3511fad532d2ef9c20413f9bb929d5cd1e8ec1c7638f8bb25"
)
INIT_DATA = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"a.txt\" = '''hi'''\n"
# kbs.md g.5, checked there.
INIT_DIGEST = bytes.fromhex("fd03e8704ab12bd9f7a4525a1f6fcc5ba96969454d7a0855117493a4033df660")
PCR8 = bytes.fromhex("36a1c654ee0348eb944c44eb9eeeb6e2f09b0243d342abdc43a10ec17ee50b8f")


def padded(data: bytes, size: int) -> bytes:
    return data[:size] + bytes(size - len(data[:size]))


def pcrs(init: bytes) -> tuple[bytes, ...]:
    values = list(pcr_bank(BOOT, "sha256"))
    values[8] = hashlib.sha256(bytes(32) + padded(init, 32)).digest()
    return tuple(values)


def _snp(data: bytes, init: bytes) -> Evidence:
    return VENDOR.snp(report_data=padded(data, 64), host_data=padded(init, 32))


def _tdx(data: bytes, init: bytes) -> Evidence:
    return VENDOR.tdx(report_data=padded(data, 64), mrconfigid=padded(init, 48))


def _sgx(data: bytes, init: bytes) -> Evidence:
    return VENDOR.sgx(report_data=padded(data, 64), configid=padded(init, 64))


def _tpm(data: bytes, init: bytes) -> Evidence:
    return VENDOR.tpm(extra_data=data[:32], pcrs=pcrs(init), log=False)


def _azure_snp(data: bytes, init: bytes) -> Evidence:
    runtime = RuntimeData(user_data=padded(data, 64))
    return VENDOR.azure_snp(nonce=data, runtime=runtime, attest={"pcrs": pcrs(init)})


def _azure_tdx(data: bytes, init: bytes) -> Evidence:
    runtime = RuntimeData(user_data=padded(data, 64))
    return VENDOR.azure_tdx(nonce=data, runtime=runtime, attest={"pcrs": pcrs(init)})


def _nitro(data: bytes, init: bytes) -> Evidence:
    return VENDOR.nitro(nonce=data)


MAKERS: dict[str, Callable[[bytes, bytes], Evidence]] = {
    "snp": _snp,
    "tdx": _tdx,
    "sgx": _sgx,
    "tpm": _tpm,
    "az-snp-vtpm": _azure_snp,
    "az-tdx-vtpm": _azure_tdx,
    "nitro": _nitro,
}
"""Evidence that carries a digest and an init-data digest, of each TEE."""


def envelope(tee: str, data: bytes = PRIMARY, init: bytes = INIT_DIGEST) -> dict[str, Any]:
    """What the guest sends."""
    return VENDOR.envelope(MAKERS[tee](data, init))


def claims(tee: str, data: bytes = PRIMARY, init: bytes = INIT_DIGEST) -> Claims:
    """What the evidence says that was sent as JSON."""
    evidence = MAKERS[tee](data, init)
    sent = read_evidence(tee, json.loads(json.dumps(VENDOR.envelope(evidence))))
    return verify(sent, VENDOR.endorsements(evidence), NOW)


def message(version: str = "0.4.0", **changes: Any) -> dict[str, Any]:
    """An attestation of the vectors' nonce and key. `changes`: evidence, jwk, additional, init_data, nonce."""
    evidence = changes.get("evidence", {"svn": "1"})
    jwk = changes.get("jwk", JWK)
    if version in ("0.1.1", "0.2.0"):
        return {"tee-pubkey": jwk, "tee-evidence": evidence}
    if version == "0.4.0":
        evidence = {"primary_evidence": evidence, "additional_evidence": changes.get("additional", "")}
    text = changes.get("init_data")
    sent = None if text is None else {"format": "toml", "body": text.decode()}
    runtime = {"nonce": changes.get("nonce", NONCE), "tee-pubkey": jwk}
    return {"init-data": sent, "runtime-data": runtime, "tee-evidence": evidence}


def encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
