"""The builder's readers and writers: ELF, records, mirrors, package names, wheels, packages, modules, archives."""

import hashlib
import io
import json
import lzma
import os
import stat
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import HostError, InternalError, KokonError, MalformedError, UnreachableError, UntrustedError
from kokon.guest.build import compile_all, initrd, mirror, modules, packages, record, rootfs, run, tree, verity, wheels
from kokon.guest.build.closure import Closure, find_closure
from kokon.guest.build.deb import merged, unpack_packages
from kokon.guest.build.elf import needed_libraries
from kokon.guest.build.mirror import Mirror, find_default_mirror, find_mirror, read_targets
from kokon.guest.build.record import Package, Record, Store


def quiet(_text: str, _fraction: float | None) -> None:
    pass


def code_of(error: pytest.ExceptionInfo[KokonError]) -> str:
    return error.value.code


# --- ELF


def test_a_program_tells_which_libraries_it_needs() -> None:
    libraries = needed_libraries(Path("/bin/ls").resolve())
    assert libraries is not None
    assert "libc.so.6" in libraries


def test_what_is_no_program_needs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("#!/bin/sh\n")
    assert needed_libraries(file) is None


@pytest.mark.parametrize("keep", [4, 5, 40, 60, 64, 200, 700])
def test_a_cut_off_program_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "cut"
    file.write_bytes(Path("/bin/ls").resolve().read_bytes()[:keep])
    with pytest.raises(MalformedError) as error:
        needed_libraries(file)
    assert code_of(error) == "elf-malformed"


@settings(max_examples=200)
@given(at=st.integers(0, 900), byte=st.integers(0, 255))
def test_a_damaged_program_never_surprises(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    data = bytearray(Path("/bin/ls").resolve().read_bytes())
    data[4 + at] = byte
    file = tmp_path_factory.mktemp("elf") / "damaged"
    file.write_bytes(data)
    with suppress(MalformedError):
        needed_libraries(file)


def elf(entries: list[tuple[int, int]], *, load: bool = True, text: bytes = b"\0libx.so\0") -> bytes:
    """A tiny ELF file: one loaded segment at address 0, one dynamic section, a string table at 0x200."""
    segments = [(2, 0x100, 0x100, 16 * len(entries))] + ([(1, 0, 0, 0x1000)] if load else [])
    head = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, len(segments))
    table = b"".join(struct.pack("<IIQQQQQQ", k, 0, o, a, a, n, n, 0) for k, o, a, n in segments)
    data = (head.ljust(64, b"\0") + table).ljust(0x100, b"\0")
    data += b"".join(struct.pack("<qQ", *entry) for entry in entries)
    return data.ljust(0x200, b"\0") + text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (elf([(1, 1), (5, 0x200)]), ("libx.so",)),
        (elf([(5, 0x200)]), ()),
        (elf([(1, 1)]), None),
        (elf([(1, 1), (5, 0x200)], load=False), None),
        (elf([(1, 1), (5, 0x200)], text=b"\0unterminated"), None),
        (elf([(1, 1), (5, 0x200)], text=b"\0\xff\0"), None),
    ],
)
def test_the_dynamic_section_is_read_strictly(tmp_path: Path, data: bytes, expected: tuple[str, ...] | None) -> None:
    file = tmp_path / "elf"
    file.write_bytes(data)
    if expected is not None:
        assert needed_libraries(file) == expected
        return
    with pytest.raises(MalformedError) as error:
        needed_libraries(file)
    assert code_of(error) == "elf-malformed"


def test_a_huge_dynamic_section_is_refused(tmp_path: Path) -> None:
    data = bytearray(elf([(5, 0x200)]))
    struct.pack_into("<Q", data, 64 + 32, 1 << 40)
    (tmp_path / "elf").write_bytes(data)
    with pytest.raises(MalformedError) as error:
        needed_libraries(tmp_path / "elf")
    assert code_of(error) == "elf-malformed"


# --- the record and the store

