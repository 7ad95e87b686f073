"""Fake evidence in the JSON objects of the KBS protocol (Confidential Containers, Trustee). Pure.

Every kind has its own habits: SNP reports are taken apart into numbers and arrays, Azure's are URL-safe base64 and
hex, the others standard base64.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from kokon.tee.evidence import Evidence
from kokon.testing.vendor.intel_quote import pem

_NAMES: Final = ("VCEK", "ASK", "ARK")


def kbs_envelope(evidence: Evidence, version: int = 2) -> dict[str, Any]:
    """The object that a guest would send. `version` is that of Azure's envelopes, 0 to 2.

    Nitro documents and RA-TLS certificates have none in the KBS protocol; theirs are Kokon's own.
    """
    if evidence.tee.startswith("az-"):
        return _azure(evidence, version)
    return _WRITERS[evidence.tee](evidence)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tcb(data: bytes, *, turin: bool) -> dict[str, int | None]:
    if turin:
        return {"fmc": data[0], "bootloader": data[1], "tee": data[2], "snp": data[3], "microcode": data[7]}
    return {"fmc": None, "bootloader": data[0], "tee": data[1], "snp": data[6], "microcode": data[7]}


def _version(data: bytes) -> dict[str, int]:
    return {"build": data[0], "minor": data[1], "major": data[2]}


def _snp(evidence: Evidence) -> dict[str, Any]:
    raw = evidence.report
    version, guest_svn, policy = struct.unpack_from("<IIQ", raw)
    later = version >= 3
    turin = later and raw[0x188] == 0x1A

    def array(start: int, size: int) -> list[int]:
        return list(raw[start : start + size])

    vectors = struct.unpack_from("<QQ", raw, 0x1F8) if version >= 5 else (None, None)
    report = {
        "version": version, "guest_svn": guest_svn, "policy": policy,
        "family_id": array(0x10, 16), "image_id": array(0x20, 16),
        "vmpl": struct.unpack_from("<I", raw, 0x30)[0], "sig_algo": struct.unpack_from("<I", raw, 0x34)[0],
        "current_tcb": _tcb(raw[0x38:0x40], turin=turin),
        "plat_info": struct.unpack_from("<Q", raw, 0x40)[0], "key_info": struct.unpack_from("<I", raw, 0x48)[0],
        "report_data": array(0x50, 64), "measurement": array(0x90, 48), "host_data": array(0xC0, 32),
        "id_key_digest": array(0xE0, 48), "author_key_digest": array(0x110, 48),
        "report_id": array(0x140, 32), "report_id_ma": array(0x160, 32),
        "reported_tcb": _tcb(raw[0x180:0x188], turin=turin),
        "cpuid_fam_id": raw[0x188] if later else None, "cpuid_mod_id": raw[0x189] if later else None,
        "cpuid_step": raw[0x18A] if later else None,
        "chip_id": array(0x1A0, 64), "committed_tcb": _tcb(raw[0x1E0:0x1E8], turin=turin),
        "current": _version(raw[0x1E8:0x1EB]), "committed": _version(raw[0x1EC:0x1EF]),
        "launch_tcb": _tcb(raw[0x1F0:0x1F8], turin=turin),
        "launch_mit_vector": vectors[0], "current_mit_vector": vectors[1],
        "signature": {"r": array(0x2A0, 72), "s": array(0x2E8, 72)},
    }  # fmt: skip
    vlek = struct.unpack_from("<I", raw, 0x48)[0] >> 2 & 7 == 1
    names = ("VLEK", *_NAMES[1:]) if vlek else _NAMES
    pairs = zip(names, evidence.certificates, strict=False)
    chain = [{"cert_type": name, "data": list(der)} for name, der in pairs]
    return {"attestation_report": report, "cert_chain": chain or None}


def _tdx(evidence: Evidence) -> dict[str, Any]:
    log = evidence.parts.get("event-log")
    return {"cc_eventlog": None if log is None else _b64(log), "quote": _b64(evidence.report)}


def _sgx(evidence: Evidence) -> dict[str, Any]:
    return {"quote": _b64(evidence.report)}


def _nitro(evidence: Evidence) -> dict[str, Any]:
    return {"document": _b64(evidence.report)}


def _ratls(evidence: Evidence) -> dict[str, Any]:
    return {"ra-tls-certificate": _b64(evidence.report)}


def _pcrs(evidence: Evidence) -> list[bytes]:
    """The values of a part with one SHA-256 bank of all 24 registers."""
    return [evidence.parts["pcrs"][3 + 33 * index + 1 : 3 + 33 * (index + 1)] for index in range(24)]


def _tpm(evidence: Evidence) -> dict[str, Any]:
    quote = {
        "signature": _b64(evidence.parts["signature"]),
        "message": _b64(evidence.report),
        "pcrs": [value.hex() for value in _pcrs(evidence)],
    }
    return {"tpm_quote": quote, "ak_public": _b64(evidence.parts["ak"])}


def _azure(evidence: Evidence, version: int) -> dict[str, Any]:
    quote = {"signature": evidence.parts["signature"], "message": evidence.report}
    hcl, td_quote = evidence.parts["hcl-report"], evidence.parts.get("td-quote")
    if version == 0:
        numbers: dict[str, Any] = {name: list(value) for name, value in quote.items()}
        numbers["pcrs"] = [list(value) for value in _pcrs(evidence)]
        if td_quote is not None:
            return {"tpm_quote": numbers, "hcl_report": list(hcl), "td_quote": list(td_quote)}
        return {"quote": numbers, "report": list(hcl), "vcek": pem(evidence.certificates[0]).decode()}
    texts: dict[str, Any] = {name: value.hex() for name, value in quote.items()}
    texts["pcrs"] = [value.hex() for value in _pcrs(evidence)]
    members: dict[str, Any] = {"version": version, "tpm_quote": texts, "hcl_report": _url(hcl)}
    return members | ({"vcek": _url(evidence.certificates[0])} if td_quote is None else {"td_quote": _url(td_quote)})


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


_WRITERS: Final[Mapping[str, Callable[[Evidence], dict[str, Any]]]] = {
    "snp": _snp,
    "tdx": _tdx,
    "sgx": _sgx,
    "nitro": _nitro,
    "ratls": _ratls,
    "tpm": _tpm,
}
