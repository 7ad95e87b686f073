"""`kokon verify`: is the other end what it should be?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kokon.cli.hardware import DEFAULT_HARDWARE, Hardware
from kokon.cli.peer import DEFAULT_TRUSTED, Trusted, peer_for
from kokon.cli.tree import Line, plain, print_lines, tree_lines

if TYPE_CHECKING:
    from kokon.channel.verify import Verification


def verify(
    url: str,
    *,
    trusted: Trusted = DEFAULT_TRUSTED,
    hardware: Hardware = DEFAULT_HARDWARE,
    image: str | None = None,
    json: bool = False,
) -> None:
    """Verify a running workload: from the chip's root to the image, its author and the secrets it was given.

    Asks the guest for fresh evidence over the TLS connection and prints what was checked, a line per step. Nothing
    is sent to the application. Whom to trust comes from `kokon trust` and from the options. Ends with status 0 only
    if every step passed.

    Example: kokon verify https://127.0.0.1:8443 --author author.pub

    Parameters
    ----------
    url
        Where the workload is reached: https://HOST:PORT.
    trusted
        Whom to trust.
    hardware
        What is demanded of hardware.
    image
        The image that must run: REPOSITORY@sha256:DIGEST.
    json
        Print every check as JSON.
    """
    from kokon.cli.output import emit

    verification = peer_for(url, trusted, hardware, image=image).verify()
    lines = tree_of(url, verification)
    if not json and sys.stdout.isatty():
        print_lines(lines)
    else:
        emit(verification.as_dict(), plain(lines), json)
    verification.require()


def tree_of(url: str, verification: Verification) -> list[Line]:
    """The chain of trust as lines of styled pieces, with a sentence at the end."""
    good = verification.ok and not verification.simulated
    style = "bold green" if good else "bold yellow" if verification.ok else "bold red"
    return tree_lines(url, verification.steps, summary(verification), style)


def summary(verification: Verification) -> str:
    """One sentence or two that say what the verdict means."""
    if not verification.ok:
        count = len(verification.failures)
        return (
            f"NOT verified: {count or 'some'} check{'' if count == 1 else 's'} failed or could not be made. "
            "Do not send anything to this address."
        )
    released = ", ".join(verification.released) or "no secrets"
    said = (
        f"{verification.workload} runs image {verification.image} of author {verification.author}; this TLS key was "
        f"made inside its enclave, which was given: {released}."
    )
    if verification.simulated:
        return (
            f"Verified, but SIMULATED: {said} The security processor is a program on the host, so the host can read "
            "guest memory. Good for trying out and testing; send no real data."
        )
    return f"Verified: {said} The host can read neither the guest's memory nor what you send."
