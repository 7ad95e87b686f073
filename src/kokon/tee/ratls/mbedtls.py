"""Certificates as older releases of mbedTLS, and with it Gramine, wrote them: NULL after an ECDSA algorithm.

RFC 5758 section 3.2 wants the parameters absent, and strict parsers refuse the certificate for it. Here exactly this
one deviation is taken out before parsing; the signature is checked over the bytes as they came. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kokon.tee.certificates import CERTIFICATE_LIMIT, Certificate, parse_certificate

_ECDSA: Final = {
    bytes.fromhex(f"300c06082a8648ce3d0403{digest}0500"): bytes.fromhex(f"300a06082a8648ce3d0403{digest}")
    for digest in ("02", "03", "04")
}
"""AlgorithmIdentifier of ECDSA with SHA-256, SHA-384 and SHA-512: with NULL, and as it should be."""
_ALGORITHM_SIZE: Final = 14
_SEQUENCE: Final = 0x30


def parse_lenient(der: bytes) -> Certificate:
    """`parse_certificate`, also for certificates with NULL parameters. `der` and `signed` of the result are the bytes
    as they came. Raises `MalformedError` (`certificate-malformed`)."""
    parts = _parts(der) if len(der) <= CERTIFICATE_LIMIT else None
    if parts is None:
        return parse_certificate(der)
    signed, algorithm, signature = parts
    content, _end = _content(signed, 0)
    where = signed.index(algorithm, content)
    body = signed[content:where] + _ECDSA[algorithm] + signed[where + _ALGORITHM_SIZE :]
    clean = _element(_element(body) + _ECDSA[algorithm] + signature)
    return replace(parse_certificate(clean), der=der, signed=signed)


def _parts(der: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Signed part, algorithm and signature of a certificate that names an algorithm of `_ECDSA` inside and outside, all
    in their shortest form; None for every other."""
    try:
        start, end = _content(der, 0)
        content, signed_end = _content(der, start)
        _version, serial = _content(der, content)
        _serial, algorithm = _content(der, serial)
    except IndexError:
        return None
    signed, outer = der[start:signed_end], der[signed_end : signed_end + _ALGORITHM_SIZE]
    rest = der[signed_end + _ALGORITHM_SIZE :]
    inner = der[algorithm : algorithm + _ALGORITHM_SIZE]
    if outer not in _ECDSA or inner != outer or end != len(der) or _element(signed + outer + rest) != der:
        return None
    return signed, outer, rest


def _content(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the DER element at `start` begins and ends. Raises `IndexError` beyond the bytes' end."""
    first = der[start + 1]
    content = start + 2 + (first & 0x7F if first > 0x7F else 0)
    size = int.from_bytes(der[start + 2 : content], "big") if first > 0x7F else first
    if content + size > len(der):
        raise IndexError("cut short")
    return content, content + size


def _element(content: bytes) -> bytes:
    """A SEQUENCE in the shortest form (X.690 section 10.1)."""
    size = len(content)
    if size < 0x80:
        return bytes([_SEQUENCE, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_SEQUENCE, 0x80 | len(length)]) + length + content
