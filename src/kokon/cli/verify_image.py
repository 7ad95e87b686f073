"""`kokon verify-image`: whether an image's signatures hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from kokon.image.reference import Reference
    from kokon.image.signing.policy import Decision
    from kokon.image.signing.store import Found
    from kokon.image.signing.verify import Held, Refusal


def verify_image(
    image: str,
    *,
    key: tuple[Path, ...] = (),
    policy: Path | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Verify the signatures of an image, in cosign's classic form and as sigstore bundles.

    With --key a signature by one of the keys must hold. With --policy the requirements for the image's name must hold:
    a policy.json as podman and skopeo have it, or a short TOML file (docs/IMAGES.md).

    Example: kokon verify-image 127.0.0.1:5000/clinic:1 --key author.key.pub

    Parameters
    ----------
    image
        HOST/REPOSITORY[:TAG][@DIGEST].
    key
        Public key (PEM) of a signer who is trusted. May be repeated.
    policy
        The policy that decides instead.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.signing import resolve
    from kokon.errors import UsageError
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.image.signing.load import load_public
    from kokon.image.signing.policy import enforce
    from kokon.image.signing.store import find_claims
    from kokon.image.signing.verify import judge, require

    if bool(key) == (policy is not None):
        raise UsageError("verify-by-what", "what is the image verified by?", expected="--key or --policy, not both")
    keys = tuple(load_public(path) for path in key)
    reference = parse_reference(image, plain_http=plain_http)
    with Fetcher(reference.registry, reference.repository) as fetcher:
        digest = resolve(fetcher, reference).digest
        found = find_claims(fetcher, digest)
    if policy is not None:
        decision = enforce(_decided(policy, reference, digest, found))
        _show(reference.with_digest(digest), decision.held, decision.reasons, {"scope": decision.scope}, json)
        return
    judged = judge(found, digest, keys)
    _show(reference.with_digest(digest), require(judged), judged.refused, {}, json)


def _decided(policy: Path, reference: Reference, digest: str, found: Found) -> Decision:
    from kokon.image.signing.identity import Name
    from kokon.image.signing.load import KeyLoader, load_policy
    from kokon.image.signing.policy import decide

    name = Name(f"{reference.host}/{reference.repository}", reference.tag, reference.digest)
    return decide(load_policy(policy), name, digest, found, KeyLoader(policy.absolute().parent))


def _show(
    image: Reference, held: tuple[Held, ...], refused: tuple[Refusal, ...], more: dict[str, Any], json: bool
) -> None:
    from kokon.cli.output import emit

    lines = [f"verified   {image}"]
    lines += [f"{name:<10} {value}" for name, value in more.items()]
    lines += [f"signature  {one.claim.form}, {one.key}, for {one.claim.identity or '(no name)'}" for one in held]
    lines += [f"not        {one.form}: {one.message} [{one.code}]" for one in refused]
    emit(
        {
            "image": str(image),
            "digest": image.digest,
            **more,
            "signatures": [{"form": one.claim.form, "key": one.key, "identity": one.claim.identity} for one in held],
            "refused": [one.as_dict() for one in refused],
        },
        "\n".join(lines),
        json,
    )
