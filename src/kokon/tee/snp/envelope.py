"""SNP evidence as the KBS protocol's JSON: a decoded report and a chain of DER certificates as arrays of integers.

The form is what Confidential Containers' attesters send (their serialisation of the report structure); from it the
signed 1184 bytes are rebuilt exactly, which works because `parse_report` refuses reports with anything in reserved
places.
"""

from __future__ import annotations

from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import TURIN_FAMILY, VLEK, Report, encode_fields, parse_report, tcb_bytes
from kokon.wire import Fields

CERTIFICATE_LIMIT: Final = 16 * 1024
_RANKS: Final = {"VCEK": 0, "VLEK": 0, "ASK": 1, "ARK": 2}
_SIZES: Final = {
    "family_id": 16,
    "image_id": 16,
    "report_data": 64,
    "measurement": 48,
    "host_data": 32,
    "id_key_digest": 48,
    "author_key_digest": 48,
    "report_id": 32,
    "report_id_ma": 32,
    "chip_id": 64,
}
_TCBS: Final = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_VERSIONS: Final = ("current", "committed")
_COMPONENTS: Final = ("bootloader", "tee", "snp", "microcode")
_WORD: Final = 2**32 - 1
_LONG: Final = 2**64 - 1


def to_envelope(evidence: Evidence) -> dict[str, Any]:
    """The JSON object for `tee-evidence`. Raises what `parse_report` raises, and `certificate-count`."""
    if len(evidence.certificates) > 3:
        raise MalformedError(
            "certificate-count", "an SNP chain has three certificates", found=len(evidence.certificates)
        )
    report = parse_report(evidence.report)
    names = ("VLEK" if report.signing_key == VLEK else "VCEK", "ASK", "ARK")
    chain = [{"cert_type": name, "data": list(data)} for name, data in zip(names, evidence.certificates, strict=False)]
    return {"attestation_report": _report_object(report), "cert_chain": chain or None}


def _report_object(report: Report) -> dict[str, Any]:
    half = len(report.signature) // 2
    members: dict[str, Any] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy,
        "vmpl": report.vmpl,
        "sig_algo": report.signature_algorithm,
        "plat_info": report.platform_info,
        "key_info": report.key_info,
    }
    members |= {name: list(getattr(report, name)) for name in _SIZES}
    for name in _TCBS:
        members[name] = {"fmc": None} | report.tcb(getattr(report, name))
    for name in _VERSIONS:
        build, minor, major = getattr(report, f"{name}_version")
        members[name] = {"major": major, "minor": minor, "build": build}
    if report.version >= 3:
        parts = ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")
        members |= zip(parts, report.cpuid, strict=True)
    if report.version >= 5:
        members["launch_mit_vector"] = report.launch_mitigations
        members["current_mit_vector"] = report.current_mitigations
    members["signature"] = {"r": list(report.signature[:half]), "s": list(report.signature[half:])}
    return members


def from_envelope(value: Any) -> Evidence:
    """Evidence from the JSON object; inverse of `to_envelope`.

    Raises `MalformedError`: `field-missing`, `field-type`, `field-range`, `field-too-long`, `field-unknown`,
    `bytes-malformed`, `certificate-kind`, `tcb-layout`, and those of `parse_report`.
    """
    fields = Fields(value, "SNP evidence")
    report = _read_report(fields.table("attestation_report"))
    vlek = parse_report(report).signing_key == VLEK
    chain = _chain(fields.value("cert_chain", default=None), "VLEK" if vlek else "VCEK")
    fields.finish()
    return Evidence("snp", report, chain)


def _octets(value: Any, what: str, size: int | None) -> bytes:
    """Bytes of a JSON array of integers; `size` None: any size up to that of a certificate."""
    limit = CERTIFICATE_LIMIT if size is None else size
    if not isinstance(value, list) or not (0 < len(value) <= limit) or (size is not None and len(value) != size):
        raise MalformedError(
            "bytes-malformed", f"{what} must be an array of bytes", expected=f"{size or 'some'} integers"
        )
    try:
        if set(map(type, value)) != {int}:  # True and False are integers too, and floats could be
            raise ValueError
        return bytes(value)
    except ValueError:
        raise MalformedError(
            "bytes-malformed", f"{what} must be an array of bytes", expected="integers 0..255"
        ) from None


