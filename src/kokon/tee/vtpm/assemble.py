"""Evidence of a TPM out of several files: tools write quote, signature, key, PCR values and log each to its own. Pure.

Each piece is recognised by itself, in any order. What tpm2-tools write is covered (message, TPMT_SIGNATURE, public key
as PEM or TPM2B_PUBLIC), bare RSA signatures, lists of 24 PCR values of one bank, certificates, Azure's HCL report and
TD quote, event logs, and any whole container of `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.certificates import parse_certificate
from kokon.tee.eventlog.log import ALGORITHMS, looks_like_event_log
from kokon.tee.evidence import Evidence
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.vtpm import hcl, tpm
from kokon.tee.vtpm.formats import (
    AZURE_SNP,
    AZURE_TDX,
    QUOTES,
    TPM,
    attest_begins,
    from_attestation,
    from_bincode,
    numbered,
    pcr_part,
)
from kokon.tee.vtpm.quote import load_key

PIECES: Final = 32
_RAW_SIGNATURES: Final = (256, 384, 512)
_PCR_LISTS: Final = {24 * size: size for size in (20, 32, 48, 64)}
_TD_QUOTE: Final = ((b"\x04\x00", b"\x81\x00\x00\x00"), (b"\x05\x00", b"\x81\x00\x00\x00"))
Named = tuple[str, bytes]


def assemble(pieces: Iterable[bytes]) -> Evidence:
    """Evidence from the contents of several files. Quotes and signatures belong together in their order.

    Raises `MalformedError`: `tpm-piece-unknown` for one that is nothing of this, `tpm-piece-twice` for a second of what
    there can be but one, `tpm-pieces-incomplete` without a quote or an HCL report, and those of the formats.
    """
    quotes: list[bytes] = []
    signatures: list[bytes] = []
    certificates: list[bytes] = []
    parts: dict[str, bytes] = {}
    lists = {"quote": quotes, "signature": signatures, "certificate": certificates}
    for count, piece in enumerate(pieces):
        for name, content in _classify(piece):
            if name in lists:
                lists[name].append(content)
            elif parts.setdefault(name, content) != content:
                raise MalformedError("tpm-piece-twice", "two pieces are of one kind", found=name)
        if count >= PIECES:
            raise MalformedError("tpm-piece-twice", "too many pieces", expected=f"<= {PIECES}", found=count + 1)
    if len(signatures) > len(quotes) or len(quotes) > QUOTES or not (quotes or "hcl-report" in parts):
        raise MalformedError(
            "tpm-pieces-incomplete",
            "the pieces make no evidence",
            expected="a quote for each signature, or an HCL report",
            found=f"{len(quotes)} quotes, {len(signatures)} signatures, {', '.join(parts)}",
        )
    padded = signatures + [b""] * (len(quotes) - len(signatures))
    parts |= numbered(zip(quotes, padded, strict=True))
    report = parts.pop("quote", b"")
    return Evidence(_tee(parts), report, tuple(dict.fromkeys(certificates)), parts)


def _tee(parts: dict[str, bytes]) -> str:
    if "hcl-report" not in parts:
        return TPM
    return AZURE_SNP if hcl.parse_hcl(parts["hcl-report"]).type == hcl.SNP else AZURE_TDX


def _classify(piece: bytes) -> Iterator[Named]:
    """What a piece holds."""
    for matches, reader in _READERS:
        if matches(piece):
            yield from reader(piece)
            return
    raise MalformedError(
        "tpm-piece-unknown",
        "a piece is nothing that belongs to a TPM's quote",
        expected="quote, signature, key, certificate, PCR values, event log, HCL report or TD quote",
        found=f"{len(piece)} bytes, {piece[:8].hex()}",
    )


def _container(reader: Callable[[bytes], Evidence]) -> Callable[[bytes], Iterator[Named]]:
    def read(piece: bytes) -> Iterator[Named]:
        evidence = reader(piece)
        yield "quote", evidence.report
        for name, content in evidence.parts.items():
            yield (
                ("signature" if name.startswith("signature") else "quote" if name.startswith("quote") else name),
                content,
            )
        for certificate in evidence.certificates:
            yield "certificate", certificate

    return read


def _one(name: str) -> Callable[[bytes], Iterator[Named]]:
    def read(piece: bytes) -> Iterator[Named]:
        yield name, piece

    return read


def _pem(piece: bytes) -> Iterator[Named]:
    if b"-----BEGIN PUBLIC KEY-----" in piece:
        for spki in read_blocks(piece, "PUBLIC KEY"):
            load_key(spki)
            yield "ak", spki
        return
    for der in read_blocks(piece, CERTIFICATE):
        yield "certificate", der


def _is_der(piece: bytes) -> bool:
    """A DER sequence that is as long as it says."""
    if piece[:1] != b"\x30" or len(piece) < 2:
        return False
    more = piece[1] - 0x80 if piece[1] > 0x80 else 0
    size = int.from_bytes(piece[2 : 2 + more], "big") if more else piece[1]
    return len(piece) == 2 + more + size


def _der(piece: bytes) -> Iterator[Named]:
    try:
        parse_certificate(piece)
    except MalformedError:
        load_key(piece)
        yield "ak", piece
    else:
        yield "certificate", piece


def _is_public(piece: bytes) -> bool:
    """A TPM2B_PUBLIC: its size, then a TPMT_PUBLIC."""
    size = int.from_bytes(piece[:2], "big")
    return len(piece) == size + 2 and piece[2:4] in (b"\x00\x01", b"\x00\x23")


def _sized_public(piece: bytes) -> Iterator[Named]:
    tpm.parse_public(piece[2:])
    yield "ak-public", piece[2:]


def _is_bare_public(piece: bytes) -> bool:
    return piece[:2] in (b"\x00\x01", b"\x00\x23") and piece[2:4] in (b"\x00\x0b", b"\x00\x0c", b"\x00\x0d")


def _bare_public(piece: bytes) -> Iterator[Named]:
    tpm.parse_public(piece)
    yield "ak-public", piece


def is_attestation(data: bytes) -> bool:
    """Whether bytes begin as go-tpm-tools' message does: field 1, a TPMT_PUBLIC."""
    start = 3 if data[1:2] > b"\x7f" else 2
    return data[:1] == b"\x0a" and _is_bare_public(data[start : start + 4])


