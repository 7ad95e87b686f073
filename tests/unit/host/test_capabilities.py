from pathlib import Path

import pytest

from kokon.host import capabilities
from kokon.host.capabilities import (
    PROGRAMS,
    cpu_flags,
    distributions,
    examine,
    inside_enclave,
    kvm_device,
    memory,
    programs,
    qemu_objects,
    sgx,
    snp_host,
    tdx_host,
    tpm,
)

EVERYTHING = {
    "proc/cpuinfo": "processor : 0\nflags\t: sev_snp sgx sgx_lc tdx_host_platform\n\nflags : other\n",
    "proc/meminfo": "MemAvailable: 8388608 kB\n",
    "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
    "sys/module/kvm_intel/parameters/tdx": "Y\n",
    "sys/class/tpm/tpm0/tpm_version_major": "2\n",
    "dev/sev": "",
    "dev/sgx_enclave": "",
    "dev/sgx_provision": "",
    "dev/kvm": "",
    "dev/tpmrm0": "",
}
OBJECTS = frozenset({"sev-snp-guest", "tdx-guest"})


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_machine_with_everything(tmp_path: Path) -> None:
    root = machine(tmp_path, EVERYTHING)
    flags = cpu_flags(root / "proc/cpuinfo")
    found = [snp_host(root, flags, OBJECTS), tdx_host(root, flags, OBJECTS), sgx(root, flags)]
    assert {finding.state for finding in found} == {"ok"}
    assert all("no guest was started" in finding.seen for finding in found), "a claim is not proof"
    assert kvm_device(root).state == "unknown", "opening the device does not show that a guest boots"
    assert tpm(root).state == "ok"
    assert memory(root).state == "ok"


@pytest.mark.parametrize("missing", ["dev/sev", "sys/module/kvm_amd/parameters/sev_snp", "proc/cpuinfo"])
def test_one_piece_missing_is_not_snp(tmp_path: Path, missing: str) -> None:
    root = machine(tmp_path, {name: text for name, text in EVERYTHING.items() if name != missing})
    finding = snp_host(root, cpu_flags(root / "proc/cpuinfo"), OBJECTS)
    assert finding.state == "missing"
    assert ": no" in finding.seen
    assert finding.hint
    assert snp_host(machine(tmp_path, EVERYTHING), cpu_flags(root / "proc/cpuinfo"), frozenset()).state == "missing"


def test_a_bare_machine(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    for finding in findings[:6]:
        assert finding.state == "missing"
        assert finding.hint
    assert findings[6].as_dict() == {
        "name": "memory",
        "state": "unknown",
        "seen": "the kernel does not say",
        "needed": True,
    }
    assert cpu_flags(machine(tmp_path, {"cpuinfo": "no such line"}) / "cpuinfo") == frozenset()


def test_little_memory_and_an_old_tpm(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": "MemAvailable: 1024 kB\n", "sys/class/tpm/tpm0/tpm_version_major": "1"})
    assert memory(root).state == "missing"
    assert "version 1" in tpm(root).seen


def test_inside_an_enclave(tmp_path: Path) -> None:
    assert inside_enclave(tmp_path, frozenset({"tdx_guest"})).state == "ok"
    assert "SEV-SNP" in inside_enclave(machine(tmp_path, {"dev/sev-guest": ""}), frozenset()).seen


def test_every_missing_program_says_how_to_get_it() -> None:
    findings = programs(PROGRAMS, lambda _: None)
    assert [finding.name for finding in findings if finding.needed] == ["qemu-system-x86_64"]
    assert all("sudo apt-get install" in (finding.hint or "") for finding in findings)
    assert programs(PROGRAMS[1:2], lambda name: f"/bin/{name}")[0].seen == "/bin/dpkg-deb"
    assert "QEMU" in programs(PROGRAMS[:1], lambda name: f"/bin/{name}")[0].seen


def test_distributions() -> None:
    there, missing = distributions(["cryptography", "no-such-distribution"])
    assert there.state == "ok"
    assert (missing.state, missing.needed) == ("missing", True)


def test_qemu_is_asked_for_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "filter-dump" in qemu_objects()
    monkeypatch.setattr(capabilities, "PROGRAM", "no-such-qemu")
    assert qemu_objects() == frozenset()
