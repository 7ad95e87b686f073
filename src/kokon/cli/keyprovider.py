"""`kokon keyprovider`: layer keys for skopeo, buildah, containerd and whatever else uses ocicrypt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.image.ocicrypt.provider import Provider


def command(
    *,
    key: list[str],
    name: str = "attestation-agent",
    packet: int = 2,
    wrap_only: bool = False,
) -> None:
    """Answer one request of ocicrypt's key-provider protocol, from stdin to stdout.

    In the file that $OCICRYPT_KEYPROVIDER_CONFIG names: {"key-providers": {"attestation-agent": {"cmd": {"path":
    "/usr/bin/kokon", "args": ["keyprovider", "command", "--key", "agent:FILE:kbs:///default/key/1"]}}}}. Then: skopeo
    copy --encryption-key provider:attestation-agent:kbs:///default/key/1 ...

    Example: kokon keyprovider command --key agent:image.key:kbs:///default/key/1 < request.json

    Parameters
    ----------
    key
        agent:FILE:kbs:///REPOSITORY/TYPE/TAG: a file with 32 bytes, and where the attestation agent gets them; may be
        repeated.
    name
        The provider's name in ocicrypt's configuration.
    packet
        1 or 2: the version of the packets that are written. Both are read.
    wrap_only
        Refuse to unwrap.
    """
    import sys

    from kokon.image.ocicrypt.provider import REQUEST_LIMIT

    provider = _provider(key, name, packet, wrap_only=wrap_only)
    sys.stdout.buffer.write(provider.answer(sys.stdin.buffer.read(REQUEST_LIMIT + 1)))
    sys.stdout.buffer.flush()


def serve(
    *,
    listen: str,
    key: list[str],
    name: str = "attestation-agent",
    packet: int = 2,
    wrap_only: bool = False,
    json: bool = False,
) -> None:
    """Answer ocicrypt's key-provider protocol over gRPC until interrupted.

    Whoever can connect can have layer keys unwrapped, unless --wrap-only says no. In the file that
    $OCICRYPT_KEYPROVIDER_CONFIG names: {"key-providers": {"attestation-agent": {"grpc": "unix:/run/user/1000/keys"}}}.

    Example: kokon keyprovider serve --key agent:image.key:kbs:///default/key/1

    Parameters
    ----------
    listen
        unix:PATH, which only this user can connect to, or 127.0.0.1:PORT.
    key
        agent:FILE:kbs:///REPOSITORY/TYPE/TAG; may be repeated.
    name
        The provider's name in ocicrypt's configuration.
    packet
        1 or 2: the version of the packets that are written. Both are read.
    wrap_only
        Refuse to unwrap.
    json
        Print JSON.
    """
    import signal
    import threading

    from kokon.cli.output import emit
    from kokon.image.ocicrypt.grpc_provider import serving

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serving(_provider(key, name, packet, wrap_only=wrap_only), listen) as address:
        emit({"address": address, "name": name}, f"listening  {address}", json)
        stop.wait()


def _provider(keys: list[str], name: str, packet: int, *, wrap_only: bool) -> Provider:
    from kokon.image.ocicrypt.places import read_opener
    from kokon.image.ocicrypt.provider import Provider

    return Provider(read_opener((), keys).agent, name, packet, unwraps=not wrap_only)
