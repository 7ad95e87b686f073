"""What systemd and a service say to each other: sockets that it has opened, and states that it is told of.

The protocols of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), without its library. The environment is
given by the caller.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import MutableMapping

from kokon.errors import UsageError

FIRST = 3
"""The first descriptor that is passed (SD_LISTEN_FDS_START)."""
SOCKETS_LIMIT = 16


def inherited_sockets(environment: MutableMapping[str, str], process: int) -> list[socket.socket]:
    """The listening sockets that were opened for this `process`; none if there are none.

    The variables are taken out of `environment`, so that no child takes them for its own. Raises `UsageError`
    (`activation-malformed`) for what is no listening stream socket.
    """
    owner, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not count or owner != str(process):
        return []
    if not (count.isascii() and count.isdigit()) or not 0 < int(count) <= SOCKETS_LIMIT:
        raise _malformed(f"LISTEN_FDS={count[:20]!r}")
    return [_adopt(number) for number in range(FIRST, FIRST + int(count))]


def _adopt(number: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=number)
    except OSError as error:
        raise _malformed(f"descriptor {number} is no socket") from error
    if adopted.type != socket.SOCK_STREAM or not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        adopted.close()
        raise _malformed(f"descriptor {number} does not listen")
    adopted.set_inheritable(False)
    return adopted


def _malformed(found: str) -> UsageError:
    return UsageError(
        "activation-malformed",
        "the sockets that the service manager passed cannot be used",
        expected="listening stream sockets",
        found=found,
    )


def notify(environment: MutableMapping[str, str], *states: str) -> bool:
    """Tell the service manager, if there is one: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=...`.

    True if it was told. Never raises: a service does not fail for want of a listener.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)
        out.sendto("\n".join(states).encode(), address)
        return True
    return False


def watchdog_seconds(environment: MutableMapping[str, str], process: int) -> float | None:
    """How often the manager wants a sign of life: half of what it waits for. None if it wants none."""
    text, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16) or owner not in ("", str(process)):
        return None
    return int(text) / 2e6 or None
