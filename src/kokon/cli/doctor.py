"""`kokon doctor`: what this machine can do, and how to get what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from kokon.cli.output import emit, kokon_home, note
from kokon.errors import HostError, KokonError
from kokon.host.capabilities import Finding, examine
from kokon.host.kvm import probe_kvm
from kokon.launch.image import current_guest, read_guest_image


def doctor(*, probe: bool = False, json: bool = False) -> int:
    """Show what this machine can do for confidential containers, and how to get what is missing.

    Example: `kokon doctor --probe`

    Ends with status 0 if containers can be run here (simulated, where there is no hardware for more), 8 if not.

    Parameters
    ----------
    probe
        Boot the guest image under KVM to see whether that works (up to 20 seconds, remembered until the next reboot).
    json
        Print JSON.
    """
    findings = [*examine(), _guest_image()]
    if probe:
        findings = [_kvm_probed() if finding.name == "KVM" else finding for finding in findings]
    ready = all(finding.state != "missing" for finding in findings if finding.needed)
    verdict = "containers can be run here (simulated enclaves)" if ready else "something that is needed is missing"
    data = {"ready": ready, "findings": [finding.as_dict() for finding in findings]}
    emit(data, f"{_table(findings)}\n\n{verdict}", json)
    return 0 if ready else HostError.exit_status


def _guest_image() -> Finding:
    directory = current_guest(kokon_home())
    try:
        image = read_guest_image(directory)
    except KokonError as error:
        return Finding("guest image", "missing", error.message, error.hint or "kokon guest build", needed=True)
    return Finding("guest image", "ok", f"{directory}, kernel {image.kernel_release}", needed=True)


def _kvm_probed() -> Finding:
    home = kokon_home()
    try:
        image = read_guest_image(current_guest(home))
    except KokonError as error:
        return Finding("KVM", "unknown", f"not probed: {error.message}", error.hint)
    note("booting a guest under KVM ...")
    result = probe_kvm(home, image)
    hint = None if result.usable else "guests run in emulation instead: slower, otherwise the same"
    return Finding("KVM", "ok" if result.usable else "missing", result.reason, hint)


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = {"ok": "yes", "missing": "NO" if finding.needed else "no", "unknown": "?"}[finding.state]
        lines.append(f"{finding.name:<{width}}  {mark:<3}  {finding.seen}")
        if finding.hint:
            lines.append(f"{'':<{width}}       -> {finding.hint}")
    return "\n".join(lines)
