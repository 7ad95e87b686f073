"""The containers that quotes travel in, each to `Evidence` whose parts the package's docstring names. Pure.

KBS JSON of the three kinds, Azure in versions 0 to 2; go-tpm-tools' Attestation message; the bincode form of
Azure's Rust tools; a bare TPMS_ATTEST; an HCL report. What comes in several files is put together by `assemble`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import ALGORITHMS
from kokon.tee.evidence import Evidence
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.vtpm import hcl, tpm
from kokon.tee.vtpm.protobuf import Message, all_bytes, one_bytes, one_number, parse_message
from kokon.tee.vtpm.quote import STRENGTH, encode_pcrs
from kokon.wire import Fields, unb64, unb64url, unhex

TPM: Final = "tpm"
AZURE_SNP: Final = "az-snp-vtpm"
AZURE_TDX: Final = "az-tdx-vtpm"
QUOTES: Final = 8
"""Quotes in one piece of evidence."""

_BANK_SIZES: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_QUOTE_LIMIT: Final = 64 << 10
_PCRS: Final = 24


def attest_begins(data: bytes) -> bool:
    """Whether bytes begin as a TPM's attestation does."""
    return data[:4] == tpm.MAGIC


def pcr_part(values: Iterable[bytes]) -> bytes:
    """The part "pcrs" of one bank's values in order from PCR 0. Raises `MalformedError` (`tpm-malformed`)."""
    listed = list(values)
    sizes = {len(value) for value in listed}
    if not listed:
        return b""
    if len(sizes) != 1 or not sizes <= set(_BANK_SIZES):
        raise MalformedError("tpm-malformed", "PCR values of mixed or unknown sizes", found=sorted(sizes)[:8])
    return encode_pcrs({_BANK_SIZES[sizes.pop()]: dict(enumerate(listed))})


# KBS protocol, JSON


def from_tpm_envelope(value: Mapping[str, Any]) -> Evidence:
    """Evidence of "tpm" from its KBS JSON object. Raises `MalformedError` (`field-missing`... and `tpm-malformed`)."""
    fields = Fields(value, "TPM evidence")
    quote = Fields(fields.table("tpm_quote"), "tpm_quote")
    ak = unb64(fields.text("ak_public"), what="ak_public", limit=4096)
    signature, message = (unb64(quote.text(name), what=name, limit=4096) for name in ("signature", "message"))
    pcrs = [unhex(_text(item), what="a PCR value") for item in quote.array("pcrs", limit=_PCRS)]
    quote.finish()
    fields.finish()
    return Evidence(TPM, message, parts={"signature": signature, "pcrs": pcr_part(pcrs), "ak": ak})


def from_azure_snp_envelope(value: Mapping[str, Any]) -> Evidence:
    """Evidence of "az-snp-vtpm" from its KBS JSON object, version 0, 1 or 2. Raises `MalformedError`."""
    fields = Fields(value, "Azure SNP evidence")
    version = fields.integer("version", default=0, high=2)
    if version:
        parts = _quote_hex(fields.table("tpm_quote"))
        parts["hcl-report"] = _url(fields.text("hcl_report", limit=4 * hcl.LIMIT), "hcl_report", hcl.LIMIT)
        vcek = _url(fields.text("vcek", limit=64 << 10), "vcek", 16 << 10)
    else:
        parts = _quote_bytes(fields.table("quote"))
        parts["hcl-report"] = _bytes(fields.array("report", limit=hcl.LIMIT), "report")
        vcek = _first(fields.text("vcek", limit=64 << 10))
    fields.finish()
    return _azure(AZURE_SNP, parts, version, (vcek,))


def from_azure_tdx_envelope(value: Mapping[str, Any]) -> Evidence:
    """Evidence of "az-tdx-vtpm" from its KBS JSON object, version 0, 1 or 2. Raises `MalformedError`."""
    fields = Fields(value, "Azure TDX evidence")
    version = fields.integer("version", default=0, high=2)
    if version:
        parts = _quote_hex(fields.table("tpm_quote"))
        parts["hcl-report"] = _url(fields.text("hcl_report", limit=4 * hcl.LIMIT), "hcl_report", hcl.LIMIT)
        parts["td-quote"] = _url(fields.text("td_quote", limit=2 * _QUOTE_LIMIT), "td_quote", _QUOTE_LIMIT)
    else:
        parts = _quote_bytes(fields.table("tpm_quote"))
        parts["hcl-report"] = _bytes(fields.array("hcl_report", limit=hcl.LIMIT), "hcl_report")
        parts["td-quote"] = _bytes(fields.array("td_quote", limit=_QUOTE_LIMIT), "td_quote")
    fields.finish()
    return _azure(AZURE_TDX, parts, version, ())


def _azure(tee: str, parts: dict[str, bytes], version: int, certificates: tuple[bytes, ...]) -> Evidence:
    message = parts.pop("message")
    if not message:
        raise MalformedError("tpm-malformed", "the quote is empty", found="0 bytes")
    return Evidence(tee, message, certificates, {**parts, "version": str(version).encode()})


def _first(text: str) -> bytes:
    blocks = read_blocks(text.encode(), CERTIFICATE)
    if not blocks:
        raise MalformedError("tpm-malformed", "no certificate in vcek", expected="PEM", found=f"{len(text)} characters")
    return blocks[0]


