"""Encrypting, decrypting and changing recipients of whole images, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kokon.cli.main import main
from kokon.errors import KokonError
from kokon.image.layer import AGENT_ANNOTATION, PUBLIC_ANNOTATION, parse_private_options, parse_public_options
from kokon.image.ocicrypt.compress import check_kind, compressed, decompressed
from kokon.image.ocicrypt.images import Change, change_image, layers_of
from kokon.image.ocicrypt.keys import KEY_LIMIT, parse_private, parse_public
from kokon.image.ocicrypt.options import encode_private, encode_public
from kokon.image.ocicrypt.places import open_place, read_opener, read_recipient
from kokon.image.ocicrypt.recipients import AgentKey, Holder, Opener, holders, opened, removed, wrapped
from kokon.image.ocicrypt.stream import LayerCipher, ahead, checked, decrypted
from kokon.image.ocicrypt.types import WASM, layer_type
from kokon.jose.jwe import decrypt, encrypt_to, public_jwk
from kokon.jose.several import encrypt_to_all, jwe_key
from kokon.wire import b64url
from support.images import LAYER, write_layout
from support.registry import LocalRegistry
from support.sealed import LOWER, UPPER

ANNA, BERT = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE = encode_private(bytes(32), bytes(16), "")


def code_of(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(KokonError) as caught:
        list(call(*arguments, **named))
    return caught.value.code


def write_key(path: Path, key: Any) -> Path:
    path.write_bytes(key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()))
    public = key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


def change(source: str, target: str, wanted: Change) -> Any:
    with open_place(source) as (here, pointer), open_place(target, create=True) as (there, tag):
        return change_image(here, pointer, there, tag, wanted)


def layers(image: str) -> Any:
    with open_place(image) as (place, pointer):
        return layers_of(place, pointer)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    write_layout(tmp_path / "plain", [LOWER, UPPER])
    return f"oci:{tmp_path}/plain"


@pytest.fixture
def ours(tmp_path: Path, plain: str) -> str:
    change(plain, f"oci:{tmp_path}/ours", Change(to=(jwe_key(ANNA.public_key()),)))
    return f"oci:{tmp_path}/ours"


def test_chosen_layers_only(tmp_path: Path, plain: str) -> None:
    made = change(plain, f"oci:{tmp_path}/some", Change(to=(jwe_key(ANNA.public_key()),), layers=(-1,)))
    lower, upper = layers(f"oci:{tmp_path}/some")
    assert (made.changed, made.kept) == (1, 1)
    assert (lower.media_type, upper.media_type) == (LAYER + "+gzip", LAYER + "+gzip+encrypted")
    assert lower.digest == layers(plain)[0].digest
    wrong = Change(to=(jwe_key(ANNA.public_key()),), layers=(2,))
    assert code_of(change, plain, f"oci:{tmp_path}/no", wrong) == "layer-number"
    change(f"oci:{tmp_path}/some", f"oci:{tmp_path}/back", Change(opener=Opener((ANNA,))))
    assert [layer.digest for layer in layers(f"oci:{tmp_path}/back")] == [layer.digest for layer in layers(plain)]


def test_encrypted_anew_with_new_keys(tmp_path: Path, plain: str, ours: str) -> None:
    to = (jwe_key(BERT.public_key()),)
    assert code_of(change, ours, f"oci:{tmp_path}/new", Change(to=to)) == "layer-encrypted-already"
    change(ours, f"oci:{tmp_path}/new", Change(to=to, opener=Opener((ANNA,))))
    assert {layer.digest for layer in layers(ours)} & {layer.digest for layer in layers(f"oci:{tmp_path}/new")} == set()
    assert code_of(change, f"oci:{tmp_path}/new", f"oci:{tmp_path}/no", Change(opener=Opener((ANNA,)))) == (
        "layer-key-missing"
    )
    change(f"oci:{tmp_path}/new", f"oci:{tmp_path}/back", Change(opener=Opener((BERT,))))
    assert [layer.digest for layer in layers(f"oci:{tmp_path}/back")] == [layer.digest for layer in layers(plain)]


def test_recipients_without_touching_the_ciphertext(ours: str) -> None:
    before = [layer.digest for layer in layers(ours)]
    more = (jwe_key(BERT.public_key()), AgentKey("kbs:///default/key/1", bytes(32)))
    assert code_of(change, ours, ours, Change(more=more)) == "layer-key-needed"
    change(ours, ours, Change(opener=Opener((ANNA,)), more=more))
    (first, _) = layers(ours)
    assert holders(first.annotations) == (
        Holder(1, "jwe", "ECDH-ES+A256KW", jwe_key(ANNA.public_key()).kid),
        Holder(2, "jwe", "ECDH-ES+A256KW", jwe_key(BERT.public_key()).kid),
        Holder(3, "provider.attestation-agent", "A256GCM", "kbs:///default/key/1"),
    )
    for opener in (Opener((ANNA,)), Opener((BERT,)), Opener(agent={"kbs:///default/key/1": bytes(32)})):
        assert opened(first.annotations, opener)[1]
    change(ours, ours, Change(without=(3,), without_keys=(jwe_key(ANNA.public_key()).kid,)))
    assert [layer.digest for layer in layers(ours)] == before
    (first, _) = layers(ours)
    assert [one.number for one in holders(first.annotations)] == [1]
    assert AGENT_ANNOTATION not in first.annotations
    assert code_of(opened, first.annotations, Opener((ANNA,))) == "layer-key-missing"
    assert opened(first.annotations, Opener((BERT,)))[1]


def test_one_of_a_general_jwe_is_removed() -> None:
    keys = [jwe_key(key.public_key()) for key in (ANNA, RSA, BERT)]
    annotations = wrapped(PRIVATE, keys)
    assert [one.key for one in holders(annotations)] == [key.kid for key in keys]
    left = removed(annotations, kids=(keys[1].kid,))
    assert [one.key for one in holders(left)] == [keys[0].kid, keys[2].kid]
    assert opened(left, Opener((BERT,)))[1] == PRIVATE
    assert code_of(opened, left, Opener((RSA,))) == "layer-key-missing"
    assert code_of(removed, left, numbers=(1, 2)) == "recipient-last"
    assert code_of(removed, left, numbers=(3,)) == "recipient-unknown"
    assert code_of(removed, left, kids=(keys[1].kid,)) == "recipient-unknown"
    assert code_of(wrapped, PRIVATE, ()) == "recipient-needed"


def test_damaged_and_swapped_layers_leave_nothing(tmp_path: Path, plain: str, ours: str) -> None:
    first, second = layers(ours)
    blobs = tmp_path / "ours/blobs/sha256"
    back = f"oci:{tmp_path}/back"
    with open_place(ours) as (place, pointer):
        data, _ = place.store.manifest("", pointer) or (b"", "")
        document = json.loads(data)
        document["layers"].reverse()
        place.store.put_manifest("", "swapped", json.dumps(document).encode())
        document["layers"].reverse()
        public = document["layers"][0]["annotations"]
        public[PUBLIC_ANNOTATION] = encode_public(bytes(32))
        place.store.put_manifest("", "unauthentic", json.dumps(document).encode())
    opener = Change(opener=Opener((ANNA,)))
    assert code_of(change, ours + ":swapped", back, opener) == "layer-diff-id-mismatch"
    assert code_of(change, ours + ":unauthentic", back, opener) == "layer-hmac-mismatch"
    assert (blobs / second.digest.removeprefix("sha256:")).exists()
    assert code_of(layers, back + ":latest") == "source-not-found"
    assert not list((tmp_path / "back/blobs/sha256").glob(".partial*"))
    assert first.digest != second.digest


def test_the_last_chunk_waits_for_the_authentication_code() -> None:
    cipher = LayerCipher()
    sealed = list(cipher.chunks([b"a" * 10, b"b" * 10]))
    public, private = parse_public_options(cipher.public()), parse_private_options(cipher.private())
    assert list(decrypted(sealed, public, private)) == [b"a" * 10, b"b" * 10]
    seen = []
    with pytest.raises(KokonError) as caught:
        seen.extend(decrypted([sealed[0], b"\0" + sealed[1][1:]], public, private))
    assert caught.value.code == "layer-hmac-mismatch"
    assert b"b" not in b"".join(seen)
    assert list(decrypted([], *empty_options())) == [b""]


def empty_options() -> Any:
    cipher = LayerCipher()
    assert list(cipher.chunks([])) == []
    return parse_public_options(cipher.public()), parse_private_options(cipher.private())


def test_a_thread_ahead_gives_the_same_and_hands_on_errors() -> None:
    assert list(ahead(bytes([n]) for n in range(100))) == [bytes([n]) for n in range(100)]
    assert code_of(ahead, checked([b"x"], "", "sha256:" + "0" * 64)) == "layer-diff-id-mismatch"
    stream = ahead(bytes([n]) for n in range(100))
    assert next(stream) == b"\0"
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "code"), [("gzip", "layer-gzip-malformed"), ("zstd", "layer-zstd-malformed")])
def test_compression(kind: str, code: str) -> None:
    packed = b"".join(compressed([LOWER[:100], LOWER[100:]], kind))
    assert b"".join(decompressed([packed[:9], packed[9:]], kind)) == LOWER
    broken = packed[:20] + b"\xff" * 8 + packed[28:]
    assert code_of(decompressed, [broken], kind) == code
    assert code_of(decompressed, [], kind) == code
    assert code_of(check_kind, "brotli") == "compression-unknown"


def test_a_zstd_bomb_comes_out_in_small_pieces_and_cut_streams_show_in_the_digest() -> None:
    packed = b"".join(compressed((bytes(1 << 20) for _ in range(64)), "zstd"))
    assert len(packed) < 1 << 16
    assert max(len(piece) for piece in decompressed([packed], "zstd")) <= 1 << 20
    whole = b"".join(compressed([LOWER], "zstd"))
    from support.images import digest_of

    assert list(checked([whole], "zstd", digest_of(LOWER))) == [whole]
    assert code_of(checked, [whole[:-5]], "zstd", digest_of(LOWER)) == "layer-diff-id-mismatch"


def test_media_types() -> None:
    docker = "application/vnd.docker.image.rootfs.diff.tar"
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    assert str(layer_type(docker + ".gzip+encrypted")) == LAYER + "+gzip+encrypted"
    assert str(layer_type(docker + ".zstd")) == LAYER + "+zstd"
    assert str(layer_type(foreign)) == "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    assert str(layer_type(WASM + "+encrypted")) == WASM + "+encrypted"
    for name in ("", "+gzip", "+zstd"):
        assert str(layer_type(LAYER + name)) == LAYER + name
    assert code_of(layer_type, LAYER + "+brotli") == "layer-type-unsupported"


def jwk_of(key: Any) -> bytes:
    public = public_jwk(key)
    numbers = key.private_numbers()
    if public["kty"] == "EC":
        return json.dumps({**public, "d": b64url(numbers.private_value.to_bytes(32, "big"))}).encode()
    names = {"d": "d", "p": "p", "q": "q", "dp": "dmp1", "dq": "dmq1", "qi": "iqmp"}
    members = {name: getattr(numbers, attribute) for name, attribute in names.items()}
    packed = {name: b64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in members.items()}
    return json.dumps({**public, **packed}).encode()


@pytest.mark.parametrize("key", [ANNA, RSA], ids=["ec", "rsa"])
def test_keys_in_every_form(key: Any) -> None:
    message = encrypt_to(key.public_key(), b"secret")
    for form in (ser.PrivateFormat.PKCS8, ser.PrivateFormat.TraditionalOpenSSL):
        for encoding in (ser.Encoding.PEM, ser.Encoding.DER):
            data = key.private_bytes(encoding, form, ser.NoEncryption())
            assert decrypt(message, parse_private(data)) == b"secret"
    assert decrypt(message, parse_private(jwk_of(key))) == b"secret"
    locked = key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.BestAvailableEncryption(b"pass"))
    assert decrypt(message, parse_private(locked, b"pass")) == b"secret"
    assert code_of(parse_private, locked) == "layer-key-malformed"
    assert code_of(parse_private, locked, b"wrong") == "layer-key-malformed"
    for encoding in (ser.Encoding.PEM, ser.Encoding.DER):
        data = key.public_key().public_bytes(encoding, ser.PublicFormat.SubjectPublicKeyInfo)
        assert parse_public(data).kid == jwe_key(key.public_key()).kid
    assert parse_public(json.dumps(public_jwk(key)).encode()).kid == jwe_key(key.public_key()).kid


def test_keys_that_are_refused() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    pem = edwards.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption())
    public = edwards.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    weak = rsa.generate_private_key(65537, 1024)
    assert code_of(parse_private, pem) == "key-unsupported"
    assert code_of(parse_public, public) == "key-unsupported"
    assert code_of(parse_private, b"{}") == "field-missing"
    assert code_of(parse_private, b'{"kty":"OKP"}') == "key-unsupported"
    assert code_of(parse_private, b'{"kty":"EC","crv":"P-224"}') == "key-unsupported"
    assert code_of(parse_private, bytes(KEY_LIMIT + 1)) == "layer-key-malformed"
    assert code_of(parse_public, b"no key") == "layer-key-malformed"
    document = json.loads(jwk_of(ANNA))
    assert code_of(parse_private, json.dumps({**document, "d": "AQ"}).encode()) == "layer-key-malformed"
    data = weak.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption())
    assert code_of(parse_private, data) == "key-unsupported"
    assert code_of(jwe_key, RSA.public_key(), "RSA1_5") == "jwe-algorithm"
    assert code_of(encrypt_to_all, [], b"") == "jwe-malformed"


def test_options_have_fixed_sizes() -> None:
    assert code_of(encode_private, bytes(31), bytes(16), "") == "size-mismatch"
    assert code_of(encode_private, bytes(32), bytes(12), "") == "size-mismatch"
    assert code_of(encode_public, bytes(20)) == "size-mismatch"


def test_names_of_places_and_recipients(tmp_path: Path, plain: str) -> None:
    write_key(tmp_path / "anna.key", ANNA)
    (tmp_path / "kek").write_bytes(bytes(32))
    (tmp_path / "short").write_bytes(bytes(31))
    assert read_recipient(f"jwe:{tmp_path}/anna.pub").kid == jwe_key(ANNA.public_key()).kid
    assert read_recipient(f"agent:{tmp_path}/kek:kbs:///a/b/c").kid == "kbs:///a/b/c"
    assert "x00" not in repr(read_recipient(f"agent:{tmp_path}/kek:kbs:///a/b/c"))
    assert code_of(read_recipient, f"agent:{tmp_path}/short:kbs:///a/b/c") == "size-mismatch"
    assert code_of(read_recipient, "pgp:anna") == "recipient-malformed"
    assert code_of(read_recipient, "jwe:/no/such") == "key-unreadable"
    assert code_of(read_recipient, f"jwe/RSA1_5:{tmp_path}/anna.pub") == "jwe-algorithm"
    assert read_opener((), [f"agent:{tmp_path}/kek:kbs:///a/b/c"]).agent == {"kbs:///a/b/c": bytes(32)}
    assert code_of(layers, "tar:x") == "source-unknown"
    assert code_of(layers, plain + ":other") == "source-not-found"


def test_the_commands_with_a_registry(
    server: LocalRegistry, tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    anna, bert = write_key(tmp_path / "anna.key", ANNA), write_key(tmp_path / "bert.key", RSA)
    image = f"docker://{server.host}/ocicrypt:1"
    assert main(["encrypt", plain, image, "--recipient", f"jwe:{tmp_path}/anna.pub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encrypted"] == 2
    words = ["recipients", "add", image, "--key", str(anna), "--recipient", f"jwe/RSA-OAEP:{tmp_path}/bert.pub"]
    assert main(words) == 0
    assert main(["recipients", "remove", image, "--recipient", f"jwe:{tmp_path}/anna.pub"]) == 0
    capsys.readouterr()
    assert main(["recipients", "list", image, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["layers"]
    assert [[one["algorithm"] for one in layer["recipients"]] for layer in listed] == [["RSA-OAEP"]] * 2
    assert main(["decrypt", image, f"oci:{tmp_path}/back:1", "--key", str(anna)]) == 4
    assert main(["decrypt", image, f"oci:{tmp_path}/back:1", "--key", str(bert)]) == 0
    assert [one.digest for one in layers(f"oci:{tmp_path}/back:1")] == [one.digest for one in layers(plain)]
    assert main(["recipients", "remove", image]) == 2


def test_swapped_layers_without_compression(tmp_path: Path) -> None:
    write_layout(tmp_path / "bare", [LOWER, UPPER], compress=False)
    ours = f"oci:{tmp_path}/ours"
    change(f"oci:{tmp_path}/bare", ours, Change(to=(jwe_key(ANNA.public_key()),)))
    with open_place(ours) as (place, pointer):
        document = json.loads((place.store.manifest("", pointer) or (b"",))[0])
        document["layers"].reverse()
        place.store.put_manifest("", "swapped", json.dumps(document).encode())
    opener = Change(opener=Opener((ANNA,)))
    assert code_of(change, ours + ":swapped", f"oci:{tmp_path}/back", opener) == "layer-diff-id-mismatch"
    change(ours + ":latest", f"oci:{tmp_path}/back", opener)
    assert [one.digest for one in layers(f"oci:{tmp_path}/back")] == [
        one.digest for one in layers(f"oci:{tmp_path}/bare")
    ]
