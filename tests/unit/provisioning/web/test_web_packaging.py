"""What packaging/ has: the unit, as systemd reads it and the program behaves in it, the image's recipe, the locks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from web_factory import WAIT, connect_tls, request

ROOT = Path(__file__).resolve().parents[4]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "kokon-provision.service"
KOKON = Path(sys.executable).with_name("kokon")


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections, keys and all values of each."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def started(command: str) -> list[str]:
    program, *arguments = command.split()
    assert program == "/opt/kokon/bin/kokon"
    return arguments


# -- the unit ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/kokon/bin/kokon", str(KOKON)))
    drop_in = tmp_path / f"{UNIT.name}.d"
    drop_in.mkdir()
    text = (PACKAGING / "kokon-provision-passphrase.conf").read_text()
    (drop_in / "passphrase.conf").write_text(text.replace("/opt/kokon/bin/kokon", str(KOKON)))
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    verify = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(copy)]
    done = subprocess.run(security, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout


def test_the_passphrase_is_on_no_command_line() -> None:
    base = unit(UNIT)["Service"]["ExecStart"]
    service = unit(PACKAGING / "kokon-provision-passphrase.conf")["Service"]
    assert service["ExecStart"] == ["", *(f"{one} --credential kokon-passphrase" for one in base)]
    assert service["LoadCredentialEncrypted"] == ["kokon-passphrase:/etc/kokon/passphrase.cred"]
    for path in PACKAGING.iterdir():
        assert not re.search(r"(?i)(passphrase|password|pin|token)=[^/\s]*$", path.read_text(), re.MULTILINE)


def test_the_program_starts_as_the_unit_starts_it(tmp_path: Path) -> None:
    """With what systemd does: the notification socket, the watchdog, a credential, no controlling terminal."""
    service = unit(UNIT)["Service"] | unit(PACKAGING / "kokon-provision-passphrase.conf")["Service"]
    assert (service["Type"], service["NotifyAccess"]) == (["notify"], ["main"])
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "kokon-passphrase").write_text("correct horse battery staple")
    (credentials / "kokon-passphrase").chmod(0o400)
    state = tmp_path / "kokon" / "provision"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(WAIT * 3)
    environment = {
        "PATH": os.environ["PATH"],
        "KOKON_HOME": str(tmp_path),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "400000",
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    options: dict[str, object] = {
        "env": environment,
        "cwd": "/",
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,
    }
    opening = ["--state", str(state), "--credential", "kokon-passphrase"]
    initial = [str(KOKON), "provision", "init", "--custody", "passphrase", *opening]
    subprocess.run(initial, check=True, capture_output=True, **options)  # type: ignore[call-overload]
    arguments = [one.replace("/var/lib/kokon/provision", str(state)) for one in started(service["ExecStart"][-1])]
    arguments[arguments.index("--listen") + 1] = "127.0.0.1:0"
    pipe = subprocess.PIPE
    with subprocess.Popen([str(KOKON), *arguments], stdout=pipe, stderr=pipe, text=True, **options) as process:  # type: ignore[call-overload]
        try:
            assert manager.recv(100) == b"READY=1"
            assert manager.recv(100) == b"WATCHDOG=1"
            assert process.stderr is not None
            port = next(int(found[1]) for line in process.stderr if (found := re.search(r"https://[^ ]*:(\d+)", line)))
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            peer = connect_tls(port, context, request(path="/readyz"))
            assert peer.response()[0] == 200
            peer.close()
            process.send_signal(signal.SIGTERM)
            while (told := manager.recv(100)) == b"WATCHDOG=1":
                pass
            assert told == b"STOPPING=1"
            _, log = process.communicate(timeout=WAIT)
            assert process.returncode == 0, log
            assert "horse" not in log
        finally:
            process.kill()
            manager.close()


# -- the image ---------------------------------------------------------------------------------------------------------


def test_the_image_names_no_registry_and_is_no_roots() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE) == ["python:3.13-slim"]
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert not [line for line in instructions if re.search(r"https?://|\b[a-z0-9-]+\.[a-z]{2,}/", line)]
    users = [line for line in instructions if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]
    assert instructions.index(users[0]) < next(
        i for i, line in enumerate(instructions) if line.startswith("ENTRYPOINT")
    )
    for name in re.findall(r"packaging/([\w.-]+lock)", text):
        assert (PACKAGING / name).exists()
    assert text.count("--require-hashes") == 2
    assert text.count("--only-binary :all:") == 2


def test_the_image_starts_what_the_unit_starts() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    entry = re.findall(r'"([^"]+)"', text[text.index("ENTRYPOINT") :])
    (command,) = unit(UNIT)["Service"]["ExecStart"]
    assert entry == ["kokon", *started(command)]


def locked(name: str) -> dict[str, Version]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", (PACKAGING / name).read_text(), re.MULTILINE)
    return {package.lower().replace("_", "-"): Version(version) for package, version in found}


def test_the_locks_have_what_the_project_needs() -> None:
    """Change pyproject.toml, and `packaging/lock` has to be run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    server, build = locked("requirements-server.lock"), locked("requirements-build.lock")
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["pkcs11"], *extras["rego"]]
    for text, lock in (
        *((one, server) for one in wanted),
        *((one, build) for one in project["build-system"]["requires"]),
    ):
        need = Requirement(text)
        assert need.name.lower() in lock, f"run packaging/lock: {text}"
        assert need.specifier.contains(lock[need.name.lower()]), f"run packaging/lock: {text}"
    for name in ("requirements-server.lock", "requirements-build.lock"):
        text = (PACKAGING / name).read_text()
        assert "://" not in text
        assert len(re.findall(r"^\S+==", text, re.MULTILINE)) == len(
            re.findall(r"^\S+==.*\\\n    --hash=", text, re.MULTILINE)
        )
