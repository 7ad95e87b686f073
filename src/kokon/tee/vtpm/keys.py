"""The attestation key: which one it is, what kind of key, and who vouches for it. Pure.

Anyone can make a key and sign things that look like quotes. Only an authority that saw the TPM's key inside the TPM, or
a hardware report with its digest, or the caller's own enrolment makes a quote worth anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kokon.tee import anchors
from kokon.tee.certificates import Certificate
from kokon.tee.endorsed import parse_all, parse_lists
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Evidence, Need, failed, not_checked, passed
from kokon.tee.path import build_path, check_leaf, check_path
from kokon.tee.revocation import check_path_revoked
from kokon.tee.vtpm.quote import Key, key_of, load_key, spki_of, strong
from kokon.tee.vtpm.tpm import NUMBERS, Public, parse_public

HIERARCHIES: Final = (0x4000000B, 0x40000001, 0x4000000C, 0x40000007)
"""TPM_RH_ENDORSEMENT, OWNER, PLATFORM and NULL: parents of primary keys."""
_MUST: Final = ("fixedTPM", "fixedParent", "sensitiveDataOrigin", "restricted", "sign")
_MUST_NOT: Final = ("decrypt",)


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """The key of some evidence; `spki` is b"" and `key` None if it came without. `named` are the places that hold it
    and the keys they hold."""

    key: Key | None
    spki: bytes
    public: Public | None
    named: tuple[tuple[str, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER SubjectPublicKeyInfo in lower-case hex, "" without a key."""
        return hashlib.sha256(self.spki).hexdigest() if self.spki else ""


def attestation_key(evidence: Evidence, hardware: bytes = b"") -> AttestationKey:
    """The key that the evidence is to be verified with: `hardware`, the SPKI that a hardware report vouches for, else
    the part "ak-public", "ak", or the first certificate's. Raises `MalformedError` (`tpm-malformed`)."""
    named: list[tuple[str, bytes]] = [("hardware report", hardware)] if hardware else []
    public: Public | None = None
    if "ak-public" in evidence.parts:
        public = parse_public(evidence.parts["ak-public"])
        named.append(("TPMT_PUBLIC", spki_of(key_of(public))))
    if "ak" in evidence.parts:
        named.append(("public key", evidence.parts["ak"]))
    if not named:
        named += [("certificate", certificate.spki) for certificate in parse_all(evidence.certificates)[:1]]
    spki = named[0][1] if named else b""
    return AttestationKey(load_key(spki) if spki else None, spki, public, tuple(named))


def check_kind(ak: AttestationKey, evidence: Evidence, signers: frozenset[bytes]) -> Iterator[Check]:
    """That there is one key, strong, and by its attributes one that signs nothing but what the TPM made.

    `signers` are the qualified signers of the quotes. They bind the TPMT_PUBLIC to what was signed: for a primary key
    it is H(hierarchy || name) with name = H(TPMT_PUBLIC), both with the hash's number before (Part 1, section 16).
    """
    if ak.key is None:
        return
    if len({spki for _place, spki in ak.named}) > 1:
        found = ", ".join(f"{place} {hashlib.sha256(spki).hexdigest()}" for place, spki in ak.named)
        yield failed("attestation key", "tpm-ak-differs", expected="one key", found=found)
    kind = f"{ak.key.key_size} bits"
    if strong(ak.key):
        yield passed("attestation key strength", kind)
    else:
        yield failed("attestation key strength", "tpm-ak-weak", expected="RSA 2048 or P-256 and above", found=kind)
    if ak.public is None:
        return
    wrong = [name for name in _MUST if not ak.public.has(name)] + [
        f"not {name}" for name in _MUST_NOT if ak.public.has(name)
    ]
    if wrong:
        hint = "such a key may sign what only looks like a quote"
        expected = "a restricted signing key of this TPM"
        yield failed(
            "attestation key attributes", "tpm-ak-attributes", expected=expected, found=", ".join(wrong), hint=hint
        )
    else:
        yield passed("attestation key attributes", "restricted, sign, fixedTPM")
    if signers <= _qualified_names(ak.public, evidence.parts["ak-public"]):
        yield passed("attestation key name", "the quote's qualified signer")
    else:
        hint = "the key's public area was changed, or it is no primary key: then give its public key alone"
        found = ", ".join(signer.hex() for signer in sorted(signers))
        yield failed("attestation key name", "tpm-ak-name", expected="the name of the key", found=found, hint=hint)


def _qualified_names(public: Public, area: bytes) -> frozenset[bytes]:
    if public.name_hash not in ("sha1", "sha256", "sha384", "sha512"):
        return frozenset()
    number = NUMBERS[public.name_hash].to_bytes(2, "big")
    name = number + hashlib.new(public.name_hash, area).digest()
    return frozenset(
        number + hashlib.new(public.name_hash, parent.to_bytes(4, "big") + name).digest() for parent in HIERARCHIES
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Who vouches for a key: checks, the root's certificate if there is one, and what is lacking."""

    checks: tuple[Check, ...]
    needs: tuple[Need, ...] = ()
    path: tuple[Certificate, ...] = ()

    @property
    def root(self) -> Certificate | None:
        """The end of the certificate's path if it is a root."""
        return self.path[-1] if self.path and self.path[-1].self_issued else None


def check_origin(ak: AttestationKey, evidence: Evidence, endorsements: Endorsements, now: datetime) -> Origin:
    """Enrolment by the caller, else a certificate of the key that leads to a pinned or accepted root; else it is
    unbound: not checked, with a need that policy insists on."""
    if ak.key is None:
        return Origin(())
    if ak.fingerprint in endorsements.enrolled_keys:
        return Origin((passed("attestation key", f"enrolled, {ak.fingerprint}"),))
    pool = parse_all((*evidence.certificates, *endorsements.certificates))
    own = [certificate for certificate in pool if certificate.spki == ak.spki]
    if not own:
        return _unbound(ak, "enroll this key's fingerprint, or give a certificate of it from a pinned authority")
    current = [certificate for certificate in own if certificate.not_before <= now < certificate.not_after]
    path = build_path((current or own)[0], pool, now)
    if not path[-1].self_issued:
        return _unbound(
            ak, f"give the certificate of the authority that issued {path[-1].name or 'its certificate'}", path
        )
    lists = parse_lists(endorsements.crls)
    checks = (
        passed("attestation key", f"certified for {path[0].name}"),
        *check_leaf(path[0]),
        *check_path(path, now),
        anchors.check_root(path[-1], anchors.TPM, endorsements.accepted_simulated),
        *check_path_revoked(path, lists, now, required=False),
    )
    return Origin(checks, (), path)


def _unbound(ak: AttestationKey, hint: str, path: tuple[Certificate, ...] = ()) -> Origin:
    check = not_checked("attestation key", "tpm-ak-unbound", f"nobody vouches for it: {hint}", found=ak.fingerprint)
    return Origin((check,), (Need("ak", required=False),), path)
