"""`kokon keygen`: an author's signing key."""

from __future__ import annotations

from pathlib import Path


def keygen(file: Path, *, json: bool = False) -> None:
    """Make an author's signing key (ECDSA P-256).

    FILE gets the private key, readable by you alone; FILE.pub gets the public key, which you give to owners and users.
    Nothing is overwritten.

    Example: kokon keygen author.key

    Parameters
    ----------
    file
        Where the private key goes.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.image.sign import fingerprint, generate_key, public_path

    name = fingerprint(generate_key(file).public_key())
    public = public_path(file)
    emit(
        {"private": str(file), "public": str(public), "fingerprint": name},
        f"private key  {file}\npublic key   {public}\nfingerprint  {name}",
        json,
    )
