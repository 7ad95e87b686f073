"""The command, as the host runs it: isolated, in the background, with a real QEMU too."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_machine import Machine, is_running, report_request
from tee_kit import NOW, Chip

from kokon.tee.registry import verify
from kokon.tee.simulated import __main__ as command
from kokon.tee.snp.certtable import decode_extended

FIRMWARE = Path("/usr/share/seabios/bios-256k.bin")
MEMORY_LIMIT = 40 << 10
DATA = bytes(range(64))


def processor(keys: Path, order: bytes = b"", *extra: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-m", "kokon.tee.simulated", "--keys", str(keys), *extra],
        input=order,
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.decode()


def started(keys: Path, order: bytes) -> dict[str, Any]:
    code, text = processor(keys, order)
    answer: dict[str, Any] = json.loads(text)
    assert code == 0, answer
    return answer


def wait_for(path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def test_from_order_to_exit(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, requests=[report_request(DATA)], status=5)
    answer = started(chip.directory, machine.order())
    assert set(answer) == {"pid", "processor_pid", "measurement", "root"}
    assert answer["root"] == chip.root
    assert wait_for(machine.exit) == {"status": 5, "signal": None}
    wait_gone(answer["processor_pid"])
    (report,) = machine.answers()
    assert report is not None
    claims = verify(decode_extended(report[1:]), chip.endorsements, NOW)
    assert claims.ok
    assert claims.measurement.hex() == answer["measurement"]


def test_it_lives_on_without_its_caller_in_little_memory(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, requests=[report_request(DATA)], wait=True)
    answer = started(chip.directory, machine.order())
    wait_for(machine.out)
    pid = answer["processor_pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert resident < MEMORY_LIMIT
    assert os.getsid(pid) == pid
    assert is_running(answer["pid"])
    os.kill(pid, 15)
    assert wait_for(machine.exit) == {"status": 143, "signal": 15}
    wait_gone(pid)
    wait_gone(answer["pid"])


@pytest.mark.parametrize(
    ("changed", "code"), [({"argv": ["/bin/sh"]}, "qemu-argument-unaccounted"), ({"host_data": "00"}, "size-mismatch")]
)
def test_refused_orders(chip: Chip, tmp_path: Path, changed: dict[str, Any], code: str) -> None:
    status, text = processor(chip.directory, Machine(tmp_path).order(**changed))
    assert status == 3
    assert json.loads(text)["error"]["code"] == code
    assert not (tmp_path / "out.json").exists()


def test_qemu_that_fails_is_told(chip: Chip, tmp_path: Path) -> None:
    _status, text = processor(chip.directory, Machine(tmp_path, die=4).order())
    assert json.loads(text)["error"]["code"] == "qemu-failed"


def test_exposed_keys(chip: Chip, tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    shutil.copytree(chip.directory, directory)
    directory.chmod(0o755)
    _status, text = processor(directory, Machine(tmp_path).order())
    assert json.loads(text)["error"]["code"] == "processor-keys-exposed"


def test_fingerprint(chip: Chip) -> None:
    assert processor(chip.directory, b"", "--fingerprint") == (0, chip.root + "\n")


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--keys"], ["--other", "x"]):
        assert command.main(arguments) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "processor-usage"


def test_first_use_makes_keys_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chip: Chip) -> None:
    keys = tmp_path / "keys"

    class Done:
        returncode = 0

    def run(argv: list[str], **_: Any) -> Done:
        assert argv[-3:] == ["--keys", str(keys), "--fingerprint"]
        shutil.copytree(chip.directory, keys)
        return Done()

    monkeypatch.setattr(subprocess, "run", run)
    command._make_keys(keys)
    Done.returncode = 1
    shutil.rmtree(keys)
    with pytest.raises(command.KokonError) as caught:
        command._make_keys(keys)
    assert caught.value.code == "processor-keys-broken"


@pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or not FIRMWARE.exists(), reason="QEMU AND SEABIOS ARE NOT INSTALLED"
)
def test_a_real_qemu_on_the_measured_copies(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    shutil.copy(FIRMWARE, tmp_path / "firmware")
    kernel = bytearray(16 << 10)
    kernel[0x1F1] = 1
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    kernel[0x206:0x208] = (0x20C).to_bytes(2, "little")
    kernel[0x211] = 1
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    kernel[0x238:0x23C] = (2047).to_bytes(4, "little")
    (tmp_path / "kernel").write_bytes(kernel)
    argv = ["qemu-system-x86_64", *machine.argv()[1:], "-S", "-display", "none", "-m", "64M"]
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    answer = started(chip.directory, machine.order(argv=argv))
    time.sleep(0.3)
    assert is_running(answer["pid"]), machine.log.read_text()
    os.kill(answer["pid"], 15)
    assert wait_for(machine.exit) == {"status": 0, "signal": None}
    wait_gone(answer["processor_pid"])
