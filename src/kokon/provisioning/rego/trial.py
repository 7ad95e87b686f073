"""Evidence and tokens that nobody made, on which a policy is tried before it is set. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

PolicyKind = Literal["attestation", "resource"]

_DIGEST: Final = "00" * 48
_NONE: Final[Mapping[str, Any]] = MappingProxyType({"reference": {}})
_ASKED: Final[Mapping[str, Any]] = MappingProxyType(
    {"plugin": "resource", "resource-path": ["default", "key", "1"], "query": {}}
)
_TDX: Final[Mapping[str, Any]] = {
    "quote": {
        "header": {"tee_type": "81000000", "vendor_id": "939a7233f79c4ca9940a0db3957f0607"},
        "body": {"mr_td": _DIGEST, "rtmr_1": _DIGEST, "rtmr_2": _DIGEST, "xfam": "e702060000000000"},
    },
    "td_attributes": {"debug": False},
    "tcb_status": "UpToDate",
    "collateral_expiration_status": "0",
}
_SNP: Final[Mapping[str, Any]] = {
    "measurement": _DIGEST,
    "policy_debug_allowed": False,
    "policy_migrate_ma": False,
    "evidence": {"measurement": _DIGEST, "policy": {"debug_allowed": False, "migrate_ma_allowed": False}},
}
_TPM: Final[Mapping[str, Any]] = {"pcr11": "00" * 32}


@dataclass(frozen=True, slots=True)
class TrialInput:
    """What a policy is tried on, and its name for people."""

    name: str
    given: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a policy said of each input: a status, or "allowed", "denied". For people: a policy that allows whom nothing
    is known of deserves a warning."""

    outcomes: tuple[tuple[str, str], ...]


def _evidence(tee: str, claims: Mapping[str, Any]) -> TrialInput:
    return TrialInput(tee, {tee: claims, "report_data": "00", "init_data": "00"}, _NONE)


def _token(name: str, status: str) -> TrialInput:
    submodule = {"ear.status": status, "ear.veraison.annotated-evidence": {"snp": _SNP}}
    return TrialInput(name, {"submods": {"cpu0": submodule}}, _ASKED)


TRIALS: Final[Mapping[PolicyKind, tuple[TrialInput, ...]]] = MappingProxyType(
    {
        "attestation": (
            TrialInput("nothing", {}, _NONE),
            _evidence("sample", {"svn": "1", "launch_digest": "abcde", "debug": False}),
            _evidence("snp", _SNP),
            _evidence("tdx", _TDX),
            _evidence("sgx", {"body": {"mr_enclave": "00" * 32, "mr_signer": "00" * 32}}),
            _evidence("tpm", _TPM),
            _evidence("az-snp-vtpm", {**_SNP, "tpm": _TPM}),
            _evidence("az-tdx-vtpm", {**_TDX, "tpm": _TPM}),
        ),
        "resource": (
            TrialInput("nothing", {}, _ASKED),
            _token("an affirming token", "affirming"),
            _token("a contraindicated token", "contraindicated"),
        ),
    }
)
