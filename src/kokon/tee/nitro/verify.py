"""An AWS Nitro attestation document to claims: signature, chain to the pinned root, dates. Pure.

The steps are those of AWS's "Nitro Enclaves Attestation Process", section 3.2, with the root pinned by its key. A debug
enclave (PCR0 to PCR2 all zero) has a perfectly valid document: `Claims.debug` says so and policy refuses it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.tee.anchors import AWS, check_root, is_simulated
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.cose import ALGORITHM, ES384, CoseSign1, sig_structure, verify_sign1
from kokon.tee.endorsed import parse_lists
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, canonical_digest, failed, not_checked, passed
from kokon.tee.nitro.document import Document, read_message
from kokon.tee.path import check_leaf, check_path
from kokon.tee.revocation import check_revoked

PRODUCT: Final = "Nitro"
IMAGE_REGISTERS: Final = (0, 1, 2)
"""PCR0 is the enclave image, PCR1 kernel and boot ramdisk, PCR2 the application. All zero: a debug enclave."""
SIGNER_REGISTER: Final = 8
"""PCR8 is a digest of the certificate that signed the image file, zero for an unsigned one."""
REGISTER_SIZE: Final = 48
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def verify_nitro(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of a document at the time `now` (aware), with all checks.

    `measurement` is PCR0, `signer` PCR8 unless it is zero, `report_data` the nonce, which is what shows that a
    document is fresh; user data and public key are in `details`. How old a document may be is policy's to say.
    Raises `MalformedError`: those of `read_message`, and `certificate-malformed`.
    """
    message, document = read_message(evidence.report)
    leaf = parse_certificate(document.certificate)
    path = (leaf, *(parse_certificate(der) for der in reversed(document.cabundle)))
    root = path[-1] if path[-1].self_issued else None
    checks = (
        _check_header(message),
        _check_signature(message, leaf),
        *check_path(path, now),
        *check_leaf(leaf),
        *_check_root(root, endorsements),
        *_check_revocation(path, endorsements, now),
        _check_timestamp(document, leaf),
        _check_registers(document),
        _freshness(document, now),
    )
    signer = document.pcrs.get(SIGNER_REGISTER, b"")
    return Claims(
        tee="nitro",
        simulated=root is not None and is_simulated(root, AWS, endorsements.accepted_simulated),
        root=root.fingerprint if root else "",
        product=PRODUCT,
        measurement=document.pcrs.get(IMAGE_REGISTERS[0], b""),
        host_data=b"",
        report_data=document.nonce or b"",
        debug=not any(any(document.pcrs.get(index, b"")) for index in IMAGE_REGISTERS),
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=checks,
        registers={f"pcr{index}": value for index, value in document.pcrs.items()},
        signer=signer if any(signer) else b"",
        details=describe_document(document),
        canonical=canonical_digest("nitro", sig_structure(message.protected, message.payload or b""), leaf.spki),
    )


def describe_document(document: Document) -> dict[str, Any]:
    """The fields by AWS's names as JSON values, bytes as hex, and the certificates' names."""
    return {
        "module_id": document.module_id,
        "digest": document.digest,
        "timestamp": document.timestamp,
        "time": f"{_moment(document):%Y-%m-%dT%H:%M:%S.%fZ}",
        "pcrs": {str(index): value.hex() for index, value in document.pcrs.items()},
        "certificate": document.certificate.hex(),
        "cabundle": [certificate.hex() for certificate in document.cabundle],
        "public_key": _hex(document.public_key),
        "user_data": _hex(document.user_data),
        "nonce": _hex(document.nonce),
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _moment(document: Document) -> datetime:
    return _EPOCH + timedelta(milliseconds=document.timestamp)


def _check_header(message: CoseSign1) -> Check:
    if dict(message.header) != {ALGORITHM: ES384} or message.unprotected:
        return failed(
            "header",
            "nitro-header",
            expected="algorithm ES384 (-35) and nothing else",
            found=f"{dict(message.header)!r:.100}, unprotected {dict(message.unprotected)!r:.100}",
            hint="AWS signs with ES384 and adds nothing: another has made this message",
        )
    return passed("header", "ES384")


def _check_signature(message: CoseSign1, leaf: Certificate) -> Check:
    p384 = isinstance(leaf.key, ec.EllipticCurvePublicKey) and isinstance(leaf.key.curve, ec.SECP384R1)
    if p384 and verify_sign1(message, leaf.key):
        return passed("document-signature", f"by {leaf.name}")
    return failed(
        "document-signature",
        "nitro-signature-invalid",
        expected=f"an ES384 signature by {leaf.name}",
        found="another" if p384 else "a key that is not on P-384",
        hint="the document was altered, or its certificate is another enclave's",
    )


def _check_root(root: Certificate | None, endorsements: Endorsements) -> Iterator[Check]:
    if root is not None:
        yield check_root(root, AWS, endorsements.accepted_simulated)


def _check_revocation(path: tuple[Certificate, ...], endorsements: Endorsements, now: datetime) -> Iterator[Check]:
    """By lists that were given. An instance's key signs none: its enclaves' certificates just end after hours."""
    lists = parse_lists(endorsements.crls)
    for subject, issuer in itertools.pairwise(path):
        if issuer.signs_lists:
            yield check_revoked(subject, issuer, lists, now, required=False)
        else:
            yield not_checked(
                f"revocation of {subject.name}", "nitro-revocation-none", f"{issuer.name} signs no revocation lists"
            )


def _check_timestamp(document: Document, leaf: Certificate) -> Check:
    moment, span = _moment(document), f"{leaf.not_before:%Y-%m-%dT%H:%M:%SZ} to {leaf.not_after:%Y-%m-%dT%H:%M:%SZ}"
    if leaf.not_before <= moment < leaf.not_after:
        return passed("timestamp", f"{moment:%Y-%m-%dT%H:%M:%SZ}")
    return failed(
        "timestamp",
        "nitro-timestamp-outside",
        expected=f"within its certificate's life, {span}",
        found=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
    )


def _check_registers(document: Document) -> Check:
    wrong = [f"PCR{index}: {len(value)}" for index, value in document.pcrs.items() if len(value) != REGISTER_SIZE]
    missing = [f"PCR{index}: none" for index in IMAGE_REGISTERS if index not in document.pcrs]
    if wrong or missing:
        return failed(
            "registers",
            "nitro-registers",
            expected=f"PCR0 to PCR2 at least, {REGISTER_SIZE} bytes each for SHA384",
            found=", ".join(wrong + missing),
        )
    return passed("registers", len(document.pcrs))


def _freshness(document: Document, now: datetime) -> Check:
    age = (now - _moment(document)).total_seconds()
    hint = "compare the nonce with the one that was asked for; how old a document may be is policy's to say"
    return not_checked("freshness", "nitro-freshness", hint, found=f"made {age:.0f} s before the time of verification")
