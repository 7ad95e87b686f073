"""What the commands about signatures share: where the image is, who signs, and what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from kokon.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from kokon.image.fetch import Fetcher
    from kokon.image.manifest import Descriptor
    from kokon.image.reference import Reference
    from kokon.image.signing.keys import Signer


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SignerOptions:
    """Who signs.

    Parameters
    ----------
    key
        A private key: from `kokon keygen`, PKCS#8, or cosign's encrypted form.
    password_fd
        File descriptor that an encrypted key's password, or the token's PIN, is read from; else it is asked for.
    pss
        An RSA key signs with PSS instead of PKCS#1 v1.5. Cosign does not read that.
    pkcs11_library
        The PKCS#11 module of a token that signs instead of --key.
    pkcs11_token
        The token's label.
    pkcs11_key
        The key's label in the token.
    """

    key: Path | None = None
    password_fd: int | None = None
    pss: bool = False
    pkcs11_library: Path | None = None
    pkcs11_token: str = ""
    pkcs11_key: str = ""


def signer_of(options: SignerOptions) -> Signer:
    """The signer that is meant. Raises `UsageError` (`signer-needed`), and what loading raises."""
    from kokon.image.signing.load import load_signer
    from kokon.image.signing.token import open_token

    if (options.key is None) == (options.pkcs11_library is None):
        raise UsageError(
            "signer-needed", "who signs?", expected="--key, or --pkcs11-library with --pkcs11-token and --pkcs11-key"
        )
    if options.key is not None:
        return load_signer(options.key, lambda: secret(options.password_fd, "password"), pss=options.pss)
    if options.pkcs11_library is None:
        raise UsageError("signer-needed", "which token signs?", expected="--pkcs11-library")
    pin = secret(options.password_fd, "PIN")
    return open_token(options.pkcs11_library, options.pkcs11_token, options.pkcs11_key, pin)


def secret(descriptor: int | None, what: str, *, twice: bool = False) -> bytes:
    """A password from a file descriptor, else from the terminal. Raises as these do."""
    from kokon.provisioning.custody.inputs import from_descriptor, from_prompt

    return from_prompt(what=what, twice=twice) if descriptor is None else from_descriptor(descriptor, what=what)


def resolve(fetcher: Fetcher, reference: Reference) -> Descriptor:
    """The descriptor of the image's manifest or index. Raises `UnreachableError` (`image-not-found`)."""
    from kokon.image.fetch import hexdigest
    from kokon.image.manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor, is_index

    pointer = reference.pointer
    found = fetcher.manifest(pointer) if reference.digest else fetcher.tagged(pointer)
    if found is None:
        raise UnreachableError(
            "image-not-found",
            "the registry does not have this image",
            expected=reference,
            hint="check the image's name and tag, and that it was pushed to this registry",
        )
    data, media_type = found
    kind = media_type.partition(";")[0] or (INDEX_TYPE if is_index(data, media_type) else MANIFEST_TYPE)
    return Descriptor(kind, hexdigest(data), len(data))
