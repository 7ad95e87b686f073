"""The whole guest image from the cached packages: the same bytes twice, what is inside, and what is built anew.

Packages come from the cache below KOKON_HOME; where it is empty, apt and pip fill it first.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kokon.errors import HostError, UntrustedError
from kokon.guest.build import __main__ as command
from kokon.guest.build import image, verity
from kokon.guest.build.deb import unpack_packages
from kokon.guest.build.record import RECORD, Package, Record, Store, read_record, write_record
from kokon.guest.build.run import run
from kokon.launch.image import GuestImage

CACHE = image.default_home() / "cache"
AGENT = """
import cbor2
import json
from cryptography.hazmat.primitives.asymmetric import ec


def main():
    return 0
"""


def quiet(_text: str, _fraction: float | None) -> None:
    pass


def package_with(directory: Path, agent: str) -> Path:
    root = directory / "kokon"
    (root / "guest" / "agent").mkdir(parents=True)
    for name in ("__init__.py", "guest/__init__.py", "guest/agent/__init__.py"):
        (root / name).write_text("")
    (root / "guest" / "agent" / "main.py").write_text(agent)
    return root


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_with(tmp_path_factory.mktemp("stub"), AGENT)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, stub: Path) -> GuestImage:
    output = tmp_path_factory.mktemp("first") / "image"
    return image.build(output, CACHE, package_root=stub)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory, built: GuestImage) -> Iterator[Path]:
    """The packages unpacked, for programs that check the result independently."""
    stage = tmp_path_factory.mktemp("tools")
    store = Store(CACHE / image.STORE)
    wanted = [package for package in read_record(built.directory / RECORD).of("deb") if "linux" not in package.name]
    unpack_packages([store.path(package) for package in wanted], stage)
    yield stage
    shutil.rmtree(stage)


def run_tool(stage: Path, program: str, *arguments: str | Path) -> str:
    libraries = stage / "usr/lib/x86_64-linux-gnu"
    loader = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    return run([*loader, stage / program, *arguments], what=program).decode()


def test_the_same_packages_give_the_same_image(built: GuestImage, stub: Path, tmp_path: Path) -> None:
    listed = read_record(built.directory / RECORD).packages
    umask_sensitive = tmp_path / "elsewhere"
    umask_sensitive.mkdir(mode=0o700)
    again = image.build(umask_sensitive / "image", CACHE, listed, package_root=stub)
    assert again.digest == built.digest
    assert again.parts == built.parts
    assert (again.directory / RECORD).read_bytes() == (built.directory / RECORD).read_bytes()


def test_an_image_that_is_there_is_not_built_again(built: GuestImage, stub: Path) -> None:
    said: list[str] = []
    again = image.build(built.directory, CACHE, None, lambda text, _: said.append(text), package_root=stub)
    assert again.digest == built.digest
    assert said == []


def test_the_root_has_what_the_agent_needs_and_no_shell(built: GuestImage, tools: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.img"
    blocks = int(built.cmdline.rpartition("verity.blocks=")[2])
    data.write_bytes(built.root.read_bytes()[: blocks * verity.BLOCK])
    run_tool(tools, "usr/bin/fsck.erofs", f"--extract={tmp_path / 'root'}", data)
    root = tmp_path / "root"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    programs = {name for name in files if name.startswith(("usr/bin/", "usr/sbin/"))}
    assert programs == {"usr/bin/python3.11", "usr/bin/crun", "usr/sbin/cryptsetup", "usr/sbin/mkfs.ext4"}
    assert not [name for name in files if name.endswith(".py") or "__pycache__" in name]
    assert not [
        name for name in files if any(word in name for word in ("busybox", "sshd", "dpkg", "/apt", "pydoc", "bin/sh"))
    ]
    assert "usr/lib/kokon/kokon/guest/agent/main.pyc" in files
    assert f"usr/lib/modules/{built.kernel_release}/dm_crypt.ko" in files
    assert {path.stat().st_mode & 0o7022 for path in root.rglob("*") if not path.is_symlink()} == {0}
    program = "import sys; sys.path.append(sys.argv[1]); import kokon.guest.agent.main, ssl, lzma, ctypes, http.client"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    python = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, root / "usr/bin/python3.11"]
    home = {"PYTHONHOME": str(root / "usr")}
    run([*python, "-S", "-s", "-B", "-c", program, root / "usr/lib/kokon"], what="python", environment=home)


def test_veritysetup_agrees_with_our_hash_tree(built: GuestImage, tools: Path, tmp_path: Path) -> None:
    words = dict(word.split("=", 1) for word in built.cmdline.split() if word.startswith("verity."))
    blocks = int(words["verity.blocks"])
    options = ["--no-superblock", "--hash=sha256", f"--salt={words['verity.salt']}", f"--data-blocks={blocks}"]
    options += [f"--hash-offset={blocks * verity.BLOCK}"]
    run_tool(tools, "usr/sbin/veritysetup", "verify", *options, built.root, built.root, words["verity.root"])
    damaged = tmp_path / "damaged"
    data = bytearray(built.root.read_bytes())
    data[5 * verity.BLOCK] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(HostError):
        run_tool(tools, "usr/sbin/veritysetup", "verify", *options, damaged, damaged, words["verity.root"])


def test_another_agent_is_another_image(stub: Path, tmp_path: Path) -> None:
    other = package_with(tmp_path, AGENT + "# changed\n")
    inputs = [image.choose_inputs(CACHE, None, quiet, package_root=root) for root in (stub, other)]
    assert inputs[0].digest != inputs[1].digest
    assert inputs[0].packages == inputs[1].packages


def linked_cache(directory: Path) -> Path:
    """A cache of its own with the same packages."""
    (directory / image.STORE).mkdir(parents=True)
    for file in (CACHE / image.STORE).iterdir():
        (directory / image.STORE / file.name).hardlink_to(file)
    shutil.copyfile(CACHE / RECORD, directory / RECORD)
    return directory


def test_the_default_image_is_found(built: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image.default_guest(tmp_path) is None
    made: list[Path] = []

    def build_from(_inputs: image.Inputs, output: Path, _cache: Path, _progress: image.Progress) -> GuestImage:
        made.append(output)
        shutil.copytree(built.directory, output, dirs_exist_ok=True)
        return built

    linked_cache(tmp_path / "cache")
    monkeypatch.setattr(image, "build_from", build_from)
    monkeypatch.setattr(image, "find_closure", lambda _package: image.Closure({}, frozenset()))
    image.build_default(tmp_path)
    image.build_default(tmp_path)
    assert image.default_guest(tmp_path) == made[0].resolve()


def test_recorded_packages_are_taken_unless_the_request_changed(tmp_path: Path) -> None:
    cache = linked_cache(tmp_path / "cache")
    recorded = read_record(cache / RECORD)
    assert image.recorded_packages(cache) == recorded.packages
    write_record(Record("0" * 64, recorded.packages), cache / RECORD)
    assert image.recorded_packages(cache) is None
    assert image.recorded_packages(tmp_path / "empty") is None


def test_a_lost_wheel_is_fetched_again_and_must_be_the_same(built: GuestImage, stub: Path, tmp_path: Path) -> None:
    cache = linked_cache(tmp_path / "cache")
    listed = read_record(built.directory / RECORD).packages
    lost = next(package for package in listed if package.suffix == "whl")
    Store(cache / image.STORE).path(lost).unlink()
    assert image.choose_inputs(cache, listed, quiet, package_root=stub).packages == listed
    another = Package(lost.name, lost.version, "0" * 64, "whl")
    with pytest.raises(UntrustedError) as error:
        image.choose_inputs(cache, [another], quiet, package_root=stub)
    assert error.value.code == "guest-package-mismatch"


def test_packages_without_a_kernel_are_refused(built: GuestImage, stub: Path, tmp_path: Path) -> None:
    listed = read_record(built.directory / RECORD).packages
    no_kernel = [package for package in listed if not package.name.startswith("linux-image")]
    with pytest.raises(HostError) as error:
        image.build(tmp_path / "image", CACHE, no_kernel, package_root=stub)
    assert error.value.code == "guest-package-unknown"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as error:
        image.build(tmp_path / "image", tmp_path / "file" / "cache", package_root=stub)
    assert error.value.code == "guest-build-failed"


def test_the_command_builds_and_tells(
    built: GuestImage, stub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = str(built.directory / RECORD)
    options = ["--output", str(built.directory), "--cache", str(CACHE), "--package", str(stub)]
    assert command.main([*options, "--packages", packages]) == 0
    assert capsys.readouterr().out == f"{built.directory}\n"
    assert command.main(["--output", str(tmp_path / "x"), "--package", str(tmp_path)]) == HostError.exit_status
    assert "[guest-agent-missing]" in capsys.readouterr().err
    monkeypatch.setattr(command, "build_default", lambda _home, tell, *, update: tell("busy", None) or built)
    assert command.main([]) == 0
    assert "kokon: busy" in capsys.readouterr().err
    (tmp_path / "cache").write_text("")
    assert command.main(["--output", str(tmp_path / "x"), "--cache", str(tmp_path / "cache")]) == 8
    assert "hint: " in capsys.readouterr().err


def test_home_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKON_HOME", "/somewhere")
    assert image.default_home() == Path("/somewhere")
    monkeypatch.delenv("KOKON_HOME")
    assert image.default_home() == Path.home() / ".local" / "share" / "kokon"
