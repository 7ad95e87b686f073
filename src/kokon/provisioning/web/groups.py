"""Which key exchange groups a TLS context can really use, found by asking it.

Python before 3.15 neither sets nor tells them. But a TLS 1.3 server that is sent a ClientHello with one group and no
key share for it answers with a HelloRetryRequest that names the group if it knows it, and with an alert if not
(RFC 8446, sections 4.1.4 and 4.2.8). That exchange happens in memory here. So the answer is about this very context,
with whatever OpenSSL it was built with and whatever its configuration file says.
"""

from __future__ import annotations

import ssl

GROUPS = {
    "X25519MLKEM768": 0x11EC,
    "SecP256r1MLKEM768": 0x11EB,
    "SecP384r1MLKEM1024": 0x11ED,
    "X25519": 0x001D,
    "secp256r1": 0x0017,
    "secp384r1": 0x0018,
    "secp521r1": 0x0019,
    "X448": 0x001E,
}
"""Names and numbers of the groups that are asked for: IANA TLS Supported Groups; the first three are hybrid, of
draft-ietf-tls-ecdhe-mlkem."""
HYBRID = tuple(GROUPS)[:3]
"""Those that also withstand a quantum computer."""
_SUITES = (0x1301, 0x1302, 0x1303)
_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0807)
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The `random` that makes a ServerHello a HelloRetryRequest (RFC 8446, section 4.1.3)."""
_KEY_SHARE = 51


def key_exchange_groups(context: ssl.SSLContext) -> tuple[str, ...]:
    """Names, as in `GROUPS`, of the groups that the server context `context` accepts in TLS 1.3."""
    return tuple(name for name, number in GROUPS.items() if _asks_back(context, number))


def is_hybrid(context: ssl.SSLContext) -> bool:
    """Whether clients that can will get a key exchange that withstands a quantum computer."""
    return bool(set(key_exchange_groups(context)).intersection(HYBRID))


def _asks_back(context: ssl.SSLContext, group: int) -> bool:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(_client_hello(group))
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        return _selected(outgoing.read()) == group
    except ssl.SSLError:
        return False
    return False


def _numbers(values: tuple[int, ...], width: int = 2) -> bytes:
    body = b"".join(value.to_bytes(2, "big") for value in values)
    return len(body).to_bytes(width, "big") + body


def _extension(number: int, body: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def _client_hello(group: int) -> bytes:
    """RFC 8446, section 4.1.2, as one record: one group, no key share. Its random is not random: nothing is secret."""
    extensions = b"".join(
        (
            _extension(10, _numbers((group,))),
            _extension(13, _numbers(_SIGNATURES)),
            _extension(43, _numbers((0x0304,), width=1)),
            _extension(_KEY_SHARE, _numbers(())),
        )
    )
    hello = b"".join(
        (b"\x03\x03", bytes(32), b"\0", _numbers(_SUITES), b"\x01\0", len(extensions).to_bytes(2, "big"), extensions)
    )
    message = b"\x01" + len(hello).to_bytes(3, "big") + hello
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def _selected(records: bytes) -> int | None:
    """The group that a HelloRetryRequest at the beginning of `records` names; None if there is none."""
    hello = records[9:]  # past the headers of record and message
    if len(hello) < 40 or records[:1] != b"\x16" or records[5:6] != b"\x02" or hello[2:34] != _RETRY:
        return None
    at = 35 + hello[34] + 3  # session id, cipher suite, compression
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    while at + 4 <= end:
        number, size = (int.from_bytes(hello[start : start + 2], "big") for start in (at, at + 2))
        if number == _KEY_SHARE and size == 2:
            return int.from_bytes(hello[at + 4 : at + 6], "big")
        at += 4 + size
    return None
