"""`kokon recipients`: who can open an encrypted image. The ciphertext stays as it is."""

from __future__ import annotations

from pathlib import Path


def add(
    image: str,
    *,
    recipient: list[str],
    key: list[Path],
    to: str | None = None,
    password_fd: int | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Let somebody else open an encrypted image.

    Example: kokon recipients add docker://127.0.0.1:5000/clinic:1 --key owner-private.pem --recipient jwe:new.pem

    Parameters
    ----------
    image
        oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG].
    recipient
        As for kokon encrypt; may be repeated.
    key
        Private key of one of its recipients.
    to
        Where the changed image goes. Default: it takes the tag's place.
    password_fd
        File descriptor that the password of --key is read from.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.encrypt import apply, password
    from kokon.image.ocicrypt.images import Change
    from kokon.image.ocicrypt.places import read_opener, read_recipient

    opener = read_opener(key, password=password(password_fd))
    change = Change(opener=opener, more=tuple(read_recipient(text) for text in recipient))
    apply(image, to or image, change, "changed", plain_http=plain_http, json=json)


def remove(
    image: str,
    *,
    number: list[int] | None = None,
    recipient: list[str] | None = None,
    to: str | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Take recipients out of an encrypted image.

    Whoever could open it before may have kept the keys of its layers: to be sure, encrypt it anew (kokon encrypt
    --key).

    Example: kokon recipients remove oci:clinic --recipient jwe:old.pem

    Parameters
    ----------
    image
        oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG].
    number
        A number from kokon recipients list; may be repeated.
    recipient
        A key that Kokon encrypted the image to: jwe:FILE; may be repeated.
    to
        Where the changed image goes. Default: it takes the tag's place.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.encrypt import apply
    from kokon.errors import UsageError
    from kokon.image.ocicrypt.images import Change
    from kokon.image.ocicrypt.places import read_recipient

    if not number and not recipient:
        raise UsageError("recipient-needed", "who is to be removed?", expected="--number or --recipient")
    kids = tuple(read_recipient(text).kid for text in recipient or ())
    change = Change(without=tuple(number or ()), without_keys=kids)
    apply(image, to or image, change, "changed", plain_http=plain_http, json=json)


def list_recipients(image: str, *, plain_http: bool = False, json: bool = False) -> None:
    """List who can open an encrypted image, layer by layer.

    Example: kokon recipients list docker://127.0.0.1:5000/clinic:1

    Parameters
    ----------
    image
        oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG].
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.cli.seal import registry_login
    from kokon.image.ocicrypt.images import layers_of
    from kokon.image.ocicrypt.places import open_place
    from kokon.image.ocicrypt.recipients import holders

    with open_place(image, plain_http=plain_http, auth=registry_login()) as (place, pointer):
        layers = [(layer, holders(layer.annotations)) for layer in layers_of(place, pointer)]
    lines, data = [], []
    for layer, known in layers:
        lines.append(f"{layer.digest}  {'' if known else 'not encrypted'}".rstrip())
        lines += [f"  {one.number}  {one.scheme:<8} {one.algorithm:<15} {one.key or '-'}" for one in known]
        members = [
            {"number": one.number, "scheme": one.scheme, "algorithm": one.algorithm, "key": one.key} for one in known
        ]
        data.append({"digest": layer.digest, "media_type": layer.media_type, "recipients": members})
    emit({"layers": data}, "\n".join(lines), json)
