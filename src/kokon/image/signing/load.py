"""Keys and policies from files. [edge: files]"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import HostError, MalformedError, UsageError
from kokon.image.ecdsa import PEM_LIMIT
from kokon.image.signing.keyfiles import encode_cosign, encode_plain, parse_private
from kokon.image.signing.keys import KeySigner, PrivateKey, PublicKey, make_key, parse_public, public_pem
from kokon.image.signing.policyfile import POLICY_LIMIT, parse_policy, parse_policy_toml

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.image.signing.policy import Policy, Requirement


def read_small(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises `UsageError` (`key-unreadable`), `MalformedError`
    (`key-malformed`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError("key-unreadable", f"cannot read {path}", found=error.strerror) from error
    if len(data) > limit:
        raise MalformedError("key-malformed", f"{path} is too large", expected=f"<= {limit} bytes")
    return data


def load_signer(path: Path, password: Callable[[], bytes], *, pss: bool = False) -> KeySigner:
    """The private key of a file: PKCS#8 or cosign's. Raises as `read_small` and `parse_private`."""
    return KeySigner(parse_private(read_small(path, PEM_LIMIT), password), pss)


def load_public(path: Path) -> PublicKey:
    """The public key of a PEM file. Raises as `read_small` and `parse_public`."""
    return parse_public(read_small(path, PEM_LIMIT))


def load_policy(path: Path) -> Policy:
    """A policy: TOML if the file's name ends so, else policy.json. Raises as `read_small`, `parse_policy` and
    `parse_policy_toml`."""
    data = read_small(path, POLICY_LIMIT)
    return parse_policy_toml(data) if path.suffix == ".toml" else parse_policy(data)


@dataclass(frozen=True, slots=True)
class KeyLoader:
    """Reads the keys of a requirement; relative paths are below `folder`, where the policy is."""

    folder: Path

    def __call__(self, requirement: Requirement) -> tuple[PublicKey, ...]:
        """The keys. Raises as `load_public`."""
        files = tuple(load_public(self.folder / path) for path in requirement.paths)
        return files + tuple(parse_public(data) for data in requirement.data)


def write_key(path: Path, algorithm: str, password: bytes | None = None) -> PrivateKey:
    """Make a key of the kind `algorithm` at `path` (mode 0600), with `password` in cosign's encrypted form, and its
    public half at `path` with `.pub` added.

    Raises `UsageError` (`key-algorithm`, `key-exists`), `HostError` (`key-not-written`).
    """
    key = make_key(algorithm)
    public = path.with_name(path.name + ".pub")
    _write_new(path, encode_plain(key) if password is None else encode_cosign(key, password), 0o600)
    try:
        _write_new(public, public_pem(key.public_key()).encode(), 0o644)
    except (UsageError, HostError):
        path.unlink()
        raise
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
    except FileExistsError as error:
        raise UsageError(
            "key-exists", f"{path} is there already", hint="a key is never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise HostError("key-not-written", f"cannot write {path}", found=error.strerror) from error
