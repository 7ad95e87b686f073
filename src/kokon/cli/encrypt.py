"""`kokon encrypt` and `kokon decrypt`: layers as ocicrypt encrypts them, without the rest of Kokon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.image.ocicrypt.images import Change


def encrypt(
    source: str,
    destination: str,
    *,
    recipient: list[str],
    layer: list[int] | None = None,
    compress: str | None = None,
    key: list[Path] | None = None,
    password_fd: int | None = None,
    sign: Path | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Encrypt the layers of an image for its recipients, as skopeo, buildah and containerd read it.

    Nobody is kept from making another image for the same recipients: sign it too, or seal it.

    Example: kokon encrypt oci:clinic docker://127.0.0.1:5000/clinic:1 --recipient jwe:owner.pem --sign author.key

    Parameters
    ----------
    source
        oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG].
    destination
        As the source.
    recipient
        jwe:FILE with a public key or certificate (PEM, DER, JWK); jwe/RSA-OAEP:FILE for RSA with SHA-1 as old readers
        want it; agent:FILE:kbs:///REPOSITORY/TYPE/TAG for a 32-byte key that the attestation agent gets there.
    layer
        Number of a layer to encrypt, from 0 at the bottom, negative from the top; may be repeated. Default: all.
    compress
        Compress layers anew: gzip, zstd or none. Default: as they are.
    key
        Private key that opens layers that are encrypted already: they are encrypted anew, with new keys.
    password_fd
        File descriptor that the password of --key is read from.
    sign
        Private key that signs what was pushed to a registry, as kokon sign does.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.image.ocicrypt.compress import check_kind
    from kokon.image.ocicrypt.images import Change
    from kokon.image.ocicrypt.places import read_opener, read_recipient

    change = Change(
        to=tuple(read_recipient(text) for text in recipient),
        opener=read_opener(key, password=password(password_fd)) if key else None,
        layers=tuple(layer or ()),
        compression=None if compress is None else check_kind("" if compress == "none" else compress),
    )
    apply(source, destination, change, "encrypted", sign, plain_http=plain_http, json=json)


def decrypt(
    source: str,
    destination: str,
    *,
    key: list[Path] | None = None,
    agent_key: list[str] | None = None,
    layer: list[int] | None = None,
    password_fd: int | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Decrypt the layers of an image, whoever encrypted it. Nothing is kept unless every layer is authentic.

    Example: kokon decrypt docker://127.0.0.1:5000/clinic:1 oci:clinic --key owner-private.pem

    Parameters
    ----------
    source
        oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG].
    destination
        As the source.
    key
        Private key: PKCS#8, PKCS#1, SEC1 (PEM or DER) or JWK.
    agent_key
        agent:FILE:kbs:///REPOSITORY/TYPE/TAG, a key that the attestation agent would get there.
    layer
        Number of a layer to decrypt, from 0 at the bottom; may be repeated. Default: all.
    password_fd
        File descriptor that the password of --key is read from.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.image.ocicrypt.images import Change
    from kokon.image.ocicrypt.places import read_opener

    opener = read_opener(key or (), agent_key or (), password(password_fd))
    change = Change(opener=opener, layers=tuple(layer or ()))
    apply(source, destination, change, "decrypted", plain_http=plain_http, json=json)


def apply(
    source: str,
    destination: str,
    change: Change,
    what: str,
    sign: Path | None = None,
    *,
    plain_http: bool,
    json: bool,
) -> None:
    """Change an image, sign what came of it if there is a key to `sign` with, and print it."""
    from kokon.cli.output import emit, progress
    from kokon.cli.seal import registry_login, source_login
    from kokon.cli.sign import sign_pushed
    from kokon.errors import UsageError
    from kokon.image.ocicrypt.images import change_image
    from kokon.image.ocicrypt.places import open_place
    from kokon.image.reference import parse_reference

    pushed = parse_reference(destination, plain_http=plain_http) if destination.startswith("docker://") else None
    if sign is not None and pushed is None:
        raise UsageError("sign-where", "signatures lie in registries", expected="docker://...", found=destination[:200])
    with (
        open_place(source, plain_http=plain_http, auth=source_login(source, pushed.host if pushed else "")) as (
            here,
            pointer,
        ),
        open_place(destination, create=True, plain_http=plain_http, auth=registry_login()) as (there, tag),
        progress("layers") as update,
    ):
        made = change_image(here, pointer, there, tag, change, update)
    lines = [
        f"{what:<10} {made.changed} layers, {made.kept} kept",
        f"image      {destination}",
        f"digest     {made.digest}",
    ]
    answer = {"image": destination, "digest": made.digest, what: made.changed, "kept": made.kept}
    if sign is not None and pushed is not None:
        signed = sign_pushed(pushed.with_digest(made.digest), sign)
        lines.append(f"signed     {signed.key}")
        answer |= {"key": signed.key, "signatures": dict(signed.places)}
    emit(answer, "\n".join(lines), json)


def password(descriptor: int | None) -> bytes | None:
    """The password that a file descriptor holds, if one is given."""
    from kokon.cli.signing import secret

    return None if descriptor is None else secret(descriptor, "password")