DIGEST = "ab" * 32
PLAIN_TEXT = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9+.~:-]{0,20}", fullmatch=True)
PACKAGES = st.builds(
    Package, PLAIN_TEXT, PLAIN_TEXT, st.from_regex("[0-9a-f]{64}", fullmatch=True), st.sampled_from(["deb", "whl"])
)


@given(st.lists(PACKAGES, max_size=5))
def test_a_record_survives_writing(tmp_path_factory: pytest.TempPathFactory, entries: list[Package]) -> None:
    path = tmp_path_factory.mktemp("record") / "packages.json"
    written = Record(DIGEST, tuple(entries))
    record.write_record(written, path)
    assert record.read_record(path) == written
    assert written.of("deb") == tuple(entry for entry in entries if entry.suffix == "deb")


@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        record.parse_record(data)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"packages": [{"name": "../x", "version": "1", "sha256": DIGEST, "suffix": "deb"}]},
        {"packages": [{"name": "x", "version": "1", "sha256": "zz" * 32, "suffix": "deb"}]},
        {"packages": [{"name": "x", "version": "1", "sha256": DIGEST, "suffix": "exe"}]},
    ],
)
def test_a_wrong_record_is_refused(change: dict[str, object]) -> None:
    members = {"version": 1, "request": DIGEST, "packages": [], **change}
    with pytest.raises(MalformedError) as error:
        record.parse_record(json.dumps(members).encode())
    assert code_of(error) == "packages-malformed"


def test_the_store_keeps_files_by_digest_and_notices_changes(tmp_path: Path) -> None:
    file = tmp_path / "x_1_all.deb"
    file.write_bytes(b"content")
    store = Store(tmp_path / "store")
    package = store.add(file, "x", "1")
    assert store.holds(package)
    assert not file.exists()
    assert not store.holds(Package("y", "1", DIGEST))
    store.path(package).write_bytes(b"another")
    with pytest.raises(UntrustedError) as error:
        Store(tmp_path / "store").holds(package)
    assert code_of(error) == "guest-package-mismatch"


# --- programs and mirrors


def test_a_missing_program_is_named() -> None:
    with pytest.raises(HostError) as error:
        run.find_tool("kokon-no-such-program")
    assert code_of(error) == "guest-tool-missing"
    assert error.value.hint is not None


@pytest.mark.parametrize("command", [["false"], ["/nonexistent/program"]])
def test_a_program_that_fails_is_told(command: list[str]) -> None:
    with pytest.raises(HostError) as error:
        run.run(command, what="the test")
    assert code_of(error) == "guest-build-failed"


def test_the_mirror_comes_from_apt() -> None:
    text = "Ubuntu|Ubuntu|http://u/\nDebian|Debian|bad address\nDebian|Debian|http://d/debian/\n"
    assert read_targets(text) == Mirror("http://d/debian", None)
    assert read_targets(text + "Debian|Debian-Security|http://s/\n") == Mirror("http://d/debian", "http://s")
    assert read_targets("Ubuntu|Ubuntu|http://u/\n") is None


@given(st.text(max_size=100))
def test_any_text_from_apt_is_read(text: str) -> None:
    read_targets(text)


def test_the_default_mirror_comes_from_debootstrap(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "bookworm").write_text("default_mirror http://u/ubuntu\n")
    program = tmp_path / "debootstrap"
    assert find_default_mirror([scripts, program]) is None
    program.write_text('DEF_MIRROR="http://d/debian"\n')
    assert find_default_mirror([scripts, program]) == "http://d/debian"
    (scripts / "bookworm").write_text("default_mirror http://x/debian/\n")
    assert find_default_mirror([scripts, program]) == "http://x/debian"


def test_the_environment_names_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirror.VARIABLE, "http://m/debian/")
    assert find_mirror() == Mirror("http://m/debian", None)
    monkeypatch.setenv(mirror.SECURITY_VARIABLE, "http://s/")
    assert find_mirror().sources().count("\n") == 4
    monkeypatch.setenv(mirror.VARIABLE, "no address")
    with pytest.raises(HostError) as error:
        find_mirror()
    assert code_of(error) == "guest-mirror-unknown"


