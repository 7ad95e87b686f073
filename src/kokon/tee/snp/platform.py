"""Whether a report and the certificates behind it speak of the same machine. Pure.

The answer depends on the machine and its certificates only, and is remembered by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from kokon.tee.certificates import REMEMBERED, Certificate
from kokon.tee.evidence import Check, failed, not_checked, passed
from kokon.tee.snp.extensions import ChipExtensions
from kokon.tee.snp.report import VLEK, Report, product_of, tcb_components
from kokon.tee.snp.selection import LEAF_NAMES, chip_id_of, extensions_of, layout

CHAIN_LENGTH: Final = 3
_SHA384: Final = bytes.fromhex("300d06096086480165030402020500")
_PSS: Final = (
    bytes.fromhex("06092a864886f70d01010a"),
    b"\xa0\x0f" + _SHA384 + bytes.fromhex("a11c301a06092a864886f70d010108") + _SHA384 + bytes.fromhex("a203020130"),
    bytes.fromhex("a303020101"),
)
"""RSASSA-PSS, its parameters (SHA-384, MGF1 with SHA-384, salt of 48 bytes), the default trailer (RFC 4055, 3.1)."""
_PARAMETERS: Final = (
    b"\x30\x46" + _PSS[0] + b"\x30\x39" + _PSS[1] + _PSS[2],
    b"\x30\x41" + _PSS[0] + b"\x30\x34" + _PSS[1],
)
"""The signature algorithm of AMD's certificates as AMD writes it and as DER demands it, without the trailer."""

_passed = lru_cache(maxsize=REMEMBERED)(passed)


def check_parameters(path: tuple[Certificate, ...]) -> Check:
    """RSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt, as AMD signs (57230, "Certificate Format")."""
    name = "signature-parameters"
    for certificate in path:
        if not certificate.der.partition(certificate.signed)[2].startswith(_PARAMETERS):
            expected, found = "RSA-PSS, SHA-384, MGF1, 48 bytes of salt", certificate.algorithm.dotted_string
            return failed(name, "snp-signature-parameters", expected=expected, found=f"{certificate.name}: {found}")
    return passed(name, "RSA-PSS, SHA-384, MGF1, 48 bytes of salt")


class Platform(NamedTuple):
    """What a report says of the machine and not of the guest: it stays the same until the firmware changes."""

    signing_key: int
    product: str | None
    turin: bool
    reported: bytes
    committed: bytes
    current: bytes
    chip_id: bytes


def platform_of(report: Report, chip: ChipExtensions) -> Platform:
    """What `check_platform` needs of a report."""
    return Platform(
        report.signing_key,
        product_of(report),
        layout(report, chip),
        report.reported_tcb,
        report.committed_tcb,
        report.current_tcb,
        report.chip_id,
    )


@lru_cache(maxsize=REMEMBERED)
def check_platform(platform: Platform, path: tuple[Certificate, ...], by_root: str | None) -> tuple[Check, ...]:
    """What AMD wrote into the certificates of a path, whose leaf is a VCEK or VLEK, against what the firmware wrote
    into the report; `by_root` is the product line of AMD's root, None for any other root."""
    chip = extensions_of(path[0])
    return (
        _check_signing_key(platform, path[0]),
        _check_tcb(platform, chip),
        _check_tcb_order(platform),
        _check_chip_id(platform, chip),
        _check_product(platform, chip, by_root),
        *_check_intermediate(path, chip, by_root),
    )


def _check_signing_key(platform: Platform, leaf: Certificate) -> Check:
    kind = LEAF_NAMES.get(platform.signing_key)
    if leaf.name != kind:
        return failed("signing-key", "snp-signing-key-mismatch", expected=kind or "VCEK or VLEK", found=leaf.name)
    return passed("signing-key", kind)


def _check_tcb(platform: Platform, chip: ChipExtensions) -> Check:
    reported = tcb_components(platform.reported, turin=platform.turin)
    if reported != dict(chip.tcb):
        return failed(
            "tcb",
            "snp-tcb-mismatch",
            expected=_tcb_text(chip.tcb),
            found=_tcb_text(reported),
            hint="ask AMD's key service for this chip's certificate for the TCB that was found",
        )
    return passed("tcb", _tcb_text(reported))


def _check_tcb_order(platform: Platform) -> Check:
    """REPORTED_TCB <= COMMITTED_TCB <= CURRENT_TCB in each component (56860, "TCB Version"). LAUNCH_TCB has no place in
    that order: firmware may be rolled back to the committed version after a guest was launched."""
    raw = (("reported", platform.reported), ("committed", platform.committed), ("current", platform.current))
    tcbs = [(name, tcb_components(tcb, turin=platform.turin)) for name, tcb in raw]
    for (lesser, lower), (greater, higher) in pairwise(tcbs):
        if any(lower[part] > higher[part] for part in lower):
            return failed(
                "tcb-order",
                "snp-tcb-order",
                expected=f"{lesser} <= {greater}",
                found=f"{_tcb_text(lower)}; {_tcb_text(higher)}",
                hint="AMD's firmware makes no such report",
            )
    return passed("tcb-order", "reported <= committed <= current")


def _check_chip_id(platform: Platform, chip: ChipExtensions) -> Check:
    expected = chip_id_of(chip)
    if expected is None and platform.signing_key == VLEK:
        return not_checked("chip-id", "snp-chip-id-unbound", "a VLEK is not bound to one chip")
    if expected is not None and not any(platform.chip_id):
        return not_checked("chip-id", "snp-chip-id-masked", "the host told the firmware not to name the chip")
    if platform.chip_id != expected:
        return failed(
            "chip-id",
            "snp-chip-id-mismatch",
            expected="none" if expected is None else expected.hex(),
            found=platform.chip_id.hex(),
            hint="the certificate is another chip's",
        )
    return passed("chip-id", platform.chip_id.hex()[:16])


def _check_product(platform: Platform, chip: ChipExtensions, by_root: str | None) -> Check:
    if by_root not in (None, chip.product) or platform.product not in (None, chip.product):
        found = f"certificate {chip.product}, CPUID {platform.product or 'unknown'}, root {by_root or 'unknown'}"
        return failed("product", "snp-product-mismatch", expected="one product line", found=found)
    return passed("product", chip.product)


def _check_intermediate(path: tuple[Certificate, ...], chip: ChipExtensions, by_root: str | None) -> Iterator[Check]:
    """AMD's intermediates for VCEKs (ASK) and VLEKs (ASVK) are told apart by name; a simulated vendor may call its own
    as it likes, as long as it does not use AMD's names for the other kind."""
    if not path[-1].self_issued:
        return
    expected = ("SEV-VLEK-" if path[0].name == LEAF_NAMES[VLEK] else "SEV-") + chip.product
    name = path[1].name if len(path) > 1 else path[0].name
    wrong = name != expected and (by_root is not None or name.startswith("SEV-"))
    if wrong or len(path) != CHAIN_LENGTH:
        yield failed("intermediate", "snp-intermediate-mismatch", expected=expected, found=name)
    else:
        yield passed("intermediate", name)


def _tcb_text(tcb: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(tcb.items()))
