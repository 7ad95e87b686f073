"""What is generated: the whole range of recipes, fair passwords, and no value from a broken source."""

from __future__ import annotations

import base64
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.derive import make_base
from kokon.provisioning.secret.generate import DEFAULT, Recipe, generate, parse_recipe

LIMITS = {"bytes": 1024, "hex": 1024, "base64": 1024, "password": 256}


class Tape:
    """Randomness that is written down."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, list[int]()

    def __call__(self, size: int) -> bytes:
        self.asked.append(size)
        taken, self.data = self.data[:size], self.data[size:]
        return taken


@pytest.mark.parametrize("kind", LIMITS)
def test_sizes_from_the_least_to_the_most(kind: str) -> None:
    most = LIMITS[kind]
    for size in (16, most):
        assert parse_recipe(f"{kind}:{size}") == Recipe(kind, size)
    for size in (0, 15, most + 1, 10**9):
        with pytest.raises(KokonError) as caught:
            parse_recipe(f"{kind}:{size}")
        assert caught.value.code == "secret-recipe"


@given(st.one_of(st.text(max_size=20), st.from_regex(r"\A[a-z0-9]{1,8}:?[0-9]{0,5}\n?\Z")))
def test_a_recipe_has_one_spelling(text: str) -> None:
    try:
        recipe = parse_recipe(text)
    except KokonError as error:
        code = error.code
    else:
        code = "secret-recipe" if str(recipe) != text else ""
    assert code in ("", "secret-recipe")
    assert (code == "") == (text in ("uuid", "ed25519", "x25519", "p256", "p384", "rsa3072", "rsa4096") or _sized(text))


def _sized(text: str) -> bool:
    kind, _, size = text.partition(":")
    return kind in LIMITS and size in map(str, range(16, LIMITS[kind] + 1))


@pytest.mark.parametrize("text", ["uuid:16", "uuid\n", "bytes:32\n", "bytes:٣٢", "BYTES:32", "p256:32", "bytes: 32"])
def test_near_recipes(text: str) -> None:
    with pytest.raises(KokonError) as caught:
        parse_recipe(text)
    assert caught.value.code == "secret-recipe"


def test_without_a_recipe_it_is_32_bytes() -> None:
    assert str(parse_recipe()) == DEFAULT == "bytes:32"
    assert len(generate(parse_recipe(), bytes).value) == 32


@given(st.binary(min_size=16, max_size=16))
def test_a_uuid_is_random_but_for_version_and_variant(entropy: bytes) -> None:
    """RFC 9562 section 5.4."""
    made = generate(parse_recipe("uuid"), Tape(entropy))
    found = uuid.UUID(made.value.decode())
    assert (found.version, found.variant, made.value) == (4, uuid.RFC_4122, str(found).encode())
    mask = int("ffffffffffff0fff3fffffffffffffff", 16)
    assert found.int & mask == int.from_bytes(entropy) & mask
    assert (made.kind, made.recipe, made.public) == ("generated", "uuid", "")


@given(st.binary(min_size=1024, max_size=1024), st.integers(16, 1024))
def test_all_randomness_asked_for_is_in_the_value(entropy: bytes, size: int) -> None:
    readers: dict[str, Callable[[bytes], bytes]] = {
        "bytes": bytes,
        "hex": lambda value: bytes.fromhex(value.decode()),
        "base64": lambda value: base64.b64decode(value, validate=True),
    }
    for kind, read in readers.items():
        assert read(generate(Recipe(kind, size), Tape(entropy)).value) == entropy[:size]


def test_every_letter_comes_of_as_many_bytes() -> None:
    """All 256 bytes once: 62 characters four times each, and 8 bytes thrown away."""
    tape = Tape(bytes(range(256)) + b"a" * 256)
    made = generate(parse_recipe("password:256"), tape).value
    counts = Counter(made[:248])
    assert (len(counts), set(counts.values())) == (62, {4})
    assert made[:248].isalnum()
    assert made[:248].isascii()
    assert tape.asked == [256, 256]


@pytest.mark.parametrize("recipe", ["bytes:32", "hex:32", "base64:32", "password:32", "uuid"])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_source_that_gives_too_few_or_too_many_bytes_is_refused(recipe: str, wrong: int) -> None:
    with pytest.raises(KokonError) as caught:
        generate(parse_recipe(recipe), lambda size: bytes(size + wrong))
    assert caught.value.code == "secret-randomness"
    with pytest.raises(KokonError) as caught:
        make_base("workload", lambda size: bytes(size + wrong))
    assert caught.value.code == "secret-randomness"


def test_a_source_that_is_stuck_ends() -> None:
    with pytest.raises(KokonError) as caught:
        generate(parse_recipe("password:16"), lambda size: b"\xff" * size)
    assert caught.value.code == "secret-randomness"


@pytest.mark.parametrize(
    ("recipe", "kind", "detail"),
    [
        ("ed25519", ed25519.Ed25519PrivateKey, None),
        ("x25519", x25519.X25519PrivateKey, None),
        ("p256", ec.EllipticCurvePrivateKey, "secp256r1"),
        ("p384", ec.EllipticCurvePrivateKey, "secp384r1"),
        ("rsa3072", rsa.RSAPrivateKey, 3072),
        ("rsa4096", rsa.RSAPrivateKey, 4096),
    ],
)
def test_key_pairs_are_of_the_kind_asked_for(recipe: str, kind: type, detail: object) -> None:
    made = generate(parse_recipe(recipe), _none)
    private, public = load_pem_private_key(made.value, None), load_pem_public_key(made.public.encode())
    assert isinstance(private, kind)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        assert private.curve.name == detail
    if isinstance(private, rsa.RSAPrivateKey):
        assert (private.key_size, private.public_key().public_numbers().e) == (detail, 65537)
    assert private.public_key() == public
    assert made.value.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert made.public.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert made.value.splitlines()[1].decode() not in repr(made)


def _none(size: int) -> bytes:
    raise AssertionError("key pairs are made with the library's randomness")
