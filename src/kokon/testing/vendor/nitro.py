"""AWS Nitro Enclaves: attestation documents and the certificates behind them. Pure.

"Verifying the root of trust" in the Nitro Enclaves documentation; COSE_Sign1 as in RFC 9052, untagged, ES384. The chain
has AWS's four steps: root, region, zone, instance; the enclave's certificate lives three hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.testing.vendor.authority import P384, Authority, KeyRing, Span, make_root, name, sign_raw
from kokon.testing.vendor.encoding import cbor, cbor_indefinite_map, cbor_tag

PROTECTED: Final = bytes.fromhex("a1013822")
"""The protected header {1: -35}: ES384."""
COSE_SIGN1_TAG: Final = 18
DEBUG_PCRS: Final[Mapping[int, bytes]] = {index: bytes(48) for index in range(16)}
"""What an enclave in debug mode has: nothing was measured."""
SERIALS: Final[Mapping[str, int]] = {"region": 0x7102, "zone": 0x7103, "instance": 0x7104}
"""Serial numbers of what can be revoked."""
LEAF_LIFETIME: Final = timedelta(hours=3)


def _pcrs() -> dict[int, bytes]:
    return {index: bytes([index + 1]) * 48 if index in (0, 1, 2, 3, 4) else bytes(48) for index in range(16)}


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """The payload of a document. `timestamp` None: the vendor's `now`; `indefinite` writes a map without a length, as
    real ones are; `tagged` puts the COSE tag before it, which real ones have not. `header` is the protected header."""

    module_id: str = "i-0123456789abcdef0-enc0123456789abcdef"
    digest: str = "SHA384"
    timestamp: datetime | None = None
    pcrs: Mapping[int, bytes] = field(default_factory=_pcrs, hash=False)
    public_key: bytes | None = None
    user_data: bytes | None = None
    nonce: bytes | None = None
    indefinite: bool = True
    tagged: bool = False
    header: bytes = PROTECTED
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Further members of the payload, or other values for usual ones."""


@dataclass(frozen=True, slots=True)
class Nitro:
    """AWS as a vendor at the time `now`."""

    keys: KeyRing
    now: datetime

    def chain(self) -> tuple[Authority, Authority, Authority, Authority]:
        """Root, region, zone and instance."""
        return _chain(self)

    def crls(self, revoked: frozenset[str], span: Span) -> tuple[bytes, bytes, bytes]:
        """The lists of root, region and zone; "region", "zone" and "instance" can be on them."""
        root, region, zone, _instance = self.chain()
        on = {what: [serial] if what in revoked else [] for what, serial in SERIALS.items()}
        return root.crl(on["region"], span), region.crl(on["zone"], span), zone.crl(on["instance"], span)

    def certificate(self, document: NitroDocument, span: Span | None = None) -> bytes:
        """The enclave's certificate, issued some minutes before the document."""
        moment = document.timestamp or self.now
        valid = span or Span(moment - timedelta(minutes=10), LEAF_LIFETIME)
        public = self._key(document).public_key()
        return self.chain()[-1].issue(name(document.module_id + ".eu-central-1.aws"), public, valid, serial=0x7001)

    def document(self, document: NitroDocument, span: Span | None = None) -> bytes:
        """The signed document. `span` is that of the enclave's certificate."""
        payload = self._payload(document, span)
        covered = cbor(["Signature1", document.header, b"", payload])
        signature = sign_raw(self._key(document), covered)
        parts = [document.header, {}, payload, signature]
        return cbor_tag(COSE_SIGN1_TAG, parts) if document.tagged else cbor(parts)

    def _key(self, document: NitroDocument) -> ec.EllipticCurvePrivateKey:
        return self.keys.elliptic(f"enclave {document.module_id}", P384)

    def _payload(self, document: NitroDocument, span: Span | None) -> bytes:
        moment = document.timestamp or self.now
        members: dict[str, object] = {
            "module_id": document.module_id,
            "digest": document.digest,
            "timestamp": int(moment.timestamp() * 1000),
            "pcrs": document.pcrs,
            "certificate": self.certificate(document, span),
            "cabundle": [authority.certificate for authority in self.chain()],
            "public_key": document.public_key,
            "user_data": document.user_data,
            "nonce": document.nonce,
        }
        members |= document.extra
        return cbor_indefinite_map(members) if document.indefinite else cbor(members)


@lru_cache(maxsize=64)
def _chain(nitro: Nitro) -> tuple[Authority, Authority, Authority, Authority]:
    def key(label: str) -> ec.EllipticCurvePrivateKey:
        return nitro.keys.elliptic(f"AWS Nitro {label}", P384)

    now, day = nitro.now, timedelta(days=1)
    root = make_root("AWS Nitro root", key("root"), Span(now - 700 * day, 10_000 * day), serial=0x7101)
    region = root.delegate(
        "0123.eu-central-1.aws.nitro-enclaves",
        key("region"),
        Span(now - 5 * day, 20 * day),
        serial=SERIALS["region"],
        path_length=2,
    )
    zone = region.delegate(
        "4567.zonal.eu-central-1.aws.nitro-enclaves",
        key("zone"),
        Span(now - 3 * day, 6 * day),
        serial=SERIALS["zone"],
        path_length=1,
    )
    instance = zone.delegate(
        "i-0123456789abcdef0.eu-central-1.aws.nitro-enclaves",
        key("instance"),
        Span(now - day / 2, day),
        serial=SERIALS["instance"],
        lists=False,
    )
    return root, region, zone, instance
