"""`kokon logs`: the application's output, for the owner only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.channel.verify import Verification


def logs(
    workload: str,
    *,
    follow: bool = False,
    author: list[Path] | None = None,
    accept_simulated: list[str] | None = None,
    json: bool = False,
) -> None:
    """Print a workload's output, read over the attested channel.

    The guest is verified first; then the log's token is asked from the provisioning server and shown to the guest.

    Example: kokon logs clinic --follow

    Parameters
    ----------
    workload
        Name of a container on this machine, or https://HOST:PORT.
    follow
        Go on with what the application writes from now on.
    author
        File with the public key of an author to trust, for this once. May be repeated.
    accept_simulated
        Fingerprint of a simulated root to accept, for this once. May be repeated.
    json
        Print one JSON object per piece of output.
    """
    import contextlib
    import json as jsonlib
    import sys

    from kokon.cli.verify import peer_for

    url = workload if "://" in workload else _published(workload)
    output = peer_for(url, author, accept_simulated, None).logs(_token, follow=follow)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(output):
        for chunk in output:
            if json:
                print(jsonlib.dumps({"log": chunk.decode(errors="replace")}), flush=True)
            else:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()


def _published(name: str) -> str:
    """The URL of a container on this machine. The host may lie about it: the guest behind it is verified."""
    from kokon.cli.output import kokon_home
    from kokon.errors import UsageError
    from kokon.host.state import Directory, inspect_container

    record = inspect_container(Directory(kokon_home(), name)).record
    if record is None or not record.publish:
        raise UsageError("container-not-published", f"container {name!r} has no port yet", hint="see kokon ps")
    return f"https://{record.publish}"


def _token(verification: Verification) -> str:
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home() as admin:
        return admin.log_token(verification.workload or "")
