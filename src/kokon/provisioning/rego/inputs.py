"""What policies read: evidence by the names of Confidential Containers' attestation service, and what is asked. Pure.

    {"<tee>": claims, "report_data", "init_data", "runtime_data_claims", "init_data_claims"}

Claims are named as in tokens (`kokon.appraisal.ear`). Beside those names stand the ones of other releases of that
service, so that policies for any of them can be used: `snp.evidence`, and on Azure texts instead of numbers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from json import JSONDecodeError, JSONDecoder
from typing import Any, Final

from kokon.appraisal.ear import tee_claims
from kokon.errors import MalformedError
from kokon.provisioning.kbs.initdata import InitData
from kokon.provisioning.rego.events import event_claims, proven_events
from kokon.tee.eventlog.log import EventLog
from kokon.tee.evidence import Claims
from kokon.wire import b64

INNER_LIMIT: Final = 64 << 10
"""Bytes of a TOML document within a launch document."""
_INNER: Final = ("aa.toml", "cdh.toml")
_AGENT_POLICY: Final = "policy.rego"
_AGENT_CLAIMS: Final = "agent_policy_claims"
_POLICY_DATA: Final = re.compile(r"^policy_data[ \t]*:?=[ \t]*(?=\{)", re.MULTILINE)
# The standard library needs minutes for a key of many parts.
_LONG_KEY: Final = re.compile(r"""(?:\.[ \t]*+(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+){64}""")
_TEXTS: Final = ("policy_", "platform_", "reported_tcb_")

_SAMPLE: Final[Mapping[str, Any]] = {"launch_digest": "abcde", "platform_version": {"major": 1, "minor": 4}}
"""What that service says of every sample."""

_SNP_POLICY: Final[Mapping[str, str]] = {
    "abi_major": "abi_major",
    "abi_minor": "abi_minor",
    "smt_allowed": "smt_allowed",
    "migrate_ma_allowed": "migrate_ma_allowed",
    "debug_allowed": "debug_allowed",
    "single_socket_required": "single_socket_required",
    "cxl_allowed": "cxl_allowed",
    "mem_aes_256_xts": "mem_aes_256_xts",
    "rapl_dis": "rapl_dis",
    "ciphertext_hiding": "ciphertext_hiding_dram",
    "page_swap_disabled": "page_swap_disable",
}
_SNP_PLATFORM: Final[Mapping[str, str]] = {
    "smt_enabled": "smt_en",
    "tsme_enabled": "tsme_en",
    "ecc_enabled": "ecc_en",
    "rapl_disabled": "rapl_dis",
    "ciphertext_hiding_enabled": "ciphertext_hiding_dram_en",
    "alias_check_complete": "alias_check_complete",
    "tio_enabled": "tio_en",
}
_SNP_SAME: Final = (
    "version",
    "guest_svn",
    "vmpl",
    "family_id",
    "image_id",
    "report_data",
    "host_data",
    "measurement",
    "id_key_digest",
    "author_key_digest",
    "report_id",
    "report_id_ma",
    "chip_id",
)
_SNP_TCBS: Final = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")


def policy_input(
    claims: Claims,
    *,
    runtime_data: Mapping[str, Any] | None = None,
    init_data: InitData | None = None,
    event_log: EventLog | None = None,
) -> dict[str, Any]:
    """The input of an attestation policy.

    `runtime_data` and `init_data` are what the guest sent, if it was held against the evidence; of `event_log`, the
    evidence's own, policies see what the evidence proves. Raises `MalformedError` (`init-data-malformed`).
    """
    members = tee_claims(claims)
    if claims.tee == "sample":
        members |= _SAMPLE
    elif claims.tee == "snp":
        members["evidence"] = _snp_evidence(claims)
    elif claims.tee == "sgx":
        members |= {"isv_prod_id": claims.product_id, "isv_svn": claims.security_version, "debug": claims.debug}
    elif claims.tee == "az-snp-vtpm":
        members = {name: _azure(name, value) for name, value in members.items()}
    if event_log is not None:
        members["uefi_event_logs"] = event_claims(proven_events(event_log, claims))
    given: dict[str, Any] = {claims.tee: members}
    report_data, bound = _bound(claims, init_data)
    if report_data:
        given["report_data"] = report_data
        if runtime_data is not None:
            given["runtime_data_claims"] = dict(runtime_data)
    if bound:
        given["init_data"] = bound
        if init_data is not None:
            given["init_data_claims"] = init_data_claims(init_data)
    return given


def _bound(claims: Claims, init_data: InitData | None) -> tuple[str, str]:
    """What the evidence is bound to, as texts. A sample has no field for the launch document: whatever was sent is
    taken for bound, so that policies for it can be tried."""
    if claims.tee == "sample":
        return b64(claims.report_data), "" if init_data is None else b64(init_data.digest)
    return claims.report_data.hex(), claims.host_data.hex()


def resource_data(plugin: str, path: Sequence[str], query: Mapping[str, str]) -> dict[str, Any]:
    """The data of a resource policy: which plugin is asked, the segments of the path, the query."""
    return {"plugin": plugin, "resource-path": list(path), "query": dict(query)}


def init_data_claims(document: InitData) -> dict[str, Any]:
    """A launch document's entries: aa.toml and cdh.toml as objects, the data of the agent's policy, whose text is left
    out, as `agent_policy_claims`, others as texts. Raises `MalformedError` (`init-data-malformed`)."""
    found: dict[str, Any] = {}
    for name, text in document.data.items():
        if name in _INNER:
            found[name] = _toml(name, text)
        elif name != _AGENT_POLICY and name != _AGENT_CLAIMS:
            found[name] = text
    claims = _policy_data(document.data.get(_AGENT_POLICY, ""))
    return found if claims is None else {**found, _AGENT_CLAIMS: claims}


def _toml(name: str, text: str) -> Any:
    try:
        if len(text.encode()) > INNER_LIMIT or _LONG_KEY.search(text):
            raise ValueError("it is too large, or has a key of too many parts")
        return _plain(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise MalformedError("init-data-malformed", f"{name} in init-data is not TOML", found=error) from error


def _plain(value: Any) -> Any:
    """TOML's values as JSON's: dates as texts."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else value


def _policy_data(text: str) -> Any:
    """The object that `policy_data` is given last, at the beginning of a line; None if there is none."""
    places = list(_POLICY_DATA.finditer(text))
    if not places:
        return None
    try:
        return JSONDecoder().raw_decode(text, places[-1].end())[0]
    except (JSONDecodeError, RecursionError) as error:
        raise MalformedError(
            "init-data-malformed", "policy_data in the agent's policy is not a JSON object", found=error
        ) from error


def _azure(name: str, value: Any) -> Any:
    """Numbers and switches as texts, as that service gives them for this TEE alone."""
    if not name.startswith(_TEXTS) or not isinstance(value, int):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _snp_evidence(claims: Claims) -> dict[str, Any]:
    """The report in the form that the service has given it since 2026: nested as in AMD's ABI."""
    details = claims.details
    found: dict[str, Any] = {name: details[name] for name in _SNP_SAME if name in details}
    found |= {"measurement": claims.measurement.hex(), "vmpl": claims.vmpl}
    for name, names, source in (("policy", _SNP_POLICY, "policy"), ("plat_info", _SNP_PLATFORM, "platform_info")):
        bits = details.get(source, {})
        found[name] = {name: bits[ours] for name, ours in names.items() if ours in bits}
    found["policy"] |= {"debug_allowed": claims.debug, "migrate_ma_allowed": claims.migratable}
    for name in _SNP_TCBS:
        if name in details:
            found[name] = {"fmc": None, **details[name]}
    return found
