import sys
from pathlib import Path

import pytest
from host_kit import make_guest

from kokon.errors import HostError
from kokon.host import kvm
from kokon.host.kvm import KvmProbe, boot_once, probe_argv, probe_kvm, qemu_version, require_qemu


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "dev-kvm"
    made.write_bytes(b"")
    monkeypatch.setattr(kvm, "DEVICE", made)
    return made


def test_the_probe_boots_the_guest_image_and_nothing_else(tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    argv = probe_argv(guest, "kvm")
    assert argv[argv.index("-append") + 1] == f"{guest.cmdline} kokon.probe"
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert "-netdev" not in argv


def test_without_the_device_nothing_is_booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "none")
    probe = probe_kvm(tmp_path, make_guest(tmp_path / "guest"))
    assert not probe.usable
    assert probe.reason.startswith("there is no")


def test_a_device_that_may_not_be_opened(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.os, "access", lambda *_: False)
    assert "may not be opened" in probe_kvm(tmp_path, make_guest(tmp_path / "guest")).reason


def test_the_answer_is_kept_for_this_boot_and_qemu(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = []

    def boot(argv: list[str], timeout: float) -> KvmProbe:
        boots.append(argv)
        return KvmProbe(True, "seen")

    monkeypatch.setattr(kvm, "boot_once", boot)
    guest = make_guest(tmp_path / "guest")
    assert probe_kvm(tmp_path / "home", guest) == probe_kvm(tmp_path / "home", guest) == KvmProbe(True, "seen")
    assert len(boots) == 1
    monkeypatch.setattr(kvm, "boot_id", lambda: "another boot")
    probe_kvm(tmp_path / "home", guest)
    assert len(boots) == 2
    (tmp_path / "home" / "kvm.json").write_bytes(b"{")
    probe_kvm(tmp_path / "home", guest)
    assert len(boots) == 3


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_success_is_the_line_on_the_console() -> None:
    probe = boot_once(script("import time; print('kernel\\nkokon: probe ok', flush=True); time.sleep(60)"), 20)
    assert probe == KvmProbe(True, "a guest booted under KVM")


def test_failures_say_what_was_seen() -> None:
    assert boot_once(script("print('no such CPU')"), 20).reason == "QEMU ended; last words: no such CPU"
    stuck = boot_once(script("import time; print('KVM internal error. Suberror: 1', flush=True); time.sleep(60)"), 20)
    assert stuck == KvmProbe(False, "KVM gave up on the guest: KVM internal error")
    assert "within 0 s" in boot_once(script("import time; print('stuck', flush=True); time.sleep(60)"), 0.4).reason
    assert "could not be started" in boot_once(["/nonexistent/qemu"], 1).reason
    assert not boot_once(script("print('x' * 3000000)"), 20).usable


def test_qemu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "QEMU" in qemu_version()
    assert Path(require_qemu()).is_absolute()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu_version() == ""
    with pytest.raises(HostError) as caught:
        require_qemu()
    assert caught.value.code == "qemu-missing"


def test_the_real_qemu_runs_the_probe_and_fails_on_a_dummy_kernel(tmp_path: Path) -> None:
    probe = boot_once(probe_argv(make_guest(tmp_path / "guest"), "tcg"), 20)
    assert not probe.usable
    assert probe.reason.startswith("QEMU ended")
