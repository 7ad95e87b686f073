"""The holder by passphrase."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from custody_kit import MASTER, refused
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody import passphrase
from kokon.provisioning.custody.passphrase import (
    MEMORY_HIGH,
    RFC9106_FIRST,
    RFC9106_SECOND,
    WORK_HIGH,
    WORK_LOW,
    Cost,
    PassphraseHolder,
    check_cost,
)

WORDS = b"correct horse battery staple"


@pytest.fixture(scope="module")
def file() -> bytes:
    return PassphraseHolder(WORDS).wrap(MASTER)


def with_parameters(file: bytes, **parameters: Any) -> bytes:
    members = json.loads(file)
    members["parameters"].update(parameters)
    return json.dumps(members).encode()


def test_who_knows_the_passphrase_has_the_key(file: bytes) -> None:
    holder = PassphraseHolder(WORDS)
    assert holder.open(file).same_as(MASTER)
    assert holder.name == "passphrase"
    assert "horse" not in repr(holder)
    assert json.loads(file)["parameters"] == {
        "kdf": "argon2id",
        "iterations": 3,
        "lanes": 4,
        "memory-kib": 65536,
        "salt": json.loads(file)["parameters"]["salt"],
    }


def test_salt_and_nonce_are_new_each_time(file: bytes) -> None:
    again = PassphraseHolder(WORDS).wrap(MASTER)
    for read in (lambda members: members["parameters"]["salt"], lambda members: members["nonce"]):
        assert read(json.loads(file)) != read(json.loads(again))


@pytest.mark.parametrize("wrong", [b"", b"correct horse battery stapl", WORDS + b"\n", WORDS.upper()])
def test_wrong_passphrases(file: bytes, wrong: bytes) -> None:
    with refused("passphrase-wrong", UntrustedError):
        PassphraseHolder(wrong).open(file)


def test_another_files_salt(file: bytes) -> None:
    with refused("passphrase-wrong", UntrustedError):
        PassphraseHolder(WORDS).open(with_parameters(file, salt="A" * 22 + "=="))


@pytest.mark.parametrize(
    "parameters",
    [
        {"memory-kib": 100 << 20},
        {"memory-kib": MEMORY_HIGH + 1, "iterations": 1},
        {"memory-kib": 8, "iterations": 64},
        {"memory-kib": 65535},
        {"iterations": 2},
        {"iterations": 0},
        {"iterations": 2**40},
        {"memory-kib": MEMORY_HIGH, "iterations": 5},
        {"lanes": 0},
        {"lanes": 17},
    ],
)
def test_a_hostile_file_gets_no_memory_and_no_time(
    file: bytes, parameters: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(**_parameters: object) -> None:
        pytest.fail("Argon2id was started")

    monkeypatch.setattr(passphrase, "Argon2id", never)
    with refused("passphrase-cost", MalformedError):
        PassphraseHolder(WORDS).open(with_parameters(file, **parameters))


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"kdf": "argon2i"}, "master-format"),
        ({"kdf": 1}, "field-type"),
        ({"memory-kib": "65536"}, "field-type"),
        ({"memory-kib": -1}, "field-range"),
        ({"salt": ""}, "size-mismatch"),
        ({"secret": "x"}, "field-unknown"),
    ],
)
def test_malformed_parameters(file: bytes, parameters: dict[str, Any], code: str) -> None:
    with refused(code, MalformedError):
        PassphraseHolder(WORDS).open(with_parameters(file, **parameters))


def test_weak_costs_are_not_written() -> None:
    for cost in (replace(RFC9106_SECOND, iterations=1), replace(RFC9106_SECOND, memory=1 << 12)):
        with refused("passphrase-cost", MalformedError):
            PassphraseHolder(WORDS, cost).wrap(MASTER)


def test_both_recommendations_of_the_rfc_are_allowed() -> None:
    check_cost(RFC9106_FIRST)
    check_cost(RFC9106_SECOND)


@given(st.builds(Cost, st.integers(-1, 2**22), st.integers(-1, 80), st.integers(-1, 20)))
def test_no_cost_beyond_the_bounds_passes(cost: Cost) -> None:
    try:
        check_cost(cost)
    except MalformedError:
        return
    assert WORK_LOW <= cost.memory * cost.iterations <= WORK_HIGH
    assert cost.memory <= MEMORY_HIGH


def test_passphrases_of_bad_length(file: bytes) -> None:
    with refused("passphrase-short", UsageError):
        PassphraseHolder(b"elevenbytes").wrap(MASTER)
    with refused("passphrase-long", UsageError):
        PassphraseHolder(b"x" * 1025).wrap(MASTER)
    with refused("passphrase-long", UsageError):
        PassphraseHolder(b"x" * 1025).open(file)


def test_too_little_memory(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poor:
        def __init__(self, **_parameters: object) -> None:
            pass

        def derive(self, _passphrase: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(passphrase, "Argon2id", Poor)
    with refused("memory-short", HostError):
        PassphraseHolder(WORDS).open(file)


def test_the_wrapping_key_is_argon2id(file: bytes) -> None:
    """The file opens with nothing but the RFC's function and AES-GCM: the format is what it says."""
    import base64

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    members = json.loads(file)
    salt, nonce, sealed = (
        base64.b64decode(text) for text in (members["parameters"]["salt"], members["nonce"], members["sealed"])
    )
    key = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536).derive(WORDS)
    header = {name: members[name] for name in ("format", "version", "holder", "master", "parameters")}
    data = b"kokon master key\0" + json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    assert AESGCM(key).decrypt(nonce, sealed, data) == MASTER.key
