"""Targets for what comes from a registry: documents, layers, signatures, and what unpacks them."""

from __future__ import annotations

import gzip
import io
import json
import stat
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuzz.target import Target, json_target, text_target
from kokon.image.dsse import parse_envelope, sign_envelope
from kokon.image.keyprovider import parse_packet, wrap
from kokon.image.layer import (
    CIPHER,
    gunzip_chunks,
    parse_private_options,
    parse_public_options,
    recipients,
)
from kokon.image.manifest import (
    CONFIG_TYPE,
    INDEX_TYPE,
    LAYER_GZIP_TYPE,
    MANIFEST_TYPE,
    is_index,
    parse_config,
    parse_index,
    parse_manifest,
)
from kokon.image.reference import parse_reference
from kokon.image.remote.challenge import parse_challenges
from kokon.image.signature import parse_payload
from kokon.image.signing.forms import encode_bundle, parse_bundle, sign_statement, simple_payload
from kokon.image.signing.keyfiles import parse_private
from kokon.image.signing.policyfile import parse_policy, parse_policy_toml
from kokon.image.statement import GuestReference, Kek, ReferenceEntry, Statement, encode_statement, parse_statement
from kokon.image.tarstream import parse_pax, read_entries
from kokon.image.unpack import Limits, Unpacker
from kokon.image.version import parse_version
from kokon.jose.jwe import decrypt, encrypt_to, public_jwk
from kokon.wire import b64

_DIGEST = "sha256:" + "1" * 64
_NOW = datetime(2026, 11, 23, tzinfo=UTC)
_KID = "kbs:///default/kek/1"
_KEY = ec.derive_private_key(7, ec.SECP256R1())
_MANIFEST = {
    "schemaVersion": 2,
    "mediaType": MANIFEST_TYPE,
    "config": {"mediaType": CONFIG_TYPE, "digest": _DIGEST, "size": 2},
    "layers": [{"mediaType": LAYER_GZIP_TYPE, "digest": _DIGEST, "size": 5, "annotations": {"a": "b"}}],
}
_INDEX = {
    "schemaVersion": 2,
    "mediaType": INDEX_TYPE,
    "manifests": [
        {"mediaType": MANIFEST_TYPE, "digest": _DIGEST, "size": 5, "platform": {"os": "linux", "architecture": "amd64"}}
    ],
}
_CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["A=1"], "Cmd": ["/app"], "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "User": "1"},
    "rootfs": {"type": "layers", "diff_ids": [_DIGEST]},
}
_PUBLIC = {"cipher": CIPHER, "hmac": b64(bytes(32)), "cipheroptions": {"nonce": b64(bytes(16))}}
_PRIVATE = {"symkey": b64(bytes(32)), "digest": _DIGEST, "cipheroptions": {"nonce": b64(bytes(16))}}