def _quote_hex(value: Mapping[str, Any]) -> dict[str, bytes]:
    fields = Fields(value, "tpm_quote")
    parts = {name: unhex(fields.text(name, limit=8192), what=name) for name in ("signature", "message")}
    parts["pcrs"] = pcr_part(unhex(_text(item), what="a PCR value") for item in fields.array("pcrs", limit=_PCRS))
    fields.finish()
    return parts


def _quote_bytes(value: Mapping[str, Any]) -> dict[str, bytes]:
    fields = Fields(value, "quote")
    parts = {name: _bytes(fields.array(name, limit=4096), name) for name in ("signature", "message")}
    parts["pcrs"] = pcr_part(_bytes(item, "a PCR value") for item in fields.array("pcrs", limit=_PCRS))
    fields.finish()
    return parts


def _text(value: Any) -> str:
    return Fields({"value": value}, "a list").text("value", limit=256)


def _bytes(value: Any, what: str) -> bytes:
    """Bytes of a list of numbers from 0 to 255."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 255 for item in value):
        raise MalformedError("tpm-malformed", f"{what} is no list of bytes", expected="[0..255, ...]")
    return bytes(value)


def _url(text: str, what: str, limit: int) -> bytes:
    """URL-safe base64, with padding (Trustee's own samples) or without."""
    return unb64url(text.rstrip("="), what=what, limit=limit)


# Binary containers


def from_bincode(data: bytes) -> Evidence:
    """What Azure's Rust tools write: signature and message with lengths in eight bytes (little-endian), a count, and as
    many SHA-256 PCR values. Raises `MalformedError` (`tpm-malformed`)."""
    items: list[bytes] = []
    position = 0
    for _ in range(2):
        size = int.from_bytes(data[position : position + 8], "little")
        items.append(data[position + 8 : position + 8 + size])
        position += 8 + size
        if position > len(data):
            raise MalformedError("tpm-malformed", "the quote is too short", expected=position, found=len(data))
    count = int.from_bytes(data[position : position + 8], "little")
    if count > _PCRS or len(data) != position + 8 + 32 * count:
        raise MalformedError("tpm-malformed", "not as many PCR values as said", expected=f"<= {_PCRS}", found=count)
    values = [data[start : start + 32] for start in range(position + 8, len(data), 32)]
    return Evidence(TPM, items[1], parts={"signature": items[0], "pcrs": pcr_part(values)})


def from_attestation(data: bytes) -> Evidence:
    """go-tpm-tools' Attestation (proto/attest.proto): AK 1, quotes 2, event log 3, AK certificate 6, intermediates 7, a
    hardware report 8 or 9. The quote of the strongest bank becomes the report.

    Raises `MalformedError` (`protobuf-malformed`, `tpm-malformed`).
    """
    message = parse_message(data)
    quotes = [parse_message(item) for item in all_bytes(message, 2)]
    if not 0 < len(quotes) <= QUOTES:
        raise MalformedError("tpm-malformed", "no quotes or too many", expected=f"1..{QUOTES}", found=len(quotes))
    banks: dict[str, dict[int, bytes]] = {}
    for quote in quotes:
        name, values = _pcrs(parse_message(one_bytes(quote, 3)))
        if banks.setdefault(name, values) != values:
            raise MalformedError("tpm-malformed", "a bank has two sets of values", found=name)
    ranked = sorted(quotes, key=_rank)
    public = one_bytes(message, 1)
    parts = numbered((one_bytes(quote, 1), one_bytes(quote, 2)) for quote in ranked)
    report = parts.pop("quote")
    optional = {
        "event-log": one_bytes(message, 3),
        "tee-attestation": one_bytes(message, 8) or one_bytes(message, 9),
    }
    parts |= {"pcrs": encode_pcrs(banks), "ak-public": public} | {name: part for name, part in optional.items() if part}
    certificates = tuple(part for part in (one_bytes(message, 6), *all_bytes(message, 7)) if part)
    return Evidence(TPM, report, certificates, parts)


def _rank(quote: Message) -> int:
    name = _pcrs(parse_message(one_bytes(quote, 3)))[0]
    return STRENGTH.index(name) if name in STRENGTH else len(STRENGTH)


def _pcrs(message: Message) -> tuple[str, dict[int, bytes]]:
    """One bank from tpm.proto's PCRs: algorithm 1, map of values 2."""
    number = one_number(message, 1)
    values: dict[int, bytes] = {}
    for item in all_bytes(message, 2):
        entry = parse_message(item)
        index = one_number(entry, 1)
        if index in values:
            raise MalformedError("tpm-malformed", "a PCR has two values", found=index)
        values[index] = one_bytes(entry, 2)
    return ALGORITHMS.get(number, (f"{number:#06x}", 0))[0], values


def numbered(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """Quotes and signatures as parts: "quote", "signature", "quote-2"... Empty signatures are left out."""
    parts: dict[str, bytes] = {}
    for index, (message, signature) in enumerate(pairs, 1):
        suffix = "" if index == 1 else f"-{index}"
        parts[f"quote{suffix}"] = message
        if signature:
            parts[f"signature{suffix}"] = signature
    return parts
