"""`kokon provision`: the owner's provisioning server."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.cli.hardware import DEFAULT_HARDWARE, Hardware, completion, read_endorsements, read_policy
from kokon.cli.output import emit, note, simulated_root

if TYPE_CHECKING:
    from kokon.provisioning.serve import Ready

SIMULATED = "accepting simulated roots: enclaves under them are for trying out, their memory is readable by their host"


def serve(
    *,
    state: Path | None = None,
    listen: str = "127.0.0.1:8443",
    name: tuple[str, ...] = (),
    accept_simulated: tuple[str, ...] = (),
    hardware: Hardware = DEFAULT_HARDWARE,
    json: bool = False,
) -> None:
    """Run the provisioning server until it is told to end (SIGTERM, Ctrl-C).

    Example: `kokon provision serve --listen 127.0.0.1:8443`

    The first start makes keys, TLS certificate and admin token in the state directory (mode 0700).

    Parameters
    ----------
    state
        State directory; default: provision in Kokon's home.
    listen
        Address and port; port 0 takes any free one.
    name
        Further DNS name or address for the TLS certificate; may be given again.
    accept_simulated
        Fingerprint of a simulated root to accept, or `local` for this machine's; may be given again. Not remembered
        over a restart.
    hardware
        What is demanded of hardware.
    json
        Print one line of JSON on stdout when ready.
    """
    from kokon.provisioning.client import state_directory
    from kokon.provisioning.serve import ServeOptions, parse_fingerprint, parse_listen
    from kokon.provisioning.serve import serve as run

    host, port = parse_listen(listen)
    accepted = frozenset(parse_fingerprint(simulated_root(text)) for text in accept_simulated)
    options = ServeOptions(
        state=(state or state_directory()).absolute(),
        host=host,
        port=port,
        names=name,
        accepted_simulated=accepted,
        endorsements=read_endorsements(hardware),
        complete=completion(hardware, accepted),
        policy=read_policy(hardware),
    )
    run(options, lambda ready: _announce(ready, json))


def _announce(ready: Ready, json: bool) -> None:
    note(f"listening on {ready.url}")
    note(f"owner key {ready.owner_fingerprint} (SHA-256), for authors in {ready.owner_key}")
    note(f"admin token in {ready.admin_token}")
    if ready.accepted_simulated:
        note(f"{SIMULATED}: {', '.join(ready.accepted_simulated)}")
    if json:
        print(jsonlib.dumps(ready.as_dict()), flush=True)


def rotate(*, admin: Path | None = None, json: bool = False) -> None:
    """Have the server sign tokens with a new key; those of the last one stay good until they expire.

    Example: `kokon provision rotate`

    The server does so by itself every 30 days.

    Parameters
    ----------
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home(admin) as client:
        kid = client.rotate_token_key()
    emit({"kid": kid}, f"tokens are signed with key {kid}", json)
