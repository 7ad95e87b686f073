"""Keys that sign images: every kind, and the files that hold them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.signing.keyfiles import (
    COSIGN_LABELS,
    decrypt_cosign,
    encode_cosign,
    encode_plain,
    encrypt_cosign,
    parse_private,
)
from kokon.image.signing.keys import (
    ALGORITHMS,
    KeySigner,
    PrivateKey,
    describe,
    key_id,
    make_key,
    parse_public,
    public_pem,
    signature_holds,
    spki,
)

KEYS = {name: make_key(name) for name in ALGORITHMS}
MESSAGE = b"what is signed"


def no_password() -> bytes:
    raise AssertionError("nobody should be asked")


def same(one: PrivateKey, other: PrivateKey) -> bool:
    return spki(one.public_key()) == spki(other.public_key())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_kind_of_key_signs_and_is_read_again(name: str) -> None:
    signer, other = KeySigner(KEYS[name]), KeySigner(make_key(name))
    signature = signer.sign(MESSAGE)
    assert signature_holds(signer.public, signature, MESSAGE)
    assert not signature_holds(signer.public, signature, MESSAGE + b"!")
    assert not signature_holds(other.public, signature, MESSAGE)
    for at in range(0, len(signature), 7):
        changed = bytearray(signature)
        changed[at] ^= 1
        assert not signature_holds(signer.public, bytes(changed), MESSAGE)
    assert not signature_holds(signer.public, signature + b"\0" * 2000, MESSAGE)
    assert not signature_holds(signer.public, b"", MESSAGE)
    assert spki(parse_public(public_pem(signer.public))) == spki(signer.public)
    assert len(key_id(signer.public)) == 64
    assert "PRIVATE" not in repr(signer)


def test_kinds_have_names() -> None:
    assert [describe(KEYS[name].public_key()) for name in ALGORITHMS] == [
        "ECDSA P-256",
        "ECDSA P-384",
        "Ed25519",
        "RSA 3072",
    ]


def test_rsa_signs_in_both_ways_and_p384_is_read_with_sha384() -> None:
    signer = KeySigner(KEYS["rsa"], pss=True)
    assert signature_holds(signer.public, signer.sign(MESSAGE), MESSAGE)
    wide, narrow = KEYS["p384"], KEYS["p256"]
    assert isinstance(wide, ec.EllipticCurvePrivateKey)
    assert isinstance(narrow, ec.EllipticCurvePrivateKey)
    assert signature_holds(wide.public_key(), wide.sign(MESSAGE, ec.ECDSA(hashes.SHA384())), MESSAGE)
    assert not signature_holds(narrow.public_key(), narrow.sign(MESSAGE, ec.ECDSA(hashes.SHA384())), MESSAGE)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_openssl_reads_the_signatures(name: str, tmp_path: Path) -> None:
    signer = KeySigner(KEYS[name])
    (tmp_path / "key").write_text(public_pem(signer.public))
    (tmp_path / "signature").write_bytes(signer.sign(MESSAGE))
    (tmp_path / "message").write_bytes(MESSAGE)
    digest = ["-rawin"] if name == "ed25519" else ["-rawin", "-digest", "sha256"]
    arguments = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-sigfile", "signature", "-in", "message"]
    subprocess.run([*arguments, *digest], cwd=tmp_path, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_key_files_plain_and_as_cosign_writes_them(name: str) -> None:
    key = KEYS[name]
    assert same(parse_private(encode_plain(key), no_password), key)
    encrypted = encode_cosign(key, b"a password")
    assert encrypted.startswith(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    assert same(parse_private(encrypted, lambda: b"a password"), key)
    with pytest.raises(UntrustedError) as caught:
        parse_private(encrypted, lambda: b"another password")
    assert caught.value.code == "key-password"
    older = encrypted.replace(COSIGN_LABELS[0].encode(), COSIGN_LABELS[1].encode())
    assert same(parse_private(older, lambda: b"a password"), key)


def test_encrypted_pkcs8_is_read() -> None:
    data = KEYS["p256"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    )
    assert same(parse_private(data, lambda: b"a password"), KEYS["p256"])
    with pytest.raises(UntrustedError) as caught:
        parse_private(data, lambda: b"wrong")
    assert caught.value.code == "key-password"


def refused(data: bytes) -> str:
    with pytest.raises(KokonError) as caught:
        parse_private(data, lambda: b"a password")
    return caught.value.code


def test_what_is_no_key_file_is_refused() -> None:
    encrypted = encode_cosign(KEYS["p256"], b"a password")
    label = f"-----END {COSIGN_LABELS[0]}-----".encode()
    assert refused(b"") == "key-malformed"
    assert refused(b"x" * 20000) == "key-malformed"
    assert refused(encrypted + encrypted) == "key-malformed"
    assert refused(encrypted.replace(label, b"!" + label)) == "key-malformed"
    for small in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP521R1())):
        plain = small.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        assert refused(plain) == "key-malformed"
        with pytest.raises(MalformedError):
            parse_public(
                small.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
    for pem in ("", "x" * 20000):
        with pytest.raises(MalformedError) as caught:
            parse_public(pem)
        assert caught.value.code == "key-malformed"


def test_encrypted_keys_are_read_strictly() -> None:
    good = json.loads(encrypt_cosign(b"secret", b"p"))
    assert decrypt_cosign(json.dumps(good).encode(), b"p") == b"secret"

    def code(**changes: object) -> str:
        document = json.loads(json.dumps({**good, **changes}))
        with pytest.raises(KokonError) as caught:
            decrypt_cosign(json.dumps(document).encode(), b"p")
        return caught.value.code

    kdf, cipher = good["kdf"], good["cipher"]
    assert code(kdf={**kdf, "params": {"N": 1 << 30, "r": 8, "p": 1}}) == "key-malformed"
    assert code(kdf={**kdf, "params": {"N": 65536, "r": 9, "p": 1}}) == "key-malformed"
    assert code(kdf={**kdf, "name": "argon2"}) == "key-malformed"
    assert code(cipher={**cipher, "name": "rot13"}) == "key-malformed"
    assert code(cipher={**cipher, "nonce": "AAAA"}) == "size-mismatch"
    assert code(extra=1) == "field-unknown"
    assert code(ciphertext="AAAA") == "key-password"


def test_other_kinds_of_key_are_not_made() -> None:
    with pytest.raises(UsageError) as caught:
        make_key("dsa")
    assert caught.value.code == "key-algorithm"
    assert isinstance(KEYS["ed25519"], ed25519.Ed25519PrivateKey)
    with pytest.raises(InvalidSignature):
        KEYS["ed25519"].public_key().verify(b"x" * 64, MESSAGE)
