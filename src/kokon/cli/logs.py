"""`kokon logs`: the application's output, for the owner only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.cli.access import DEFAULT_ACCESS, Access, connect
from kokon.cli.hardware import DEFAULT_HARDWARE, Hardware
from kokon.cli.peer import DEFAULT_TRUSTED, Trusted, peer_for

if TYPE_CHECKING:
    from kokon.channel.verify import Verification


def logs(
    workload: str,
    *,
    follow: bool = False,
    trusted: Trusted = DEFAULT_TRUSTED,
    hardware: Hardware = DEFAULT_HARDWARE,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Print a workload's output, read over the attested channel.

    The guest is verified first. Only if its launch document is the one that is admitted at the owner's provisioning
    server, the log's token is asked from there and shown to the guest.

    Example: kokon logs clinic --follow

    Parameters
    ----------
    workload
        Name of a container on this machine, or https://HOST:PORT.
    follow
        Go on with what the application writes from now on.
    trusted
        Whom to trust.
    hardware
        What is demanded of hardware.
    json
        Print one JSON object per piece of output.
    """
    import contextlib
    import json as jsonlib
    import sys

    url = workload if "://" in workload else _published(workload)
    output = peer_for(url, trusted, hardware).logs(lambda guest: _token(guest, access), follow=follow)
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


def _token(verification: Verification, access: Access = DEFAULT_ACCESS) -> str:
    """The log's token, for a guest with the admitted launch document: another one may name another owner's server, and
    its log key is that owner's. Raises `UntrustedError` (`launch-document-not-admitted`)."""
    from kokon.errors import UntrustedError

    name = verification.workload or ""
    with connect(access) as admin:
        admitted = {one["name"]: one["host_data"] for one in admin.workloads()}
        if admitted.get(name) != verification.launch_document:
            raise UntrustedError(
                "launch-document-not-admitted",
                f"the guest's launch document is not the one that is admitted for {name!r}; no token was asked for",
                expected=admitted.get(name, "no workload of this name"),
                found=verification.launch_document,
                hint="if it was admitted anew, launch it again with the new document; otherwise this is not your guest",
            )
        return admin.log_token(name)