def test_a_security_archive_is_looked_for_beside_the_mirror() -> None:
    assert Mirror("http://m/debian", None).candidates()[0] == Mirror("http://m/debian", "http://m/debian-security")
    assert Mirror("http://m/debian", "http://s").candidates() == [Mirror("http://m/debian", "http://s")]
    assert Mirror("http://m/other", None).candidates() == [Mirror("http://m/other", None)]


def fake_tool(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_a_host_without_debian_mirror_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path / "bin", "apt-get", "echo 'Ubuntu|Ubuntu|http://u/'")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(mirror.VARIABLE, raising=False)
    monkeypatch.setattr(mirror, "_DEBOOTSTRAP", (str(tmp_path / "none"),))
    with pytest.raises(HostError) as error:
        find_mirror()
    assert code_of(error) == "guest-mirror-unknown"
    (tmp_path / "debootstrap").write_text("DEF_MIRROR=http://d/debian\n")
    monkeypatch.setattr(mirror, "_DEBOOTSTRAP", (str(tmp_path / "debootstrap"),))
    assert find_mirror() == Mirror("http://d/debian", None)


# --- choosing packages


def test_apt_lines_are_read() -> None:
    text = (
        "Reading...\n'http://m/z.deb' zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 MD5Sum:00\n'http://m/l' x_1_all.deb 5 \n"
    )
    assert packages.read_uris(text) == [("zlib1g", "1:1.2.13.dfsg-1"), ("x", "1")]


@given(st.text(max_size=60))
def test_any_line_of_apt_is_read(text: str) -> None:
    packages.read_uris(f"'{text}' {text}_1_all.deb 5")


def test_missing_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        packages.prepare_apt(tmp_path, Mirror("http://m", None), tmp_path / "none.gpg")
    assert code_of(error) == "guest-keyring-missing"


def test_a_dead_mirror_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirror.VARIABLE, "http://127.0.0.1:9/debian")
    with pytest.raises(UnreachableError) as error:
        packages.resolve_packages(Store(tmp_path / "store"), tmp_path / "area", quiet)
    assert code_of(error) == "guest-mirror-unreachable"
    assert mirror.VARIABLE in str(error.value.hint)


def test_a_mirror_without_the_kernel_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path / "bin", "apt-get", "echo \"'http://m/x' crun_1_amd64.deb 1 \"")
    fake_tool(tmp_path / "bin", "apt-cache", "echo nothing")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(HostError) as error:
        packages.choose(packages.Apt(tmp_path))
    assert code_of(error) == "guest-package-unknown"
    fake_tool(tmp_path / "bin", "apt-cache", "echo '  Depends: linux-image-6.12.1-cloud-amd64'")
    assert packages.choose(packages.Apt(tmp_path)) == [
        "crun=1",
        "linux-image-6.12.1-cloud-amd64/bookworm-backports",
    ]


def test_what_the_mirror_no_longer_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirror.VARIABLE, "http://m/debian")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    fake_tool(tmp_path / "bin", "apt-get", 'case "$*" in *download*) exit 100;; esac')
    store = Store(tmp_path / "store")
    wanted = [Package("x", "1", DIGEST)]
    with pytest.raises(UnreachableError) as error:
        packages.fetch_packages(wanted, store, tmp_path / "a", quiet)
    assert code_of(error) == "guest-mirror-unreachable"
    fake_tool(tmp_path / "bin", "apt-get", 'case "$*" in *download*) echo other > x_1_all.deb;; esac')
    with pytest.raises(UntrustedError) as mismatch:
        packages.fetch_packages(wanted, store, tmp_path / "b", quiet)
    assert code_of(mismatch) == "guest-package-mismatch"
    good = Package("x", "1", hashlib.sha256(b"other\n").hexdigest())
    packages.fetch_packages([good], store, tmp_path / "c", quiet)
    packages.fetch_packages([good], store, tmp_path / "unused", quiet)
    assert not (tmp_path / "unused").exists()


