"""`kokon secret`: what the provisioning server keeps for enclaves."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access, Source, connect, moment, table
from kokon.cli.output import emit
from kokon.errors import UsageError

if TYPE_CHECKING:
    from kokon.provisioning.secret.request import Terms

SECRET_LIMIT = 1 << 20


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class VersionTerms:
    """What is said of the version that is made.

    Parameters
    ----------
    expires
        When it ends, as 12h, 30d or 2027-01-31T12:00:00Z; it is deleted for good then.
    keep
        How many versions to keep, this one included; default: all.
    previous
        Number of the newest version that you know, 0 for none: if it is another one, nothing is made.
    """

    expires: str | None = None
    keep: int | None = None
    previous: int | None = None

    def read(self) -> Terms:
        """As the client wants them. Raises as `moment`."""
        from kokon.provisioning.secret.request import Terms

        expires = None if self.expires is None else moment(self.expires, datetime.now(UTC))
        return Terms(expires, self.previous, self.keep)


NO_TERMS = VersionTerms()


def put(
    name: str,
    /,
    file: Source | None = None,
    *,
    terms: VersionTerms = NO_TERMS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Store a secret, from standard input or a file; never from the command line, which others can read.

    Example: `pass show clinic/db | kokon secret put clinic/db-password`

    Example: `kokon secret put clinic/tls-key key.pem --expires 90d --keep 2`

    A line end after the last line is part of the secret.

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    file
        Read the secret from this file; - for standard input.
    json
        Print JSON.
    """
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    value = _read(file)
    with connect(access) as client:
        version = client.put(path, value, terms.read())
    answer = {"path": path, "version": version, "size": len(value)}
    emit(answer, f"{path}: version {version}, {len(value)} bytes", json)


def generate(
    name: str,
    /,
    *,
    recipe: str = "bytes:32",
    terms: VersionTerms = NO_TERMS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Have the server make a secret that no human sees; of a key pair, the public half is printed.

    Example: `kokon secret generate clinic/signing-key --recipe ed25519`

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    recipe
        bytes:N, hex:N or base64:N of N random bytes, password:N of N letters and digits, or a key pair (PEM): ed25519,
        x25519, p256, p384, rsa3072, rsa4096.
    json
        Print JSON.
    """
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    with connect(access) as client:
        answer = client.generate(path, recipe, terms.read())
    _made(answer, f"generated ({recipe})", json)


def derive(
    name: str,
    /,
    *,
    per: Literal["workload", "platform", "activation"],
    terms: VersionTerms = NO_TERMS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Have 32 bytes derived for whoever asks: other ones for each workload, chip or attestation.

    Example: `kokon secret derive clinic/disk-key --per platform`

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    per
        workload: the same for all enclaves of a workload; platform: another one on each chip; activation: another one
        at each attestation.
    json
        Print JSON.
    """
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    with connect(access) as client:
        answer = client.derive(path, per, terms.read())
    _made(answer, f"derived per {per}", json)


def rotate(
    name: str,
    /,
    *,
    terms: VersionTerms = NO_TERMS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Make a new version of a secret that was generated or is derived, as the last one was made.

    Example: `kokon secret rotate clinic/signing-key --keep 2`

    A secret that was given is rotated by `kokon secret put`.

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    json
        Print JSON.
    """
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    with connect(access) as client:
        answer = client.rotate(path, terms.read())
    _made(answer, "rotated", json)


def list_secrets(*, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """List the names of secrets and keys; never their values.

    Example: `kokon secret list`

    Parameters
    ----------
    json
        Print JSON.
    """
    with connect(access) as client:
        secrets = client.secrets()
    emit({"secrets": secrets}, table([_row(one) for one in secrets], "no secrets"), json)


def rm(name: str, /, *, version: int | None = None, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Delete a secret for good, all versions of it or one.

    Example: `kokon secret rm clinic/db-password`

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    version
        Delete this version only.
    json
        Print JSON.
    """
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    with connect(access) as client:
        client.delete(path, version)
    answer: dict[str, Any] = {"deleted": path} if version is None else {"deleted": path, "version": version}
    emit(answer, f"{path}: deleted" if version is None else f"{path}: version {version} deleted", json)


def _made(answer: dict[str, Any], how: str, json: bool) -> None:
    """What was made: never the value, which the server keeps to itself."""
    public = answer.get("public", "")
    emit(answer, f"{answer['path']}: version {answer['version']}, {how}\n{public}".rstrip(), json)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    how = f"{one['kind']} ({one['recipe']})" if one.get("recipe") else one["kind"]
    older = len(one["versions"]) - 1
    version = f"version {one['version']}" + (f" and {older} older" if older else "")
    until = f"until {one['expires']}" if one["expires"] else ""
    return one["path"], version, how, one["created"][:19], until


def _read(file: Path | None) -> bytes:
    if file is None or str(file) == "-":
        if sys.stdin.isatty():
            raise UsageError(
                "secret-from-terminal",
                "a secret is read from standard input or a file",
                hint="pipe it in, or name a file",
            )
        value = sys.stdin.buffer.read(SECRET_LIMIT + 1)
    else:
        try:
            with file.open("rb") as source:
                value = source.read(SECRET_LIMIT + 1)
        except OSError as error:
            raise UsageError("secret-unreadable", f"cannot read {file}", found=error.strerror) from error
    if not 0 < len(value) <= SECRET_LIMIT:
        raise UsageError("secret-size", "a secret must not be empty or too large", expected=f"1..{SECRET_LIMIT} bytes")
    return value
