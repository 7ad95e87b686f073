"""`kokon connect`: a local port that continues inside the enclave."""

from __future__ import annotations

from kokon.cli.hardware import DEFAULT_HARDWARE, Hardware
from kokon.cli.peer import DEFAULT_TRUSTED, Trusted, peer_for


def connect(
    url: str,
    *,
    listen: str = "127.0.0.1:0",
    trusted: Trusted = DEFAULT_TRUSTED,
    hardware: Hardware = DEFAULT_HARDWARE,
    image: str | None = None,
    reverify: int = 10,
    json: bool = False,
) -> None:
    """Verify a workload, then tunnel a local port to it over the attested channel, until interrupted.

    Each local connection gets an attested TLS connection of its own. The local end is in clear and stays on this
    machine.

    Example: kokon connect https://cloud.example:8443 --listen 127.0.0.1:9000 --author author.pub

    Parameters
    ----------
    url
        Where the workload is reached: https://HOST:PORT.
    listen
        Local address; only loopback. Port 0 takes any free port and prints it.
    trusted
        Whom to trust.
    hardware
        What is demanded of hardware.
    image
        The image that must run: REPOSITORY@sha256:DIGEST.
    reverify
        Minutes after which a new connection asks for fresh evidence again.
    json
        Print the local address as JSON.
    """
    from kokon.channel.proxy import LocalProxy, parse_listen
    from kokon.cli.output import emit, note, render_error
    from kokon.cli.verify import summary

    address = parse_listen(listen)
    peer = peer_for(url, trusted, hardware, image=image, minutes=reverify)
    verification = peer.current()
    note(summary(verification))
    proxy = LocalProxy(peer, render_error)
    host, port = proxy.listen(*address)
    emit({"listen": f"{host}:{port}", "url": url}, f"{host}:{port} continues in {verification.workload} at {url}", json)
    try:
        proxy.serve()
    except KeyboardInterrupt:
        note("closed")
    finally:
        proxy.close()
