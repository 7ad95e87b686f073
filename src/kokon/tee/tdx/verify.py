"""TDX evidence to claims: the quote, what stands behind it (`tee.intel`), and what the TD is. Pure.

A TD in debug mode, without SEPT_VE_DISABLE or bound to a service TD is refused as Intel's and dcap-qvl's verifiers do;
each of these failures names the switch with which a policy may excuse it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import parse_event_log
from kokon.tee.eventlog.replay import replay_check
from kokon.tee.evidence import Check, Claims, Evidence, canonical_digest, failed, not_checked, passed
from kokon.tee.intel.quote import Quote, TdReport, parse_quote
from kokon.tee.intel.verify import tdx_components, verify_platform
from kokon.tee.tdx.describe import describe_quote

EVENT_LOG: Final = "event-log"
"""The part of the evidence that holds the CC event log (CCEL)."""

DEBUG: Final = 0xFF
"""TDATTRIBUTES bits 0 to 7, "TD under debug": bit 0 is DEBUG, the others let tools profile the TD."""
SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
PROTECTION_KEYS: Final = 1 << 30
KEY_LOCKER: Final = 1 << 31
PERFMON: Final = 1 << 63
_KNOWN: Final = DEBUG | SEPT_VE_DISABLE | PROTECTION_KEYS | KEY_LOCKER | PERFMON

_RTMRS: Final = {1: "rtmr0", 2: "rtmr1", 3: "rtmr2", 4: "rtmr3"}
"""Register numbers in a CC event log; 0 would be MRTD (UEFI 2.10, 38.4.1)."""


def parse_td_quote(data: bytes) -> tuple[Quote, TdReport]:
    """A TDX quote and its body. Raises what `parse_quote` raises, `quote-tee-type` for an SGX quote."""
    quote = parse_quote(data)
    if not isinstance(quote.body, TdReport):
        raise MalformedError("quote-tee-type", "this is no TDX quote", expected="TDX", found="SGX")
    return quote, quote.body


def verify(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of TDX evidence at the time `now` (aware), with all checks.

    Raises `MalformedError` for bytes that do not parse: a quote, a certificate in it, an event log.
    """
    quote, body = parse_td_quote(evidence.report)
    platform = verify_platform(quote, "tdx", endorsements, now)
    registers = _registers(body)
    checks = (*platform.checks, *check_td(body), *_check_log(evidence.parts, registers))
    current = {} if body.tee_tcb_svn2 is None else {"current": tdx_components(body.tee_tcb_svn2)}
    return Claims(
        tee="tdx",
        simulated=platform.simulated,
        root=platform.root,
        product=platform.product,
        measurement=body.mr_td,
        host_data=body.mr_config_id,
        report_data=body.report_data,
        debug=bool(body.attributes & DEBUG),
        migratable=bool(body.attributes & MIGRATABLE),
        vmpl=0,
        chip_id=(platform.pck and platform.pck.platform_instance_id) or b"",
        reported_tcb=dict(platform.tcb) | tdx_components(body.tee_tcb_svn),
        checks=checks,
        registers=registers,
        tcbs=current,
        tcb_status=platform.tcb_status,
        advisories=platform.advisories,
        details=describe_quote(quote, body) | dict(platform.details),
        needs=platform.needs,
        canonical=canonical_digest("tdx", quote.signed, quote.attestation_key + platform.signer),
    )


def _registers(body: TdReport) -> dict[str, bytes]:
    registers = {
        "mrtd": body.mr_td,
        "rtmr0": body.rtmr0,
        "rtmr1": body.rtmr1,
        "rtmr2": body.rtmr2,
        "rtmr3": body.rtmr3,
        "mrseam": body.mr_seam,
        "mrsignerseam": body.mrsigner_seam,
        "mrowner": body.mr_owner,
        "mrownerconfig": body.mr_owner_config,
        "mrconfigid": body.mr_config_id,
    }
    return registers if body.mr_service_td is None else registers | {"mrservicetd": body.mr_service_td}


def check_td(body: TdReport) -> Iterator[Check]:
    """Debug, reserved attributes, SEPT_VE_DISABLE and service TD (Intel TDX Module ABI, TD_ATTRIBUTES)."""
    attributes = body.attributes
    if attributes & DEBUG:
        hint = "the host can read this TD's memory and registers"
        found = f"{attributes & DEBUG:#04x}"
        yield failed("debug", "tdx-debug", expected="off", found=found, hint=hint, waiver="allow_debug")
    else:
        yield passed("debug", "off")
    reserved = attributes & ~_KNOWN
    if reserved:
        hint = "this code does not know what these bits allow; bit 29 lets the TD migrate"
        yield failed("td-attributes", "tdx-reserved-attributes", expected="0", found=f"{reserved:#x}", hint=hint)
    else:
        yield passed("td-attributes", body.td_attributes.hex())
    if attributes & SEPT_VE_DISABLE:
        yield passed("sept-ve-disable", "on")
    else:
        hint = "the host can inject exceptions by taking pages away; some early clouds start all their TDs so"
        waiver = "allow_sept_ve_off"
        yield failed("sept-ve-disable", "tdx-sept-ve-off", expected="on", found="off", hint=hint, waiver=waiver)
    if body.mr_service_td is None:
        return
    if any(body.mr_service_td):
        hint = "a service TD, of which nothing is known here, may change this TD"
        found = body.mr_service_td.hex()
        waiver = "allow_service_td"
        yield failed("service-td", "tdx-service-td", expected="none", found=found, hint=hint, waiver=waiver)
    else:
        yield passed("service-td", "none")


def _check_log(parts: Mapping[str, bytes], registers: Mapping[str, bytes]) -> Iterator[Check]:
    if EVENT_LOG not in parts:
        yield not_checked("event log", "event-log-absent", "the evidence came without an event log")
        return
    log = parse_event_log(parts[EVENT_LOG])
    yield from replay_check(log, "sha384", {number: registers[name] for number, name in _RTMRS.items()}, _RTMRS)