def test_a_missing_apt_is_told_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirror.VARIABLE, "http://m/debian")
    monkeypatch.setattr(run.shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError) as error:
        packages.update(tmp_path, quiet)
    assert code_of(error) == "guest-tool-missing"
    with pytest.raises(HostError) as error:
        packages.download(packages.Apt(tmp_path), ["x"], Store(tmp_path), tmp_path / "a")
    assert code_of(error) == "guest-tool-missing"


# --- wheels


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_only_what_can_be_imported_is_unpacked(tmp_path: Path) -> None:
    members = {"a/__init__.py": b"1", "a/x.so": b"2", "a/x.pyi": b"3", "a-1.dist-info/METADATA": b"4"}
    wheels.unpack_wheels([wheel(tmp_path / "a-1-py3.whl", members)], tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["a/__init__.py", "a/x.so"]


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py"])
def test_a_wheel_cannot_leave_its_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedError) as error:
        wheels.unpack_wheels([wheel(tmp_path / "a.whl", {name: b""})], tmp_path / "out")
    assert code_of(error) == "wheel-malformed"


def test_bad_and_large_wheels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.whl").write_bytes(b"no zip")
    with pytest.raises(MalformedError) as error:
        wheels.unpack_wheels([tmp_path / "bad.whl"], tmp_path / "out")
    assert code_of(error) == "wheel-malformed"
    monkeypatch.setattr(wheels, "WHEEL_LIMIT", 3)
    with pytest.raises(MalformedError) as error:
        wheels.unpack_wheels([wheel(tmp_path / "a.whl", {"a.py": b"1234"})], tmp_path / "out")
    assert code_of(error) == "wheel-malformed"


def test_unreachable_wheels_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"cffi==2.1.1 --hash=sha256:{DIGEST}\n")
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/", "RETRIES": "0", "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(UnreachableError) as error:
        wheels.download_wheels(Store(tmp_path / "store"), tmp_path, lock)
    assert code_of(error) == "guest-wheels-unreachable"


# --- Debian packages


def deb(directory: Path, files: dict[str, bytes], *, special: bool = False) -> Path:
    source = directory / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    if special:
        os.mkfifo(source / "usr" / "pipe")
    else:
        (source / "usr" / "link").symlink_to("target")
        first = next(iter(files))
        (source / "usr" / "hard").hardlink_to(source / first)
    subprocess.run(["dpkg-deb", "--build", source, directory / "x.deb"], check=True)
    return directory / "x.deb"


def test_packages_are_unpacked_with_merged_usr(tmp_path: Path) -> None:
    file = deb(tmp_path, {"bin/tool": b"a", "usr/lib/b": b"b", "usr/share/doc/x": b"c"})
    unpack_packages([file, file], tmp_path / "out", lambda name: name != "usr/lib/b")
    out = tmp_path / "out"
    assert (out / "usr/bin/tool").read_bytes() == b"a"
    assert (out / "usr/hard").read_bytes() == b"a"
    assert str((out / "usr/link").readlink()) == "target"
    assert not (out / "usr/lib/b").exists()
    assert not (out / "usr/share").exists()


def test_special_files_and_broken_packages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MalformedError) as error:
        unpack_packages([deb(tmp_path, {"usr/x": b""}, special=True)], tmp_path / "out")
    assert code_of(error) == "deb-malformed"
    (tmp_path / "bad.deb").write_bytes(b"no package")
    with pytest.raises(HostError) as failed:
        unpack_packages([tmp_path / "bad.deb"], tmp_path / "out")
    assert code_of(failed) == "guest-build-failed"
    fake_tool(tmp_path / "bin", "dpkg-deb", "echo no archive")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(MalformedError) as error:
        unpack_packages([tmp_path / "bad.deb"], tmp_path / "out")
    assert code_of(error) == "deb-malformed"


