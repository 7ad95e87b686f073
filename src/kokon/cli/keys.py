"""`kokon keygen`: an author's signing key."""

from __future__ import annotations

from pathlib import Path


def keygen(
    file: Path, *, algorithm: str = "p256", encrypt: bool = False, password_fd: int | None = None, json: bool = False
) -> None:
    """Make an author's signing key.

    FILE gets the private key, readable by you alone; FILE.pub gets the public key, which you give to owners and users.
    Nothing is overwritten. Identity statements and sealed images take P-256 and P-384; `kokon sign` takes them all.

    Example: kokon keygen author.key

    Parameters
    ----------
    file
        Where the private key goes.
    algorithm
        p256, p384, ed25519 or rsa.
    encrypt
        Encrypt the private key with a password, in the form that cosign reads.
    password_fd
        File descriptor that the password is read from; else it is asked for.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.cli.signing import secret
    from kokon.image.signing.keys import fingerprint
    from kokon.image.signing.load import write_key

    password = secret(password_fd, "password", twice=True) if encrypt or password_fd is not None else None
    name = fingerprint(write_key(file, algorithm, password).public_key())
    public = file.with_name(file.name + ".pub")
    emit(
        {"private": str(file), "public": str(public), "fingerprint": name},
        f"private key  {file}\npublic key   {public}\nfingerprint  {name}",
        json,
    )