def is_bincode(data: bytes) -> bool:
    """Whether bytes begin as the bincode form does: eight bytes of an RSA signature's size, and then a quote's."""
    size = int.from_bytes(data[:8], "little")
    return size in _RAW_SIGNATURES and attest_begins(data[size + 16 : size + 20])


def _is_signature(piece: bytes) -> bool:
    return int.from_bytes(piece[:2], "big") in tpm.SCHEMES and int.from_bytes(piece[2:4], "big") in ALGORITHMS


def _signature(piece: bytes) -> Iterator[Named]:
    tpm.parse_signature(piece)
    yield "signature", piece


def _pcr_list(piece: bytes) -> Iterator[Named]:
    size = _PCR_LISTS[len(piece)]
    yield "pcrs", pcr_part(piece[start : start + size] for start in range(0, len(piece), size))


_READERS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Iterator[Named]]], ...]] = (
    (attest_begins, _one("quote")),
    (lambda piece: piece[:4] == hcl.MAGIC, _one("hcl-report")),
    (lambda piece: piece.lstrip()[:11] == b"-----BEGIN ", lambda piece: _pem(piece.strip())),
    (lambda piece: (piece[:2], piece[4:8]) in _TD_QUOTE, _one("td-quote")),
    (is_attestation, _container(from_attestation)),
    (is_bincode, _container(from_bincode)),
    (_is_signature, _signature),
    (_is_public, _sized_public),
    (_is_bare_public, _bare_public),
    (looks_like_event_log, _one("event-log")),
    (_is_der, _der),
    (lambda piece: len(piece) in _RAW_SIGNATURES, _one("signature")),
    (lambda piece: len(piece) in _PCR_LISTS, _pcr_list),
)