@given(st.text(max_size=30))
def test_no_name_leaves_the_tree(name: str) -> None:
    with suppress(MalformedError):
        path = merged(name)
        assert not path.is_absolute()
        assert ".." not in path.parts


# --- kernel modules


def module_file(directory: Path, name: str, depends: str | None, *, packed: bool = True) -> None:
    data = b"ELF..." + (b"" if depends is None else b"\0depends=" + depends.encode() + b"\0name=x\0")
    directory.mkdir(exist_ok=True)
    if packed:
        (directory / f"{name}.ko.xz").write_bytes(lzma.compress(data))
    else:
        (directory / f"{name}.ko").write_bytes(data)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    module_file(tmp_path, "dm-verity", "dm-mod,reed_solomon")
    module_file(tmp_path, "dm-mod", "", packed=False)
    module_file(tmp_path, "reed_solomon", "")
    found = modules.ModuleTree(tmp_path)
    order = found.closure(["dm_verity", "dm-mod"])
    assert [module.name for module in order] == ["dm_mod", "reed_solomon", "dm_verity"]
    assert "dm-mod" in found
    index = json.loads(modules.module_index(order, "/m"))
    assert index["dm_verity"] == {"path": "/m/dm_verity.ko", "depends": ["dm_mod", "reed_solomon"]}


def test_missing_and_malformed_modules_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = modules.ModuleTree(tmp_path)
    with pytest.raises(HostError) as error:
        found.closure(["absent"])
    assert code_of(error) == "guest-module-missing"
    module_file(tmp_path, "silent", None)
    (tmp_path / "bad.ko.xz").write_bytes(b"no xz")
    (tmp_path / "cut.ko.xz").write_bytes(lzma.compress(b"x" * 1000)[:-20])
    for name in ("silent", "bad", "cut"):
        with pytest.raises(MalformedError) as malformed:
            modules.ModuleTree(tmp_path).module(name)
        assert code_of(malformed) == "module-malformed"


@given(st.binary(max_size=100))
def test_any_bytes_as_a_module_are_read_or_refused(data: bytes) -> None:
    with suppress(MalformedError):
        modules.read_depends(data, "x")


# --- initrd and hash tree


