"""`kokon policy`: what a project demands of platforms, attestations and requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kokon.cli.access import DEFAULT_ACCESS, Access, Source, connect, table
from kokon.cli.output import emit, note
from kokon.errors import UsageError

KINDS = ("platform", "attestation", "resource")
POLICY_LIMIT = 1 << 20


def list_policies(*, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """List the policies that a project has of its own; for what it has not, the server's hold.

    Example: `kokon policy list`

    Parameters
    ----------
    json
        Print JSON.
    """
    with connect(access) as client:
        policies = client.policies()
    emit({"policies": policies}, table([_row(one) for one in policies], "no policies: the server's hold"), json)


def show(policy: str, /, *, history: bool = False, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Print a policy's text, or what it was before.

    Example: `kokon policy show platform`

    Parameters
    ----------
    policy
        platform, attestation[/NAME] or resource[/NAME].
    history
        List its versions instead: each names the digest of the one before it.
    json
        Print JSON.
    """
    kind, name = _place(policy)
    with connect(access) as client:
        answer = client.policy(kind, name)
    if history:
        emit({"history": answer["history"]}, table([_version(one) for one in answer["history"]], "no versions"), json)
        return
    emit(answer, answer["text"].removesuffix("\n"), json)
    note(f"{kind}/{name} version {answer['version']}, digest {answer['digest']}")


def set_policy(
    policy: str,
    file: Source,
    /,
    *,
    previous: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Set a policy. The server tries it first, and refuses one that cannot be used.

    Example: `kokon policy set platform strict.toml`

    Parameters
    ----------
    policy
        platform (TOML, docs/POLICY.md), attestation[/NAME] or resource[/NAME] (Rego); without a NAME: default.
    file
        The policy's text; - for standard input.
    previous
        Digest of the policy that you have seen (`none` for no policy): if it was changed meanwhile, nothing is set.
    json
        Print JSON.
    """
    kind, name = _place(policy)
    text = read_text(file, POLICY_LIMIT)
    with connect(access) as client:
        answer = client.set_policy(kind, name, text, digest_option(previous))
    emit(answer, f"{kind}/{name}: version {answer['version']}, digest {answer['digest']}", json)


def rm(policy: str, /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Remove a policy: the server's own holds again.

    Example: `kokon policy rm platform`

    Parameters
    ----------
    policy
        platform, attestation[/NAME] or resource[/NAME].
    json
        Print JSON.
    """
    kind, name = _place(policy)
    with connect(access) as client:
        client.remove_policy(kind, name)
    emit({"deleted": f"{kind}/{name}"}, f"{kind}/{name}: removed", json)


def digest_option(text: str | None) -> str | None:
    """`--previous` as typed: a digest, `none` for no record, absent for whatever there is."""
    return "" if text == "none" else text


def read_text(path: Path, limit: int) -> str:
    """A text file, or standard input for `-`. Raises `UsageError` (`file-unreadable`, `input-too-large`)."""
    import sys

    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("file-unreadable", f"cannot read {path} as text", found=error) from error
    if len(data) > limit:
        raise UsageError("input-too-large", f"{path} is too large", expected=f"<= {limit} bytes")
    return text


def _place(text: str) -> tuple[str, str]:
    kind, _, name = text.partition("/")
    if kind not in KINDS:
        raise UsageError(
            "policy-kind",
            "there is no such kind of policy",
            expected="platform, attestation[/NAME] or resource[/NAME]",
            found=repr(text[:80]),
        )
    return kind, name or ("resource-policy" if kind == "resource" else "default")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return f"{one['kind']}/{one['name']}", f"version {one['version']}", one["created"][:19], one["digest"]


def _version(one: dict[str, Any]) -> tuple[str, ...]:
    return f"version {one['version']}", one["created"][:19], one["digest"], f"by {one['by']}"
