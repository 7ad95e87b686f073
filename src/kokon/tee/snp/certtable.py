"""The GHCB certificate table, and the extended report: report followed by table.

Table (AMD GHCB specification 56421, SNP Extended Guest Request): entries of GUID (16 bytes in RFC 4122 order, as
hosts write them), offset u32 and length u32 little-endian, ended by an entry of zeros; offsets count from the start
of the table. Certificates are DER.
"""

from __future__ import annotations

import struct
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import REPORT_SIZE, VLEK, parse_report

EXTENDED_LIMIT: Final = 64 * 1024
ENTRIES_LIMIT: Final = 16
CHAIN_LIMIT: Final = 3

_ENTRY = struct.Struct("<16sII")
_VCEK_GUID = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
_VLEK_GUID = bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1")
_ASK_GUID = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")
_ARK_GUID = bytes.fromhex("c0b406a4a80349529743" + "3fb6014cd0ae")
_CRL_GUID = bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea")
_CERTIFICATES = (_VCEK_GUID, _VLEK_GUID, _ASK_GUID, _ARK_GUID)


def encode_table(certificates: tuple[bytes, ...], *, vlek: bool = False) -> bytes:
    """The table for up to three certificates, leaf first. Raises `MalformedError` (`certificate-count`)."""
    if len(certificates) > CHAIN_LIMIT:
        raise MalformedError("certificate-count", "an SNP chain has three certificates", found=len(certificates))
    guids = (_VLEK_GUID if vlek else _VCEK_GUID, _ASK_GUID, _ARK_GUID)
    offset = _ENTRY.size * (len(certificates) + 1)
    entries = b""
    for guid, certificate in zip(guids, certificates, strict=False):
        entries += _ENTRY.pack(guid, offset, len(certificate))
        offset += len(certificate)
    return entries + bytes(_ENTRY.size) + b"".join(certificates)


def _entries(table: bytes) -> list[tuple[bytes, int, int]]:
    entries: list[tuple[bytes, int, int]] = []
    while len(entries) <= ENTRIES_LIMIT:
        position = _ENTRY.size * len(entries)
        if position + _ENTRY.size > len(table):
            break
        guid, offset, length = _ENTRY.unpack_from(table, position)
        if (guid, offset, length) == (bytes(16), 0, 0):
            return entries
        entries.append((guid, offset, length))
    raise MalformedError("certificate-table", "the certificate table has no end", expected="an entry of zeros")


def decode_table(table: bytes) -> tuple[bytes, ...]:
    """The certificates of a table: VCEK and VLEK, then ASK (on machines with VLEKs the ASVK), then ARK.

    Entries of other kinds (revocation lists, a cloud's own documents) are passed over. Every byte must belong to one
    entry, except for zeros (hosts hand out whole pages). Raises `MalformedError` (`certificate-table`).
    """
    found = _contents(table)
    return tuple(found[guid] for guid in _CERTIFICATES if guid in found)


def _contents(table: bytes) -> dict[bytes, bytes]:
    if not any(table):
        return {}
    entries = _entries(table)
    found: dict[bytes, bytes] = {}
    end = _ENTRY.size * (len(entries) + 1)
    for guid, offset, length in sorted(entries, key=lambda entry: entry[1]):
        if offset < end or length == 0 or offset + length > len(table) or any(table[end:offset]):
            raise MalformedError(
                "certificate-table", "an entry of the certificate table is out of place", expected=end, found=offset
            )
        if guid in found:
            raise MalformedError("certificate-table", "an entry of the table is there twice", found=guid.hex())
        end = offset + length
        found[guid] = table[offset:end]
    if any(table[end:]):
        raise MalformedError("certificate-table", "bytes after the certificate table")
    return found


def encode_extended(evidence: Evidence) -> bytes:
    """Report followed by its certificate table. Raises `MalformedError` (`certificate-count`,
    `evidence-too-large`)."""
    vlek = parse_report(evidence.report).signing_key == VLEK
    data = evidence.report + encode_table(evidence.certificates, vlek=vlek)
    if len(data) > EXTENDED_LIMIT:
        raise MalformedError(
            "evidence-too-large", "the evidence is too large", expected=f"<= {EXTENDED_LIMIT}", found=len(data)
        )
    return data


def decode_extended(data: bytes) -> Evidence:
    """Evidence from a report with or without a certificate table, at most 64 KiB together; a revocation list from the
    table becomes the part "crl".

    Raises `MalformedError` (`evidence-too-large`, `certificate-table`, and those of `parse_report`).
    """
    if len(data) > EXTENDED_LIMIT:
        raise MalformedError(
            "evidence-too-large", "the evidence is too large", expected=f"<= {EXTENDED_LIMIT}", found=len(data)
        )
    report = data[:REPORT_SIZE]
    parse_report(report)
    found = _contents(data[REPORT_SIZE:])
    chain = tuple(found[guid] for guid in _CERTIFICATES if guid in found)
    return Evidence("snp", report, chain, {"crl": found[_CRL_GUID]} if _CRL_GUID in found else {})