def _chain(value: Any, leaf: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    entries = Fields({"cert_chain": value}, "SNP evidence").array("cert_chain", limit=16)
    chain: dict[int, bytes] = {}
    for entry in entries:
        fields = Fields(entry, "certificate entry")
        kind = fields.text("cert_type", limit=16)
        data = _octets(fields.value("data"), f"certificate {kind}", None)
        fields.finish()
        if kind == "CRL":
            continue
        rank = _RANKS.get(kind)
        if rank is None or rank in chain or (rank == 0 and kind != leaf):
            raise MalformedError(
                "certificate-kind", "unexpected certificate in the chain", expected=f"{leaf}, ASK, ARK", found=kind
            )
        chain[rank] = data
    if sorted(chain) != list(range(len(chain))):
        raise MalformedError("certificate-kind", "the chain has a gap", expected=f"{leaf}, ASK, ARK")
    return tuple(chain[rank] for rank in sorted(chain))


def _tcb(value: Any, what: str, *, turin: bool) -> bytes:
    fields = Fields(value, what)
    fmc = fields.value("fmc", default=None)
    if (fmc is not None) != turin:
        raise MalformedError("tcb-layout", f"{what} and CPU family do not agree about FMC", found=fmc)
    components = {name: fields.integer(name, high=255) for name in _COMPONENTS}
    if turin:
        components["fmc"] = Fields({"fmc": fmc}, what).integer("fmc", high=255)
    fields.finish()
    return tcb_bytes(components, turin=turin)


def _firmware_version(value: Any, what: str) -> tuple[int, int, int]:
    fields = Fields(value, what)
    version = tuple(fields.integer(name, high=255) for name in ("build", "minor", "major"))
    fields.finish()
    return version[0], version[1], version[2]


def _cpuid(fields: Fields, version: int) -> tuple[int, int, int]:
    names = ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")
    if version >= 3:
        family, model, stepping = (fields.integer(name, high=255) for name in names)
        return family, model, stepping
    for name in names:
        if fields.value(name, default=None) not in (None, 0):
            raise MalformedError("tcb-layout", "a version 2 report has no CPUID", found=name)
    return 0, 0, 0


def _mitigations(fields: Fields, name: str) -> int:
    value = fields.value(name, default=None)
    if value is None:
        return 0
    return Fields({name: value}, "SNP report").integer(name, high=_LONG)


def _read_report(value: Any) -> bytes:
    """The 1184 bytes. Every size is checked here; what the bytes say is for `parse_report`."""
    fields = Fields(value, "SNP report")
    version = fields.integer("version", high=_WORD)
    cpuid = _cpuid(fields, version)
    tcbs = {name: fields.table(name) for name in _TCBS}
    turin = cpuid[0] == TURIN_FAMILY if version >= 3 else tcbs["reported_tcb"].get("fmc") is not None
    tcb = {name: _tcb(found, name, turin=turin) for name, found in tcbs.items()}
    octets = {name: _octets(fields.value(name), name, size) for name, size in _SIZES.items()}
    firmware = {name: _firmware_version(fields.table(name), name) for name in _VERSIONS}
    signature = Fields(fields.table("signature"), "SNP signature")
    r, s = (_octets(signature.value(name), f"signature {name}", 72) for name in ("r", "s"))
    signature.finish()
    raw = encode_fields(
        version,
        fields.integer("guest_svn", high=_WORD),
        fields.integer("policy", high=_LONG),
        octets["family_id"],
        octets["image_id"],
        fields.integer("vmpl", high=_WORD),
        fields.integer("sig_algo", high=_WORD),
        tcb["current_tcb"],
        fields.integer("plat_info", high=_LONG),
        fields.integer("key_info", high=_WORD),
        octets["report_data"],
        octets["measurement"],
        octets["host_data"],
        octets["id_key_digest"],
        octets["author_key_digest"],
        octets["report_id"],
        octets["report_id_ma"],
        tcb["reported_tcb"],
        cpuid,
        octets["chip_id"],
        tcb["committed_tcb"],
        firmware["current"],
        firmware["committed"],
        tcb["launch_tcb"],
        _mitigations(fields, "launch_mit_vector"),
        _mitigations(fields, "current_mit_vector"),
        signature=r + s,
    )
    fields.finish()
    return raw
