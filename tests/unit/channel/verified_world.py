"""A guest under the simulated processor, its author, its user, and what an attacker would change."""

import functools
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from channel_world import IMAGE, Application, ScriptedGuest, echo, launch_document, public_pem
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.channel.client import AttestedPeer
from kokon.channel.mint import make_certificate
from kokon.channel.serve import AttestedServer
from kokon.channel.trust import UserTrust
from kokon.image.dsse import sign_envelope
from kokon.image.statement import GuestReference, Kek, ReferenceEntry, Statement, encode_statement
from kokon.launch.document import document_digest
from kokon.tee.simulated.keys import root_fingerprint
from kokon.tee.simulated.processor import GuestContext, Processor

MEASUREMENT = bytes(range(48))
POLICY = 0x30000
DEBUG = POLICY | 1 << 19
new_key = functools.partial(ec.generate_private_key, ec.SECP384R1())


class VerifiedWorld:
    """Honest until a test changes an attribute; `start` begins serving, `peer` is the user's view."""

    def __init__(self, processor: Processor, now: datetime) -> None:
        self.processor = processor
        self.now = now
        self.root = root_fingerprint(processor.certificates[-1])
        self.author = ec.generate_private_key(ec.SECP256R1())
        self.document = launch_document(public_pem(self.author))
        self.app = Application(echo)
        self.servers: list[AttestedServer] = []
        self.trust = UserTrust().with_author(public_pem(self.author)).with_simulated(self.root)

    def statement(self, key: ec.EllipticCurvePrivateKey | None = None, **changes: Any) -> dict[str, Any]:
        statement = Statement(
            subject=IMAGE,
            name="demo/clinic",
            author="Ada",
            created=self.now,
            not_after=self.now + timedelta(days=30),
            layers=(),
            config="sha256:" + "b" * 64,
            kek=Kek("kbs:///default/kek/1", {}),
            guest=GuestReference("c" * 64, "6.12"),
            reference=(ReferenceEntry("simulated", 1, "max", MEASUREMENT),),
        )
        return sign_envelope(encode_statement(replace(statement, **changes)), key or self.author).as_dict()

    def context(
        self, measurement: bytes = MEASUREMENT, host_data: bytes | None = None, policy: int = POLICY
    ) -> GuestContext:
        digest = document_digest(self.document) if host_data is None else host_data
        return self.processor.launch(measurement, digest, policy, b"r" * 32)

    def guest(self, context: GuestContext | None = None, statement: dict[str, Any] | None = None) -> ScriptedGuest:
        return ScriptedGuest(
            self.document,
            evidence_for=(context or self.context()).evidence,
            statement=self.statement() if statement is None else statement,
        )

    def start(
        self,
        guest: ScriptedGuest | None = None,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        certificate: bytes | None = None,
        port: int = 0,
    ) -> str:
        """Serve and return the URL."""
        guest, key = guest or self.guest(), key or new_key()
        certificate = certificate or make_certificate(key, guest.evidence_for, self.now)
        server = AttestedServer(guest, key, certificate, self.app.connect)
        self.servers.append(server)
        return "https://{}:{}".format(*server.start("127.0.0.1", port))

    def peer(self, url: str, **options: Any) -> AttestedPeer:
        return AttestedPeer(url, options.pop("trust", self.trust), clock=lambda: self.now, timeout=5, **options)

    def close(self) -> None:
        for server in self.servers:
            server.close()
