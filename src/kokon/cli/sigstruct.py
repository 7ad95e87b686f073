"""`kokon sigstruct`: the certificate of an SGX enclave, signed here or with a key that lives elsewhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.inputs import read_input, write_output
from kokon.cli.output import emit
from kokon.errors import KokonError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from kokon.tee.sgx.sigstruct import Sigstruct

KEY_LIMIT = 64 << 10


def show(file: Path, *, json: bool = False) -> int:
    """Show a SIGSTRUCT and check its signature; a wrong one ends with status 1.

    Example: kokon sigstruct show app.sig

    Parameters
    ----------
    file
        The SIGSTRUCT, 1808 bytes.
    json
        Print JSON.
    """
    from kokon.tee.sgx.sigstruct import SIZE, parse_sigstruct, verify_sigstruct

    sigstruct = parse_sigstruct(read_input(file, SIZE))
    signature = "valid"
    if not sigstruct.modulus and not sigstruct.signature:
        signature = "none"
    else:
        try:
            verify_sigstruct(sigstruct)
        except KokonError as error:
            signature = f"WRONG: {error.message}"
    answer = _described(sigstruct) | {"signature": signature}
    emit(answer, "\n".join(f"{name:<20} {value}" for name, value in answer.items()), json)
    return 0 if signature == "valid" else 1


def make(
    output: Path,
    *,
    key: Path | None = None,
    sgxs: Path | None = None,
    manifest: Path | None = None,
    libpal: Path | None = None,
    mrenclave: str | None = None,
    product_id: int | None = None,
    svn: int | None = None,
    debug: bool = False,
    day: str | None = None,
    json: bool = False,
) -> None:
    """Make a SIGSTRUCT for an enclave, and sign it if the key is at hand.

    Without --key the structure is written unsigned, and beside it, as .tbs, what the key must sign (RSA, PKCS#1 v1.5,
    SHA-256); `kokon sigstruct assemble` puts the signature in.

    Example: kokon sigstruct make app.sig --manifest app.manifest.sgx --libpal libpal.so --key enclave-key.pem

    Parameters
    ----------
    output
        Where the SIGSTRUCT goes; nothing is overwritten.
    key
        The signing key: PEM, RSA of 3072 bits with exponent 3.
    sgxs
        The enclave in SGXS format.
    manifest
        Gramine's final manifest, which also says product id, SVN, debug and CPU features.
    libpal
        Gramine's loader, sgx/libpal.so.
    mrenclave
        MRENCLAVE in hex, if the enclave was measured elsewhere.
    product_id
        ISVPRODID; default: the manifest's, else 0.
    svn
        ISVSVN; default: the manifest's, else 0.
    debug
        Admit the enclave to be debugged: never for one that keeps secrets.
    day
        The date in it, as 2026-11-23; default: today.
    json
        Print JSON.
    """
    from kokon.tee.sgx.sigstruct import DEBUG, sign

    base = _unsigned(sgxs, manifest, libpal, mrenclave, _day(day))
    sigstruct = replace(
        base,
        product_id=base.product_id if product_id is None else product_id,
        security_version=base.security_version if svn is None else svn,
        flags=base.flags | (DEBUG if debug else 0),
    )
    if key is None:
        _write_unsigned(sigstruct, output, json)
    else:
        _write_signed(sign(sigstruct, _private_key(key)), output, json)


def _write_signed(sigstruct: Sigstruct, output: Path, json: bool) -> None:
    from kokon.tee.sgx.sigstruct import encode

    write_output(output, encode(sigstruct))
    emit(_described(sigstruct) | {"file": str(output)}, f"signed: {output}", json)


def _write_unsigned(sigstruct: Sigstruct, output: Path, json: bool) -> None:
    from kokon.tee.sgx.sigstruct import encode, to_be_signed

    data, request = encode(sigstruct), output.with_name(output.name + ".tbs")
    write_output(output, data)
    write_output(request, to_be_signed(sigstruct))
    text = (
        f"unsigned: {output}\nto be signed: {request}\nthen: kokon sigstruct assemble {output} SIGNATURE --key PUBLIC"
    )
    emit(_described(sigstruct) | {"file": str(output), "to_be_signed": str(request)}, text, json)


def assemble(unsigned: Path, signature: Path, *, key: Path, output: Path, json: bool = False) -> None:
    """Put a signature that was made elsewhere into an unsigned SIGSTRUCT, and check it.

    Example: kokon sigstruct assemble app.sig.unsigned app.signature --key enclave-key.pub --output app.sig

    Parameters
    ----------
    unsigned
        The SIGSTRUCT that `kokon sigstruct make` wrote.
    signature
        The signature over its .tbs file: 384 bytes, as openssl and hardware modules write it.
    key
        The public key (PEM).
    output
        Where the signed SIGSTRUCT goes; nothing is overwritten.
    json
        Print JSON.
    """
    from kokon.tee.sgx import sigstruct as structure

    empty = structure.parse_sigstruct(read_input(unsigned, structure.SIZE))
    numbers = _public_key(key).public_numbers()
    if numbers.e != structure.EXPONENT:
        raise _bad_key(key)
    signed = structure.assemble(empty, numbers.n, read_input(signature, structure.KEY_SIZE))
    _write_signed(signed, output, json)


def _unsigned(
    sgxs: Path | None, manifest: Path | None, libpal: Path | None, mrenclave: str | None, day: date
) -> Sigstruct:
    from kokon.cli.measure import enclave
    from kokon.tee.sgx.gramine import gramine_sigstruct, parse_manifest
    from kokon.tee.sgx.sigstruct import Sigstruct
    from kokon.wire import unhex

    if mrenclave is not None and sgxs is None and libpal is None:
        measured = unhex(mrenclave, what="--mrenclave", size=32)
    else:
        measured = enclave(sgxs, manifest, libpal)
    if manifest is not None:
        return gramine_sigstruct(parse_manifest(read_input(manifest, 64 << 20)), measured, day)
    return Sigstruct(mrenclave=measured, date=day)


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError("date-malformed", "not a date", expected="as 2026-11-23", found=text) from error


def _bad_key(path: Path) -> UsageError:
    return UsageError(
        "enclave-key",
        f"{path} holds no key that enclaves can be signed with",
        expected="PEM, RSA of 3072 bits, exponent 3, no passphrase",
        hint="openssl genrsa -3 -out enclave-key.pem 3072",
    )


def _private_key(path: Path) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_input(path, KEY_LIMIT), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(path) from error
    if not isinstance(key, RSAPrivateKey):
        raise _bad_key(path)
    return key


def _public_key(path: Path) -> RSAPublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_input(path, KEY_LIMIT))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(path) from error
    if not isinstance(key, RSAPublicKey):
        raise _bad_key(path)
    return key


def _described(sigstruct: Sigstruct) -> dict[str, Any]:
    return {
        "mrenclave": sigstruct.mrenclave.hex(),
        "mrsigner": sigstruct.mrsigner.hex() if sigstruct.modulus else None,
        "product_id": sigstruct.product_id,
        "security_version": sigstruct.security_version,
        "debug": sigstruct.debug,
        "date": sigstruct.date.isoformat(),
        "attributes": f"{sigstruct.flags:#x}",
        "attributes_mask": f"{sigstruct.flags_mask:#x}",
        "xfrm": f"{sigstruct.xfrm:#x}",
        "xfrm_mask": f"{sigstruct.xfrm_mask:#x}",
        "miscselect": f"{sigstruct.miscselect:#x}",
        "family_id": sigstruct.family_id.hex(),
        "extended_product_id": sigstruct.extended_product_id.hex(),
        "vendor": f"{sigstruct.vendor:#x}",
    }