def image_targets() -> dict[str, Target]:
    """The targets by name. Seeds are made here."""
    statement = _statement()
    envelope = sign_envelope(statement, _KEY).as_dict()
    packet = wrap(bytes(32), _KID, b"{}", bytes)
    jwe = encrypt_to(public_jwk(_KEY), b"content")
    bundle = encode_bundle(sign_statement("a/b", _DIGEST), b"signature", _KEY.public_key(), None)
    return {
        "image-manifest": json_target(parse_manifest, _MANIFEST),
        "image-index": json_target(parse_index, _INDEX),
        "image-kind": Target(lambda data: is_index(data, ""), (json.dumps(_INDEX).encode(),)),
        "image-configuration": json_target(parse_config, _CONFIG),
        "image-reference": text_target(parse_reference, "127.0.0.1:5000/a/b:1@" + _DIGEST),
        "image-version": text_target(parse_version, "1.2.3-rc.1+x"),
        "image-statement": json_target(parse_statement, json.loads(statement)),
        "image-envelope": json_target(parse_envelope, envelope),
        "image-payload": json_target(parse_payload, json.loads(simple_payload("a/b", _DIGEST))),
        "image-bundle": json_target(parse_bundle, json.loads(bundle)),
        "image-signing-key": Target(lambda data: parse_private(data, lambda: b""), (_pem(),)),
        "image-policy": json_target(parse_policy, {"default": [{"type": "reject"}], "transports": {"docker": {}}}),
        "image-policy-toml": Target(parse_policy_toml, (b'default = "reject"\n[images]\n"a/b" = {accept = true}\n',)),
        "image-challenge": text_target(lambda text: parse_challenges([text]), 'Bearer realm="https://a/b",scope="c"'),
        "layer-public-options": json_target(lambda data: parse_public_options(b64(data)), _PUBLIC),
        "layer-private-options": json_target(parse_private_options, _PRIVATE),
        "layer-recipients": text_target(lambda text: recipients({"x": text}, "x"), "YQ==,Yg=="),
        "layer-packet": json_target(parse_packet, json.loads(packet)),
        "layer-gzip": Target(_gunzip, (gzip.compress(b"content", mtime=0) * 2,)),
        "layer-pax": Target(parse_pax, (b"9 path=a\n",)),
        "layer-tar": Target(_read_tar, _archives()),
        "layer-unpack": Target(_unpack, _archives()),
        "jwe": json_target(lambda data: decrypt(data, _KEY), jwe),
    }


def _statement() -> bytes:
    statement = Statement(
        subject=_DIGEST,
        name="a/b",
        author="Ada",
        created=_NOW,
        not_after=_NOW,
        layers=(_DIGEST,),
        config=_DIGEST,
        kek=Kek(_KID, {"protected": "e30"}),
        guest=GuestReference("ab" * 32, "6.12"),
        reference=(ReferenceEntry("simulated", 1, "max", bytes(48)),),
        version="1.2.3",
    )
    return encode_statement(statement)


def _pem() -> bytes:
    return _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _gunzip(data: bytes) -> object:
    """In two chunks, so that members begin and end in both."""
    half = len(data) // 2
    return sum(map(len, gunzip_chunks([data[:half], data[half:]])))


def _read_tar(data: bytes) -> object:
    return [(entry, sum(map(len, content))) for entry, content in read_entries([data[:700], data[700:]], 1 << 20)]


def _archives() -> tuple[bytes, ...]:
    members = [
        (tarfile.DIRTYPE, "d", ""),
        (tarfile.REGTYPE, "d/file", ""),
        (tarfile.SYMTYPE, "way", "../outside"),
        (tarfile.LNKTYPE, "hard", "d/file"),
        (tarfile.REGTYPE, "way/x", ""),
        (tarfile.REGTYPE, "d/.wh..wh..opq", ""),
        (tarfile.REGTYPE, "n" * 120, ""),
    ]
    found = []
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=style) as archive:
            for kind, name, target in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                archive.addfile(info)
        found.append(out.getvalue()[: len(members) * 1024 + 2048])
    return tuple(found)


def _unpack(data: bytes) -> None:
    """Checksums are made to hold, or nothing behind them would be reached. A way out or a device is a finding."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "root").mkdir()
        (top / "outside").mkdir()
        try:
            with Unpacker(top / "root", Limits(entries=200, total=1 << 20)) as unpacker:
                unpacker.layer([_summed(data)])
        finally:
            if {path.name for path in top.iterdir()} != {"root", "outside"} or list((top / "outside").iterdir()):
                raise RuntimeError("a layer got out of its directory")
            for path in (top / "root").rglob("*"):
                if stat.S_ISBLK(path.lstat().st_mode) or stat.S_ISCHR(path.lstat().st_mode):
                    raise RuntimeError("a layer made a device")


def _summed(data: bytes) -> bytes:
    """The archive with a right checksum in each block that looks like a header."""
    blocks = [data[start : start + 512] for start in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            total = sum(block) - sum(block[148:156]) + 8 * 32
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)
