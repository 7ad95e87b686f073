"""Where passphrases and PINs come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from custody_kit import refused

from kokon.errors import HostError, MalformedError, UsageError
from kokon.provisioning.custody.inputs import INPUT_LIMIT, from_credential, from_descriptor, from_prompt


def piped(data: bytes) -> int:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"words", b"words"),
        (b"words\n", b"words"),
        (b"words\r\n", b"words"),
        (b"words\n\n", b"words\n"),
        (b" words \n", b" words "),
        (b"\xff\0\n", b"\xff\0"),
        (b"x" * INPUT_LIMIT + b"\r\n", b"x" * INPUT_LIMIT),
    ],
)
def test_a_descriptor_is_read_to_its_end(data: bytes, found: bytes) -> None:
    descriptor = piped(data)
    assert from_descriptor(descriptor) == found
    os.close(descriptor)


def test_a_descriptor_in_pieces() -> None:
    read, write = os.pipe()
    os.write(write, b"wo")
    import threading

    def rest() -> None:
        os.write(write, b"rds\n")
        os.close(write)

    timer = threading.Timer(0.02, rest)
    timer.start()
    assert from_descriptor(read) == b"words"
    timer.join()
    os.close(read)


def test_descriptors_that_give_nothing_good() -> None:
    for data, code in ((b"", "input-empty"), (b"\n", "input-empty"), (b"x" * (INPUT_LIMIT + 1), "input-too-long")):
        descriptor = piped(data)
        with refused(code, MalformedError):
            from_descriptor(descriptor, what="PIN")
        os.close(descriptor)
    with refused("input-unreadable", UsageError):
        from_descriptor(descriptor)


def test_an_endless_descriptor_is_not_read_for_ever() -> None:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    with refused("input-too-long", MalformedError):
        from_descriptor(descriptor)
    os.close(descriptor)


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "passphrase").write_bytes(b"words\n")
    (tmp_path / "passphrase").chmod(0o400)
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_a_credential(credentials: dict[str, str]) -> None:
    assert from_credential("passphrase", credentials) == b"words"


@pytest.mark.parametrize("name", ["other", "../passphrase", "", ".", "a/b", "directory", "link", "pipe"])
def test_credentials_that_are_not_there(credentials: dict[str, str], tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "passphrase")
    os.mkfifo(tmp_path / "pipe")
    with refused("credential-missing", UsageError):
        from_credential(name, credentials)


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": ""}, {"CREDENTIALS_DIRECTORY": "relative"}])
def test_no_directory_of_credentials(environment: dict[str, str]) -> None:
    with refused("credential-missing", UsageError):
        from_credential("passphrase", environment)


def test_a_secret_in_the_environment_is_never_used(credentials: dict[str, str]) -> None:
    with refused("credential-missing", UsageError):
        from_credential("passphrase", {"passphrase": "words", "PASSPHRASE": "words"})


def test_a_credential_that_everyone_reads(credentials: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "passphrase").chmod(0o444)
    with refused("key-file-exposed", UsageError):
        from_credential("passphrase", credentials)


def test_the_prompt() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "wörter"

    assert from_prompt(ask=ask) == "wörter".encode()
    assert from_prompt(ask=ask, what="PIN", twice=True) == "wörter".encode()
    assert asked == ["passphrase: ", "PIN: ", "PIN again: "]


def test_prompts_that_fail() -> None:
    answers = iter(["one", "two"])
    with refused("input-differs", UsageError):
        from_prompt(twice=True, ask=lambda _prompt: next(answers))
    with refused("input-empty", MalformedError):
        from_prompt(ask=lambda _prompt: "")
    with refused("input-too-long", MalformedError):
        from_prompt(ask=lambda _prompt: "x" * (INPUT_LIMIT + 1))

    def closed(_prompt: str) -> str:
        raise EOFError

    with refused("terminal-missing", HostError):
        from_prompt(ask=closed)
    with refused("terminal-missing", HostError):
        from_prompt(ask=lambda _prompt: "\udc80")
