"""`kokon provision`: the owner's provisioning server."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.access import connect_server, table
from kokon.cli.custody import (
    DATABASE,
    OPENING,
    TOKEN,
    Custody,
    Database,
    Opening,
    Token,
    asker,
    database_url,
    described,
    state_of,
)
from kokon.cli.hardware import DEFAULT_HARDWARE, Hardware
from kokon.cli.output import emit, note, simulated_root
from kokon.cli.serving import SERVING, Serving, demands_of, run_options
from kokon.errors import UsageError

if TYPE_CHECKING:
    from kokon.provisioning.serve import Ready

SIMULATED = "accepting simulated roots: enclaves under them are for trying out, their memory is readable by their host"


def serve(
    *,
    state: Path | None = None,
    listen: str = "127.0.0.1:8443",
    name: tuple[str, ...] = (),
    accept_simulated: tuple[str, ...] = (),
    new_certificate: bool = False,
    serving: Serving = SERVING,
    database: Database = DATABASE,
    opening: Opening = OPENING,
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
    new_certificate
        Make a new TLS key and certificate. Launch documents pin the old one: every workload must be admitted anew.
    hardware
        What is demanded of hardware.
    json
        Print one line of JSON on stdout when ready.
    """
    from kokon.provisioning.serve import ServeOptions, parse_fingerprint, parse_listen
    from kokon.provisioning.serve import serve as run
    from kokon.provisioning.state import read_settings

    host, port = parse_listen(listen)
    accepted = frozenset(parse_fingerprint(simulated_root(text)) for text in accept_simulated)
    directory, url = state_of(state), database_url(database)
    options = ServeOptions(
        state=directory,
        host=host,
        port=port,
        names=name,
        demands=demands_of(hardware, accepted, serving),
        settings=None if url is None else replace(read_settings(directory), database=url),
        secret=asker(opening),
        new_certificate=new_certificate,
        literal_statuses=serving.literal_statuses,
        run=run_options(serving),
    )
    run(options, lambda ready: _announce(ready, json))


def _announce(ready: Ready, json: bool) -> None:
    note(f"listening on {ready.url}")
    note(f"owner key {ready.owner_fingerprint} (SHA-256), for authors in {ready.owner_key}")
    if ready.admin.exists():
        note(f"address and admin token for your commands in {ready.admin}")
    if ready.development:
        note("OPEN FOR DEVELOPMENT: whoever reaches this server can change everything. Never with real secrets")
    if ready.accepted_simulated:
        note(f"{SIMULATED}: {', '.join(ready.accepted_simulated)}")
    if json:
        print(jsonlib.dumps(ready.as_dict()), flush=True)


