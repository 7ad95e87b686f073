"""A simulated chip whose private keys are at hand, to forge evidence in every way."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify
from kokon.tee.simulated.certificates import make_ark, make_ask, make_vcek
from kokon.tee.simulated.keys import ARK, ARK_KEY, ASK, ASK_KEY, load_processor, stored_fingerprint
from kokon.tee.simulated.processor import PRODUCT, TCB, GuestContext, Processor, chip_id, current_tcb, vcek_key
from kokon.tee.snp.report import SIGNED_SIZE, Report, encode_report

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MEASUREMENT = bytes(range(48))
HOST_DATA = bytes(range(100, 132))
REPORT_DATA = bytes(range(64))
POLICY = 0x30000
PSS = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)


def certificate_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def rsa_key(directory: Path, name: str) -> rsa.RSAPrivateKey:
    key = load_pem_private_key((directory / name).read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@dataclass(frozen=True)
class Chip:
    """The processor and the keys of its authorities."""

    directory: Path
    processor: Processor
    ark: rsa.RSAPrivateKey
    ask: rsa.RSAPrivateKey
    root: str

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(accepted_simulated=frozenset({self.root}))

    def guest(self, policy: int = POLICY) -> GuestContext:
        return self.processor.launch(MEASUREMENT, HOST_DATA, policy, bytes(range(32)))

    def evidence(self, policy: int = POLICY) -> Evidence:
        return self.guest(policy).evidence(REPORT_DATA)

    def signed(self, **changes: Any) -> bytes:
        """A report with other fields, correctly signed with the chip's key."""
        report: Report = replace(self.guest().template, report_data=REPORT_DATA, **changes)
        key = vcek_key(self.processor.secret, current_tcb())
        r, s = decode_dss_signature(key.sign(encode_report(report)[:SIGNED_SIZE], ec.ECDSA(SHA384())))
        return encode_report(replace(report, signature=r.to_bytes(72, "little") + s.to_bytes(72, "little")))

    def claims(
        self, report: bytes | None = None, chain: tuple[bytes, ...] | None = None, now: datetime = NOW
    ) -> Claims:
        evidence = self.evidence()
        report = evidence.report if report is None else report
        return verify(
            Evidence("snp", report, evidence.certificates if chain is None else chain), self.endorsements, now
        )

    def vcek(self, **changes: Any) -> bytes:
        """Another VCEK for the same chip, signed by the same ASK."""
        arguments: dict[str, Any] = {"chip_id": chip_id(self.processor.secret), "tcb": TCB, "product": PRODUCT}
        public = changes.pop("public", vcek_key(self.processor.secret, current_tcb()).public_key())
        issuer = x509.load_pem_x509_certificate((self.directory / ASK).read_bytes()).subject
        return certificate_der(make_vcek(self.ask, issuer, public, now=NOW, **(arguments | changes)))

    def authorities(self, now: datetime = NOW) -> tuple[bytes, bytes]:
        """New ASK and ARK certificates over the same keys."""
        return (
            certificate_der(make_ask(self.ark, self.ask.public_key(), now)),
            certificate_der(make_ark(self.ark, now)),
        )

    def rebuilt(self, builder: x509.CertificateBuilder, signer: rsa.RSAPrivateKey) -> bytes:
        return certificate_der(builder.sign(signer, SHA384(), rsa_padding=PSS))


def make_chip(directory: Path) -> Chip:
    processor = load_processor(directory, NOW)
    return Chip(
        directory,
        processor,
        rsa_key(directory, ARK_KEY),
        rsa_key(directory, ASK_KEY),
        stored_fingerprint(directory),
    )


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


__all__ = ["ARK", "ASK", "Chip", "failures", "make_chip"]
