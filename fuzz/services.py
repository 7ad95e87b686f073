"""Targets for what reaches the server, the guest and the user's client: messages, launch documents, logs."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fuzz.structured import structured
from fuzz.target import CHANGES, Target, json_target, text_target
from kokon.channel.certificate import read_certificate
from kokon.channel.client import parse_address
from kokon.channel.protocol import parse_answer, parse_message, parse_request
from kokon.channel.proxy import parse_listen
from kokon.channel.trust import parse_trust
from kokon.errors import KokonError
from kokon.jose.jwe import public_jwk
from kokon.launch.document import (
    ImageRef,
    LaunchDocument,
    Provisioning,
    SecretUse,
    VolumeUse,
    build_document,
    parse_document,
    read_disk,
    write_disk,
)
from kokon.launch.image import PARTS, parse_description
from kokon.provisioning.kbs import messages
from kokon.provisioning.kbs.initdata import parse_init_data
from kokon.provisioning.kbs.session import read_cookie
from kokon.provisioning.ledger.checkpoint import parse_checkpoint
from kokon.provisioning.ledger.entry import parse_entry
from kokon.provisioning.ledger.keys import parse_verifier_key, signing_key
from kokon.provisioning.ledger.note import parse_note, parse_signature, sign_note
from kokon.provisioning.ledger.receipt import RECEIPT_FORMAT, parse_receipt
from kokon.provisioning.ledger.tiles import parse_bundle, parse_tile_path

_PEM = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"
_REQUEST = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"], "id": "a"}}
_KEY = public_jwk(ec.derive_private_key(7, ec.SECP256R1()), algorithm="ECDH-ES+A256KW")
_RUNTIME = {"tee-pubkey": _KEY, "nonce": "AAAA"}
_ATTESTATION = {"runtime-data": _RUNTIME, "tee-evidence": {"primary_evidence": {}, "additional_evidence": "{}"}}
_INIT_DATA = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a.toml\" = '''\nx\n'''\n"
_DOCUMENT = build_document(
    LaunchDocument(
        "clinic",
        ImageRef("http://127.0.0.1:5000", "clinic", "sha256:" + "1" * 64, _PEM.format("PUBLIC KEY")),
        Provisioning("https://127.0.0.1:8443", _PEM.format("CERTIFICATE")),
        8080,
        "kbs:///clinic/log/token",
        secrets=(SecretUse("a", "kbs:///clinic/secret/a", env="A"),),
        volumes=(VolumeUse("v", "/v/w", "kbs:///clinic/volume/v"),),
    )
)
_ENTRY = b'{"event":"a","project":"p","time":"2026-05-01T12:00:00.000Z"}'
_LOG = signing_key("kokon.example/log", bytes(32))
_NOTE = "kokon.example/log\n1\n" + "A" * 43 + "=\n\n\u2014 kokon.example/log AAAAAAAA\n"
_RECEIPT = {"format": RECEIPT_FORMAT, "entry": "{}", "index": 0, "proof": ["A" * 43 + "="], "checkpoint": _NOTE}
_GUEST = {
    "version": 1,
    "kernel_release": "6.12",
    "cmdline": "a=b",
    "packages": "ab" * 32,
    "files": {role: {"name": role, "sha256": "ab" * 32, "size": 5} for role in PARTS},
}


def service_targets() -> dict[str, Target]:
    """The targets by name."""
    return {
        "launch-document": Target(parse_document, (_DOCUMENT,)),
        "launch-disk": Target(read_disk, (write_disk(_DOCUMENT),)),
        "launch-guest": json_target(lambda data: parse_description(data, Path("guest")), _GUEST),
        "channel-message": json_target(parse_message, {"op": "status"}),
        "channel-request": json_target(parse_request, {"op": "logs", "token": "a", "follow": True}),
        "channel-answer": Target(structured({"evidence": {}, "runtime": {}, "statement": {}}, parse_answer), CHANGES),
        "channel-certificate": Target(read_certificate),
        "channel-trust": json_target(parse_trust, {"version": 1, "authors": [], "owners": ["ab" * 32]}),
        "channel-address": text_target(parse_address, "https://127.0.0.1:8443"),
        "channel-listen": text_target(parse_listen, "127.0.0.1:80"),
        "kbs-request": json_target(lambda data: messages.parse_request(data, {"snp", "sample"}), _REQUEST),
        "kbs-attestation": json_target(_attestation, _ATTESTATION),
        "kbs-init-data": Target(parse_init_data, (_INIT_DATA,)),
        "kbs-cookie": text_target(read_cookie, "kbs-session-id=abc; other=1"),
        "log-entry": json_target(parse_entry, json.loads(_ENTRY)),
        "log-note": Target(parse_note, (_NOTE.encode(),)),
        "log-note-signature": text_target(parse_signature, str(sign_note("a\n", _LOG))),
        "log-checkpoint": text_target(parse_checkpoint, _NOTE.partition("\n\n")[0] + "\n"),
        "log-key": text_target(parse_verifier_key, str(_LOG.verifier)),
        "log-receipt": json_target(parse_receipt, _RECEIPT),
        "log-tile-path": text_target(parse_tile_path, "tile/0/x001/234.p/5"),
        "log-bundle": Target(lambda data: parse_bundle(data[1:], data[0] if data else 0), (b"\1\0\2{}",)),
    }


def _attestation(data: bytes) -> object:
    """In the form of the newest version, and of the oldest where that is refused."""
    try:
        return messages.parse_attestation(data, messages.VERSIONS[-1])
    except KokonError:
        return messages.parse_attestation(data, messages.VERSIONS[0])
