"""What may be asked for: the parameters of a `Need`, typed and bounded. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError, UsageError
from kokon.tee.evidence import Need
from kokon.wire import unhex

CHIP_ID_SIZE: Final = 64
TURIN_ID_SIZE: Final = 8
"""Bytes of the hardware id that AMD's service wants: all of CHIP_ID, on Turin its first eight (facts, SNP)."""

FMSPC_SIZE: Final = 6
COMPONENTS: Final[Mapping[str, str]] = {
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
    "fmc": "fmcSPL",
}
"""TCB components by our name, and the parameter of AMD's service for each (AMD document 57230, section 4)."""

FETCHED: Final = frozenset({"vcek", "amd-chain", "amd-crl", "tcb-info", "qe-identity", "pck-crl", "root-crl", "pck"})
"""Kinds that a service can be asked for; the others only the attester's owner has."""

_PRODUCT = re.compile(r"[A-Z][A-Za-z0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Chip:
    """Which VCEK: product line, hardware id as the service wants it, TCB by component."""

    product: str
    hardware_id: bytes
    tcb: Mapping[str, int]


def parameter(need: Need, name: str, *allowed: str) -> str:
    """One parameter's value, one of `allowed` if any are named. Raises `UsageError` (`endorsement-parameters`)."""
    value = dict(need.parameters).get(name, "")
    if not value or (allowed and value not in allowed):
        raise _wrong(need, f"{name}: {', '.join(allowed) or 'a value'}", value or "nothing")
    return value


def product(need: Need) -> str:
    """The AMD product line. Raises `UsageError` (`endorsement-parameters`)."""
    value = parameter(need, "product")
    if not _PRODUCT.fullmatch(value):
        raise _wrong(need, "a product line, as Milan", value)
    return value


def octets(need: Need, name: str, size: int | None = None) -> bytes:
    """A parameter in hex. Raises `UsageError` (`endorsement-parameters`)."""
    value = parameter(need, name)
    try:
        return unhex(value, what=name, size=size)
    except MalformedError as error:
        raise _wrong(need, f"{name}: hex" + ("" if size is None else f" of {size} bytes"), value[:160]) from error


def chip(need: Need) -> Chip:
    """What a need of a VCEK names. Raises `UsageError` (`endorsement-parameters`)."""
    line = product(need)
    size = TURIN_ID_SIZE if line == "Turin" else CHIP_ID_SIZE
    identity = octets(need, "chip-id")
    if len(identity) not in (size, CHIP_ID_SIZE) or any(identity[size:]) or not any(identity):
        raise _wrong(need, f"chip-id: {size} bytes, not all zero", identity.hex())
    given = dict(need.parameters)
    wanted = [name for name in COMPONENTS if name != "fmc" or name in given]
    tcb = {}
    for name in wanted:
        value = parameter(need, name)
        if not (value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 0xFF):
            raise _wrong(need, f"{name}: 0..255", value)
        tcb[name] = int(value)
    return Chip(line, identity[:size], tcb)


def vcek_need(line: str, chip_id: str, tcb: Mapping[str, int]) -> Need:
    """The need of one chip's VCEK at one TCB."""
    values = {"product": line, "chip-id": chip_id.lower()} | {name: str(value) for name, value in tcb.items()}
    return Need("vcek", tuple(sorted(values.items())))


def amd_needs(line: str) -> tuple[Need, ...]:
    """What there is for an AMD product line as a whole: both chains and the revocation list."""
    chains = (Need("amd-chain", (("kind", kind), ("product", line))) for kind in ("vcek", "vlek"))
    return (*chains, Need("amd-crl", (("product", line),), required=False))


def intel_needs(tees: tuple[str, ...], fmspcs: tuple[str, ...]) -> tuple[Need, ...]:
    """What there is for Intel platforms: TCB info of each FMSPC, quoting enclave identities, revocation lists."""
    infos = [Need("tcb-info", (("fmspc", fmspc.lower()), ("tee", tee))) for fmspc in fmspcs for tee in tees]
    identities = [Need("qe-identity", (("tee", tee),)) for tee in tees]
    lists = [Need("pck-crl", (("ca", ca),)) for ca in ("platform", "processor")]
    return (*infos, *identities, *lists, Need("root-crl", ()))


def _wrong(need: Need, expected: str, found: str) -> UsageError:
    return UsageError(
        "endorsement-parameters", f"no service can be asked for: {need}"[:300], expected=expected, found=found
    )
