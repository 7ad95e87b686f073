"""`kokon scan`: secrets that must not be in an image."""

from __future__ import annotations


def scan(image: str, *, allow: tuple[str, ...] = (), plain_http: bool = False, json: bool = False) -> int:
    """Look for private keys, tokens and passwords in all layers of an image and in its configuration and history.

    Prints where each is, and never the secret. The exit status is 5 if any is found that is not allowed. `kokon seal`
    looks in the same way and refuses.

    Example: kokon scan oci:clinic --allow private-key:/app/test/key.pem

    Parameters
    ----------
    image
        The image: oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://HOST/REPOSITORY.
    allow
        RULE:PATH of a finding that is none to you. May be repeated.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit, progress
    from kokon.cli.seal import registry_login
    from kokon.errors import DeniedError
    from kokon.image.scan.refuse import not_allowed, parse_allowed
    from kokon.image.scan.scan import scan_image
    from kokon.image.source import open_source

    allowed = parse_allowed(allow)
    with (
        open_source(image, plain_http=plain_http, auth=registry_login()) as source,
        progress("looking for secrets") as update,
    ):
        findings = scan_image(source, update)
    left = not_allowed(findings, allowed)
    emit(
        {"image": image, "findings": [one.as_dict() for one in left], "allowed": len(findings) - len(left)},
        "\n".join(f"{one}\n    allow it: {one.name}" for one in left) or "no secrets found",
        json,
    )
    return DeniedError.exit_status if left else 0
