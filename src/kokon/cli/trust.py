"""`kokon trust`: whom `verify`, `connect` and `logs` believe."""

from __future__ import annotations

from pathlib import Path


def trust_author(file: Path, *, json: bool = False) -> None:
    """Trust the author whose public key is in a file.

    Get the file by a way that you trust, or compare the fingerprint that is printed with the author's.

    Example: kokon trust author author.pub

    Parameters
    ----------
    file
        The public key, PEM.
    json
        Print the fingerprint as JSON.
    """
    from kokon.channel.trust import key_fingerprint, read_author, read_trust, write_trust
    from kokon.cli.output import emit, kokon_home

    path = kokon_home() / "trust.json"
    pem = read_author(file)
    write_trust(path, read_trust(path).with_author(pem))
    fingerprint = key_fingerprint(pem)
    emit({"author": fingerprint}, f"trusted from now on: author {fingerprint}", json)


def trust_owner(file: Path, *, json: bool = False) -> None:
    """Trust the owner of a provisioning server. Once any owner is trusted, only workloads whose secrets came from the
    server of a trusted owner are verified; until then, any owner will do.

    The file is tls.pem in the server's state directory. Get it by a way that you trust, or compare the fingerprint
    that is printed with the owner's.

    Example: kokon trust owner tls.pem

    Parameters
    ----------
    file
        The provisioning server's certificate, PEM.
    json
        Print the fingerprint as JSON.
    """
    from kokon.channel.trust import read_owner, read_trust, write_trust
    from kokon.cli.output import emit, kokon_home

    path = kokon_home() / "trust.json"
    fingerprint = read_owner(file)
    write_trust(path, read_trust(path).with_owner(fingerprint))
    emit({"owner": fingerprint}, f"trusted from now on: owner {fingerprint}", json)


def trust_simulated(fingerprint: str, *, json: bool = False) -> None:
    """Accept a simulated root, by its fingerprint. For trying out and testing: simulation hides nothing from the
    host.

    Example: kokon trust simulated 3f1c...e0

    Parameters
    ----------
    fingerprint
        SHA-256 of the root's public key, 64 hexadecimal digits; or `local` for the processor of this machine.
    json
        Print the fingerprint as JSON.
    """
    from kokon.channel.trust import read_trust, write_trust
    from kokon.cli.output import emit, kokon_home, note, simulated_root

    path = kokon_home() / "trust.json"
    fingerprint = simulated_root(fingerprint)
    write_trust(path, read_trust(path).with_simulated(fingerprint))
    note("a simulated security processor is a program: its guests' memory is readable by the host")
    emit({"simulated": fingerprint.lower()}, f"accepted from now on: simulated root {fingerprint.lower()}", json)


def trust_list(*, json: bool = False) -> None:
    """List the authors, owners and simulated roots that are trusted. Chip vendors' roots are built in.

    Example: kokon trust list

    Parameters
    ----------
    json
        Print the list as JSON.
    """
    from kokon.channel.trust import read_trust
    from kokon.cli.output import emit, kokon_home

    trust = read_trust(kokon_home() / "trust.json")
    members = {
        "authors": sorted(trust.fingerprints()),
        "owners": sorted(trust.owners),
        "simulated": sorted(trust.endorsements.accepted_simulated),
    }
    lines = [f"{kind.removesuffix('s'):<11}{name}" for kind, names in members.items() for name in names]
    emit(members, "\n".join(lines) or "nobody yet: kokon trust author FILE", json)
