"""Keys, claims and a small two-layer image that the image tests seal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.image.ecdsa import public_pem
from kokon.image.reference import Reference
from kokon.image.registry import Registry
from kokon.image.seal import Claims, Sealed
from kokon.image.statement import GuestReference, ReferenceEntry
from kokon.launch.document import ImageRef
from support.images import make_tar, member
from support.registry import LocalRegistry

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AUTHOR = ec.generate_private_key(ec.SECP256R1())
OWNER = ec.generate_private_key(ec.SECP256R1())
CLAIMS = Claims(
    created=NOW,
    not_after=NOW + timedelta(days=30),
    author="Ada",
    secrets=("db-password",),
    guest=GuestReference("ab" * 32, "6.12.0"),
    reference=(ReferenceEntry("simulated", 1, "max", bytes(range(48))),),
)
LOWER = make_tar(
    [
        ("etc", None),
        ("etc/old", b"hidden later"),
        ("bin", None),
        ("bin/app", b"#!/bin/sh\n" + b"canary-program " * 500),
        (member("bin/sh", b"2", linkname="app"), None),
    ]
)
UPPER = make_tar([("etc/.wh.old", b""), ("data", None), ("data/records", b"canary-data " * 9000)])


@dataclass(frozen=True)
class SealedFixture:
    """A sealed image in a registry of its own that a test may spoil."""

    server: LocalRegistry
    registry: Registry
    reference: Reference
    sealed: Sealed

    def image(self, author: ec.EllipticCurvePrivateKey = AUTHOR, digest: str | None = None) -> ImageRef:
        return ImageRef(
            self.server.url,
            self.reference.repository,
            digest or self.sealed.digest,
            public_pem(author.public_key()),
        )
