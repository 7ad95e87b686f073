"""EAR documents (draft-ietf-rats-ear), with the profile that Confidential Containers' relying parties read. Pure.

The annotated evidence names claims as Trustee, the Confidential Containers attestation service, does, so that resource
policies written for it work unchanged: `snp.measurement`, `tdx.quote.body.mr_td`, `az-snp-vtpm.tpm.pcr11`. What a TEE's
package gives under such names in `Claims.details` is taken as it is; what is missing is made from the claims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from kokon import __version__
from kokon.appraisal.reference import register_name
from kokon.tee.evidence import Claims

PROFILE: Final = "tag:github.com,2024:confidential-containers/Trustee"
DEVELOPER: Final = "https://kokon.dev"

_LIFTED: Final = ("report_data", "init_data")
"""Trustee takes these out of the TEE's claims and sets them beside them."""


def ear_document(
    claims: Claims,
    appraisal: Mapping[str, Any],
    now: datetime,
    lifetime: timedelta,
    *,
    issuer: str,
    runtime_data: Mapping[str, Any] | None,
    members: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The claims set of a token for `claims`, whose `cpu0` submodule is `appraisal` and the annotated evidence.
    `members` stand there for all that `tee_claims` gives."""
    issued = int(now.timestamp())
    evidence: dict[str, Any] = {
        claims.tee: tee_claims(claims) if members is None else members,
        "report_data": claims.report_data.hex(),
        "init_data": claims.host_data.hex(),
    }
    if runtime_data is not None:
        evidence["runtime_data_claims"] = dict(runtime_data)
    return {
        "eat_profile": PROFILE,
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
        "iss": issuer,
        "ear.verifier-id": {"developer": DEVELOPER, "build": f"kokon {__version__}"},
        "simulated": claims.simulated,
        "submods": {"cpu0": {**appraisal, "ear.veraison.annotated-evidence": evidence}},
    }


def tee_claims(claims: Claims) -> dict[str, Any]:
    """The claims of one TEE by Trustee's names, and those of ours that it has none for."""
    common = {"product": claims.product, "root": claims.root, "chip_id": claims.chip_id.hex()}
    made = _MAKERS.get(claims.tee, _plain)(claims)
    inner = {part.tee for part in claims.parts} - {claims.tee}
    details = {name: value for name, value in claims.details.items() if name not in inner}
    members = {**common, **made, **details}
    return {name: value for name, value in members.items() if name not in _LIFTED}


def _snp(claims: Claims) -> dict[str, Any]:
    return {
        "measurement": claims.measurement.hex(),
        "vmpl": claims.vmpl,
        "policy_debug_allowed": claims.debug,
        "policy_migrate_ma": claims.migratable,
        **{f"reported_tcb_{name}": value for name, value in claims.reported_tcb.items()},
    }


_TD_BODY: Final[Mapping[str, str]] = {
    "mrtd": "mr_td",
    "mrseam": "mr_seam",
    "mrsignerseam": "mrsigner_seam",
    "mrowner": "mr_owner",
    "mrownerconfig": "mr_owner_config",
    "mrservicetd": "mr_servicetd",
    **{f"rtmr{number}": f"rtmr_{number}" for number in range(4)},
}


def _tdx(claims: Claims) -> dict[str, Any]:
    body = {"mr_td": claims.measurement.hex(), "mr_config_id": claims.host_data.hex()}
    for name, value in claims.registers.items():
        plain = register_name(name)
        if plain in _TD_BODY:
            body[_TD_BODY[plain]] = value.hex()
    body["report_data"] = claims.report_data.hex()
    return {"quote": {"body": body}, "td_attributes": {"debug": claims.debug}, **_intel(claims)}


def _sgx(claims: Claims) -> dict[str, Any]:
    body = {
        "mr_enclave": claims.measurement.hex(),
        "mr_signer": claims.signer.hex(),
        "config_id": claims.host_data.hex(),
        "isv_prod_id": (claims.product_id & 0xFFFF).to_bytes(2, "little").hex(),
        "isv_svn": (claims.security_version & 0xFFFF).to_bytes(2, "little").hex(),
        "report_data": claims.report_data.hex(),
    }
    return {"body": body, **_intel(claims)}


def _intel(claims: Claims) -> dict[str, Any]:
    return {"tcb_status": claims.tcb_status, "advisory_ids": list(claims.advisories)}


def _pcrs(claims: Claims) -> dict[str, str]:
    """PCRs with two digits, as Trustee writes them."""
    found = {register_name(name): value.hex() for name, value in claims.registers.items()}
    numbers = {name: name.removeprefix("pcr") for name in found if name.startswith("pcr")}
    return {f"pcr{number:0>2}": found[name] for name, number in sorted(numbers.items()) if number.isdecimal()}


def _tpm(claims: Claims) -> dict[str, Any]:
    return dict(_pcrs(claims))


def _azure(claims: Claims) -> dict[str, Any]:
    """The hardware report's claims with the vTPM's registers in `tpm`."""
    inner = tee_claims(claims.parts[0]) if claims.parts else {}
    return {**inner, "tpm": _pcrs(claims)}


def _plain(claims: Claims) -> dict[str, Any]:
    registers = {name: value.hex() for name, value in claims.registers.items()}
    return {"measurement": claims.measurement.hex(), "debug": claims.debug, **registers}


_MAKERS: Final[Mapping[str, Callable[[Claims], dict[str, Any]]]] = {
    "snp": _snp,
    "tdx": _tdx,
    "sgx": _sgx,
    "tpm": _tpm,
    "az-snp-vtpm": _azure,
    "az-tdx-vtpm": _azure,
}
