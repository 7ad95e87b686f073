"""The guest's own network: one virtio interface with fixed addresses, and loopback.

QEMU's user-mode network is the only one that the host offers: 10.0.2.15/24, gateway 10.0.2.2, names at 10.0.2.3
(QEMU's documented defaults). Everything behind it is the untrusted host.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from pathlib import Path

from kokon.errors import HostError

ADDRESS, NETMASK, GATEWAY, RESOLVER = "10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.3"
# linux/sockios.h and net/if.h
_SIOCADDRT, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_RTF_UP, _RTF_GATEWAY = 1, 2


def resolve(host: str, port: int) -> tuple[str, int]:
    """Where to connect for a name in the launch document: a loopback name means the host, that is the gateway."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.startswith("127.") or name == "::1":
        return GATEWAY, port
    return host, port


def interface_request(name: str, body: bytes) -> bytes:
    """struct ifreq (40 bytes): the interface's name and one union member."""
    return struct.pack("16s24s", name.encode(), body)


def socket_address(address: str) -> bytes:
    """struct sockaddr_in without a port (16 bytes)."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def route_request(gateway: str) -> bytes:
    """struct rtentry (120 bytes) of the default route through `gateway`."""
    anywhere = socket_address("0.0.0.0")  # noqa: S104
    return struct.pack("=Q16s16s16sH62x", 0, anywhere, socket_address(gateway), anywhere, _RTF_UP | _RTF_GATEWAY)


def bring_up(sock: socket.socket, name: str) -> None:
    """Set IFF_UP on an interface of the network namespace that `sock` lives in. Raises `OSError`."""
    current = fcntl.ioctl(sock, _SIOCGIFFLAGS, interface_request(name, b""))
    (flags,) = struct.unpack_from("=H", current, 16)
    fcntl.ioctl(sock, _SIOCSIFFLAGS, interface_request(name, struct.pack("=H", flags | _IFF_UP)))


def find_interface(root: Path = Path("/sys/class/net")) -> str:
    """The name of the one interface beside loopback. Raises `HostError` (`network-missing`)."""
    names = sorted(entry.name for entry in root.iterdir() if entry.name != "lo")
    if len(names) != 1 or len(names[0]) > 15:
        raise HostError("network-missing", "expected one network interface", expected=1, found=len(names))
    return names[0]


def configure() -> None:
    """Give loopback and the interface their addresses and the default route. Raises `HostError`, `OSError`."""
    name = find_interface()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        bring_up(sock, "lo")
        fcntl.ioctl(sock, _SIOCSIFADDR, interface_request(name, socket_address(ADDRESS)))
        fcntl.ioctl(sock, _SIOCSIFNETMASK, interface_request(name, socket_address(NETMASK)))
        bring_up(sock, name)
        try:
            fcntl.ioctl(sock, _SIOCADDRT, route_request(GATEWAY))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