def status(*, state: Path | None = None, admin: Path | None = None, json: bool = False) -> None:
    """Show how the server is: version, database, keys, projects. With --state, what is in a state directory.

    Example: `kokon provision status`

    Parameters
    ----------
    state
        Look into this state directory instead of asking the server, which need not run.
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    if state is not None:
        answer = _look(state_of(state))
        emit(answer, "\n".join(_looked(answer)), json)
        return
    with connect_server(admin) as client:
        answer, url = client.status(), client.access.root
    emit({"url": url, **answer}, _status(url, answer), json)


def _status(url: str, answer: dict[str, Any]) -> str:
    ring = answer["key_ring"]
    lines = [
        f"{url}: version {answer['version']}, {answer['database']}",
        f"owner key  {answer['owner_key']}",
        f"token key  {answer['token_key']}",
        f"key ring   {ring['identity']}, generation {ring['generation']}",
        f"policy     {answer['policy']}",
    ]
    if answer["accepted_simulated"]:
        lines.append(f"{SIMULATED}: {', '.join(answer['accepted_simulated'])}")
    rows = [
        (
            one["project"] or "(server)",
            f"{one['secrets']} secrets",
            f"{one['workloads']} workloads",
            f"{one['log_size']} log entries",
        )
        for one in answer["projects"]
    ]
    return "\n".join([*lines, table(rows, "")])


def _looked(answer: dict[str, Any]) -> list[str]:
    lines = [f"{name.replace('_', ' '):<10} {answer[name]}" for name in ("state", "custody", "database")]
    lines += [f"{name.replace('_', ' '):<10} {answer[name]}" for name in ("url", "key_ring") if answer[name]]
    return lines + [f"log {name or '(server)'}: {size} entries when last seen" for name, size in answer["logs"].items()]


def _look(directory: Path) -> dict[str, Any]:
    """What can be seen of a state directory without its keys."""
    from kokon.provisioning.client import ADMIN_FILE, read_access
    from kokon.provisioning.custody import vault
    from kokon.provisioning.database.memory import read_memory
    from kokon.provisioning.state import MEMORY, read_settings

    if not directory.is_dir():
        raise UsageError("state-empty", "there is no such state directory", found=directory)
    settings, remembered = read_settings(directory), read_memory(directory / MEMORY)
    location = settings.location(directory)
    size = location.stat().st_size if isinstance(location, Path) and location.exists() else None
    access = read_access(directory / ADMIN_FILE) if (directory / ADMIN_FILE).exists() else None
    return {
        "state": str(directory),
        "custody": vault.held_by(directory) or "no master key yet",
        "database": described(settings),
        "size": size,
        "url": None if access is None else access.root,
        "key_ring": None if remembered.ring is None else remembered.ring[1],
        "generation": None if remembered.ring is None else remembered.ring[0],
        "logs": {name: head[0] for name, head in remembered.heads.items()},
    }


def rotate(
    *,
    data_key: bool = False,
    master: bool = False,
    finish: bool = False,
    custody: Custody | None = None,
    token: Token = TOKEN,
    opening: Opening = OPENING,
    new_passphrase_fd: int | None = None,
    new_credential: str | None = None,
    state: Path | None = None,
    admin: Path | None = None,
    json: bool = False,
) -> None:
    """Replace a key: that of tokens by itself, others when asked for.

    Example: `kokon provision rotate`

    Example: `kokon provision rotate --custody passphrase`

    Tokens of the last key stay good until they expire; the server makes a new one by itself every 30 days. The master
    key is changed in the state directory, while the server does not run.

    Parameters
    ----------
    data_key
        A new data key instead, and every record sealed anew with it; the server goes on meanwhile.
    master
        A new master key instead. With PostgreSQL the old one stays good until --finish.
    finish
        Take the database's keys away from all master keys but the one in the state directory.
    custody
        Give the master key to another holder, or another passphrase to the same: file, passphrase, pkcs11.
    new_passphrase_fd
        Number of the file descriptor that gives the new holder's passphrase or PIN.
    new_credential
        Name of the systemd credential that holds it.
    state
        State directory, for the master key; default: provision in Kokon's home.
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    offline = master or finish or custody is not None
    if data_key and offline:
        raise UsageError("rotate-options", "the data key is rotated by the running server, the master key without it")
    if offline:
        _rotate_master(
            state, custody, token, opening, Opening(passphrase_fd=new_passphrase_fd, credential=new_credential),
            renew=master, finish=finish, json=json,
        )  # fmt: skip
        return
    with connect_server(admin) as client:
        if data_key:
            answer = client.rotate_data_key()
            emit(answer, f"records are sealed with data key {answer['key_id']}", json)
            return
        kid = client.rotate_token_key()
    emit({"kid": kid}, f"tokens are signed with key {kid}", json)


def _rotate_master(
    state: Path | None,
    custody: Custody | None,
    token: Token,
    opening: Opening,
    new_opening: Opening,
    *,
    renew: bool,
    finish: bool,
    json: bool,
) -> None:
    from kokon.cli.provision_master import rotate_master
    from kokon.cli.provision_state import MASTER_FILES

    done = rotate_master(state, custody, token, opening, new_opening, renew=renew, finish=finish)
    file = Path(done["state"]) / MASTER_FILES[done["custody"]]
    emit(done, f"master key {done['master']}, held by {done['custody']}", json)
    note(f"keep a copy of {file} elsewhere, in the place of the one from before")
    if done.get("finished") is False:
        note(f"copy {file} to the other replicas, restart them, then: kokon provision rotate --finish")
