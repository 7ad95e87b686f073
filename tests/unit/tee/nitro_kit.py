"""A made-up AWS: a root, a regional, a zonal and an instance's authority, and an enclave's key that signs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kokon.tee.cbor import write_cbor
from kokon.tee.certificates import parse_certificate
from kokon.tee.cose import ALGORITHM, ES384, CoseSign1, encode_sign1, sig_structure
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PROTECTED = write_cbor({ALGORITHM: ES384})
NAMES = ("Kokon simulated AWS root", "region", "zone", "instance", "enclave")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = True,
    signs_lists: bool = True,
    start: datetime = NOW - timedelta(hours=1),
    end: datetime = NOW + timedelta(hours=2),
) -> x509.Certificate:
    usage = x509.KeyUsage(True, False, False, False, False, authority, authority and signs_lists, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(signer, SHA384())


@dataclass(frozen=True)
class Aws:
    """Certificates and keys, the root first, the enclave last."""

    keys: tuple[ec.EllipticCurvePrivateKey, ...]
    chain: tuple[x509.Certificate, ...]

    @property
    def ders(self) -> tuple[bytes, ...]:
        return tuple(link.public_bytes(Encoding.DER) for link in self.chain)

    @property
    def root(self) -> str:
        return parse_certificate(self.ders[0]).fingerprint

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(accepted_simulated=frozenset({self.root}))

    def fields(self, **changes: Any) -> dict[str, Any]:
        """A document's map; a field given as `...` is left out."""
        whole = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": int(NOW.timestamp() * 1000),
            "pcrs": {index: bytes([index + 1]) * 48 for index in range(5)},
            "certificate": self.ders[-1],
            "cabundle": list(self.ders[:-1]),
            "public_key": None,
            "user_data": b"user",
            "nonce": b"nonce",
        } | changes
        return {name: value for name, value in whole.items() if value is not ...}

    def sign(self, payload: bytes, *, protected: bytes = PROTECTED, unprotected: Any = None) -> bytes:
        key = self.keys[-1]
        half = (key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(sig_structure(protected, payload), ec.ECDSA(SHA384())))
        signature = r.to_bytes(half, "big") + s.to_bytes(half, "big")
        return encode_sign1(CoseSign1(protected, {}, unprotected or {}, payload, signature))

    def document(self, **changes: Any) -> bytes:
        return self.sign(write_cbor(self.fields(**changes)))

    def claims(self, data: bytes, now: datetime = NOW, more: Endorsements | None = None) -> Claims:
        return verify(Evidence("nitro", data), self.endorsements | (more or Endorsements()), now)


def make_aws(curve: ec.EllipticCurve | None = None, *, leaf_authority: bool = False, **dates: datetime) -> Aws:
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in NAMES[:-1]]
    keys.append(ec.generate_private_key(curve or ec.SECP384R1()))
    chain = []
    for index, (name, key) in enumerate(zip(NAMES, keys, strict=True)):
        parent = max(index - 1, 0)
        last = index == len(NAMES) - 1
        authority = not last or leaf_authority
        options: dict[str, Any] = {"authority": authority, "signs_lists": index < 3} | (dates if last else {})
        chain.append(certificate(name, key, NAMES[parent], keys[parent], **options))
    return Aws(tuple(keys), tuple(chain))


@cache
def aws() -> Aws:
    """The one that most tests share."""
    return make_aws()
