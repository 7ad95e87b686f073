"""`kokon audit witness`: see that a log only grows, and put that into writing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.cli.access import DEFAULT_ACCESS, Access, connect
from kokon.cli.output import emit, note
from kokon.errors import HostError, UntrustedError, UsageError

if TYPE_CHECKING:
    from kokon.provisioning.ledger.keys import SigningKey, VerifierKey
    from kokon.provisioning.witness import Remembered


def keygen(file: Path, /, *, name: str, json: bool = False) -> None:
    """Make a witness's key.

    Example: `kokon audit keygen witness.key --name audit.example.org/clinic`

    FILE gets the private key, readable by you alone; the verifier key, which you give to auditors, is printed.

    Parameters
    ----------
    file
        Where the private key goes; nothing is overwritten.
    name
        What the witness is called, such as a domain and a path.
    json
        Print JSON.
    """
    from kokon.provisioning.witness import encode_witness_key, make_witness_key

    key = make_witness_key(name, secrets.token_bytes)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as target:
            target.write(encode_witness_key(key) + "\n")
    except FileExistsError as error:
        raise UsageError("output-exists", f"{file} exists already, nothing is overwritten") from error
    except OSError as error:
        raise HostError("output-not-written", f"cannot write {file}", found=error.strerror) from error
    emit({"private": str(file), "public": str(key.verifier)}, str(key.verifier), json)


def witness(
    *,
    key: Path,
    state: Path,
    log_key: str | None = None,
    server: bool = False,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Look at a log's head, and cosign it if the log only grew since the last visit. To be run now and then.

    Example: `kokon audit witness --key witness.key --state clinic.witness --log-key clinic.key`

    A log that was rolled back or tells different stories is refused, and what proves it is kept beside the state.

    Parameters
    ----------
    key
        The witness's private key, as `kokon audit keygen` made it.
    state
        Where is kept what was seen last; made at the first visit. One file for each log.
    log_key
        The log's verifier key, or a file with it, for the first visit; default: what the server says then.
    server
        The server's own log instead.
    json
        Print JSON.
    """
    from kokon.cli.log import read_key
    from kokon.provisioning.custody.files import replace_private
    from kokon.provisioning.witness import encode_memory, visit

    signer = _signer(key)
    with _locked(state), connect(access) as client:
        last = _remembered(state)
        pinned = read_key(log_key) if log_key else None
        verifier = _log_key(last, pinned) or client.log_key(server=server)
        data, proof = client.consistency(last.checkpoint.size if last else 0, server=server)
        try:
            cosigned, remembered = visit(signer, verifier, last, data, proof, datetime.now(UTC))
        except UntrustedError:
            _keep_proof(state, data)
            raise
        replace_private(state, encode_memory(remembered))
        client.add_cosignature(data, cosigned.line, signer.verifier, server=server)
    head = cosigned.checkpoint
    told = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "witness": str(signer.verifier)}
    told["log_key"] = str(verifier)
    emit(told, f"{head.origin}: cosigned {head.size} entries, root {head.root.hex()}", json)
    if last is None and pinned is None:
        note(f"the log's key was taken from the server, compare it with what the owner published: {verifier}")


def _log_key(last: Remembered | None, pinned: VerifierKey | None) -> VerifierKey | None:
    if last is not None and pinned is not None and last.key != pinned:
        raise UntrustedError(
            "log-other",
            "the log's key is another one than at the last visit",
            expected=str(last.key),
            found=str(pinned),
            hint="each log needs a --state of its own",
        )
    return last.key if last is not None else pinned


def _signer(path: Path) -> SigningKey:
    from kokon.cli.inputs import read_input
    from kokon.provisioning.witness import KEY_LIMIT, parse_witness_key

    return parse_witness_key(read_input(path, KEY_LIMIT).decode("utf-8", "replace").strip())


def _remembered(path: Path) -> Remembered | None:
    from kokon.cli.inputs import read_input
    from kokon.provisioning.witness import MEMORY_LIMIT, parse_memory

    return parse_memory(read_input(path, MEMORY_LIMIT)) if path.exists() else None


def _keep_proof(state: Path, data: bytes) -> None:
    """Write the head that was refused beside the state, for others to judge."""
    path = state.with_name(f"{state.name}.refused")
    with contextlib.suppress(OSError):
        path.write_bytes(data)
        note(f"the head that was refused is kept in {path}")


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One visit at a time: two at once could cosign two stories. Raises `HostError` (`witness-busy`,
    `output-not-written`)."""
    try:
        descriptor = os.open(state.with_name(f"{state.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError("output-not-written", f"cannot write beside {state}", found=error.strerror) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise HostError("witness-busy", "another visit with this state is under way") from error
    finally:
        os.close(descriptor)
