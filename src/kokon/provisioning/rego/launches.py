"""Acceptable launches, as CoRIMs state them, under the names by which policies ask for reference values. Pure.

snp   `snp_launch_measurement`: hexadecimal texts
tdx   `mr_td`, `mr_seam`, `rtmr_0` to `rtmr_3`: hexadecimal texts
tpm   `tpm_pcr00` to `tpm_pcr23` by their two digits, but `tpm_pcr11` alone is asked for by the default policy
sgx   `sgx_launches`: objects of `mr_enclave` or `mr_signer` (hexadecimal), `isv_prod_id` and `isv_svn`, the lowest

Such policies ask for each name by itself: of two launches that differ in two registers they would also accept one half
of each. So these are refused (`reference-ambiguous`), and so is what a CoRIM demands and no name here can say
(`reference-unsupported`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kokon.appraisal.reference import ReferenceValues
from kokon.errors import MalformedError

_TDX: Final[Mapping[str, str]] = {"mrseam": "mr_seam", **{f"rtmr{number}": f"rtmr_{number}" for number in range(4)}}
_TPM: Final[Mapping[str, str]] = {f"pcr{number}": f"tpm_pcr{number:02}" for number in range(24)}

_NAMES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "snp": ("snp_launch_measurement", {}),
    "tdx": ("mr_td", _TDX),
    "tpm": ("", _TPM),
}
"""By TEE: the measurement's name, and those of registers."""

Launch = dict[str, list[str]]


def launch_values(references: Iterable[ReferenceValues]) -> dict[str, Any]:
    """Names and values for all `references`.

    Raises `MalformedError` (`reference-unsupported`, `reference-ambiguous`).
    """
    by_tee: dict[str, list[Launch]] = {}
    enclaves: list[dict[str, Any]] = []
    for reference in references:
        if reference.tee == "sgx":
            enclaves += _enclaves(reference)
        else:
            by_tee.setdefault(reference.tee, []).append(_launch(reference))
    found: dict[str, Any] = {}
    for tee, launches in by_tee.items():
        found |= _joined(tee, launches)
    return found | ({"sgx_launches": enclaves} if enclaves else {})


def _launch(reference: ReferenceValues) -> Launch:
    """One launch of a TEE whose values are asked for one by one."""
    measured, names = _NAMES.get(reference.tee, ("", {}))
    if reference.signers or reference.product_id is not None or reference.security_version is not None:
        raise _unsupported(reference, "a signer, product or security version")
    _check_rest(reference)
    launch = {}
    if reference.measurements:
        launch[_known(reference, "measurement", measured)] = [value.hex() for value in reference.measurements]
    for register, values in reference.registers.items():
        launch[_known(reference, register, names.get(register, ""))] = [value.hex() for value in values]
    return launch


def _enclaves(reference: ReferenceValues) -> list[dict[str, Any]]:
    """What an SGX enclave must be: everything in one object, for each measurement and each signer that will do."""
    if reference.registers or not (reference.measurements or reference.signers):
        raise _unsupported(reference, ", ".join(reference.registers) or "neither enclave nor signer")
    _check_rest(reference)
    rest = {"isv_prod_id": reference.product_id, "isv_svn": reference.security_version}
    common: dict[str, Any] = {name: value for name, value in rest.items() if value is not None}
    enclaves = [{"mr_enclave": value.hex(), **common} for value in reference.measurements] or [common]
    return [{**one, "mr_signer": value.hex()} for one in enclaves for value in reference.signers] or enclaves


def _check_rest(reference: ReferenceValues) -> None:
    if reference.host_data is not None or reference.report_data is not None or reference.minimum_tcb:
        raise _unsupported(reference, "host data, report data or a lowest TCB")


def _known(reference: ReferenceValues, register: str, name: str) -> str:
    if not name:
        raise _unsupported(reference, register)
    return name


def _joined(tee: str, launches: list[Launch]) -> Launch:
    """All launches of one TEE, if asking for each name by itself accepts these and no others."""
    names = list(dict.fromkeys(name for launch in launches for name in launch))
    differing = [name for name in names if any(launch.get(name) != launches[0].get(name) for launch in launches)]
    if len(differing) > 1 or any(name not in launch for launch in launches for name in differing):
        raise MalformedError(
            "reference-ambiguous",
            f"launches of {tee} in one CoRIM differ in more than one value, which a policy would take for a choice",
            expected="launches that differ in one",
            found=", ".join(differing),
            hint="register them one by one, or state them in an admission",
        )
    return {name: list(dict.fromkeys(value for launch in launches for value in launch[name])) for name in names}


def _unsupported(reference: ReferenceValues, what: str) -> MalformedError:
    return MalformedError(
        "reference-unsupported",
        "the CoRIM demands what a policy of the key broker has no name for",
        expected="measurements of snp, tdx or tpm, enclaves of sgx",
        found=f"{what} of {reference.tee or 'any TEE'}",
        hint="leaving it out would accept more than the author meant",
    )