def members(archive: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    """An independent reader of newc archives."""
    stream, found = io.BytesIO(archive), []
    while True:
        head = stream.read(110)
        assert head[:6] == b"070701"
        field = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        name = stream.read(field[11])[:-1].decode()
        stream.read(-stream.tell() % 4)
        data = stream.read(field[6])
        stream.read(-stream.tell() % 4)
        if name == "TRAILER!!!":
            return found
        found.append((name, field[1], data, (field[9], field[10])))


@given(st.lists(st.tuples(st.from_regex("[a-z/]{1,9}", fullmatch=True), st.binary(max_size=9)), max_size=5))
def test_an_archive_holds_what_was_put_in(entries: list[tuple[str, bytes]]) -> None:
    archive = initrd.write_archive([initrd.Entry(name, stat.S_IFREG | 0o644, data) for name, data in entries])
    assert len(archive) % 512 == 0
    assert [(name, data) for name, _, data, _ in members(archive)] == entries


def test_the_console_is_a_device() -> None:
    archive = initrd.write_archive([initrd.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))])
    assert members(archive) == [("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))]


def test_a_hash_tree_of_one_level_is_what_the_format_says(tmp_path: Path) -> None:
    image = tmp_path / "image"
    blocks = [bytes([i]) * verity.BLOCK for i in range(3)]
    image.write_bytes(b"".join(blocks))
    salt = b"s" * 32
    found = verity.append_tree(image, salt)
    level = b"".join(hashlib.sha256(salt + block).digest() for block in blocks).ljust(verity.BLOCK, b"\0")
    assert image.read_bytes() == b"".join(blocks) + level
    assert found.root == hashlib.sha256(salt + level).digest()
    assert found.parameters.endswith(" verity.blocks=3")


@pytest.mark.parametrize("size", [0, 1, verity.BLOCK, 2 * verity.BLOCK + 1])
def test_an_odd_size_has_no_hash_tree(tmp_path: Path, size: int) -> None:
    (tmp_path / "image").write_bytes(bytes(size))
    with pytest.raises(MalformedError) as error:
        verity.append_tree(tmp_path / "image", b"")
    assert code_of(error) == "verity-size"


# --- our own code inside


def package(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", "guest/__init__.py": "", "guest/agent/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_closure_follows_imports_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "guest/agent/main.py": "import os.path\nfrom kokon import wire\nfrom . import disks\nfrom .. import agent\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kokon.host import x\nelse:\n    import json\n"
        "def f():\n    import kokon.late.part\n",
        "guest/agent/disks.py": "import typing\nif typing.TYPE_CHECKING:\n    import kokon.cli\n",
        "wire.py": "import struct\n",
        "late/__init__.py": "",
        "late/part.py": "",
        "unused.py": "",
    }
    found = find_closure(package(tmp_path, files))
    assert set(found.modules) == {
        "kokon", "kokon.guest", "kokon.guest.agent", "kokon.guest.agent.main", "kokon.guest.agent.disks",
        "kokon.wire", "kokon.late", "kokon.late.part",
    }  # fmt: skip
    assert found.others == {"os", "typing", "json", "struct"}


def test_forbidden_rooms_do_not_get_inside(tmp_path: Path) -> None:
    files = {"guest/agent/main.py": "from kokon.host import qemu\n", "host/__init__.py": "", "host/qemu.py": ""}
    with pytest.raises(InternalError) as error:
        find_closure(package(tmp_path, files))
    assert code_of(error) == "guest-import-forbidden"


def test_a_missing_agent_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        find_closure(package(tmp_path, {}))
    assert code_of(error) == "guest-agent-missing"


def test_imports_that_the_guest_lacks_are_told(tmp_path: Path) -> None:
    for name in (tree.STDLIB, f"{tree.STDLIB}/lib-dynload", rootfs.OWN):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / tree.STDLIB / "json").mkdir()
    rootfs.check_imports(Closure({}, frozenset({"json", "sys"})), tmp_path, frozenset({"sys"}))
    with pytest.raises(InternalError) as error:
        rootfs.check_imports(Closure({}, frozenset({"json", "rich"})), tmp_path, frozenset())
    assert code_of(error) == "guest-module-unknown"
    assert error.value.found == "rich"


def test_scripts_and_missing_libraries_are_told(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "program").write_bytes(elf([(1, 1), (5, 0x200)]))
    with pytest.raises(InternalError) as error:
        rootfs.copy_libraries(tmp_path, root)
    assert code_of(error) == "guest-library-missing"
    rootfs.check_scripts(root)
    (root / "script").write_text("#!/bin/sh\n")
    with pytest.raises(InternalError) as error:
        rootfs.check_scripts(root)
    assert code_of(error) == "guest-script-inside"


def test_python_is_compiled_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.py").write_text("def f():\n    raise KeyError\n")
    monkeypatch.setattr(sys, "argv", ["compile_all.py", str(tmp_path)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("a/m.py\n"))
    compile_all.main()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["m.pyc"]
    data = (tmp_path / "a" / "m.pyc").read_bytes()
    assert data[4:8] == b"\1\0\0\0"  # PEP 552: hash-based, not checked
    assert b"/a/m.py" in data


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("json/__init__.py", True),
        ("ssl.py", True),
        ("ctypes/util.py", True),
        ("ctypes/test/x.py", False),
        ("encodings/idna.py", True),
        ("encodings/cp1252.py", False),
        ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("lib-dynload/_sqlite3.cpython-311-x86_64-linux-gnu.so", False),
        ("pydoc.py", False),
        ("test/x.py", False),
        ("json/notes.txt", False),
    ],
)
def test_python_is_pruned(name: str, wanted: bool) -> None:
    assert tree.wanted_of_stdlib(name) is wanted
