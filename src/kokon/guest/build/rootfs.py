"""Assembling the guest's root file system from unpacked packages, wheels and our own agent."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import InternalError
from kokon.guest.build import tree as layout
from kokon.guest.build.closure import Closure
from kokon.guest.build.elf import needed_libraries
from kokon.guest.build.modules import Module, module_index
from kokon.guest.build.tools import Tools
from kokon.guest.build.wheels import unpack_wheels

LIBRARIES = "usr/lib/x86_64-linux-gnu"
OWN = "usr/lib/kokon"


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a root file system is made of; `stage` holds the unpacked packages."""

    stage: Path
    wheels: Sequence[Path]
    closure: Closure
    modules: Sequence[Module]
    kernel_release: str


def build_rootfs(parts: Ingredients, tools: Tools, root: Path) -> None:
    """Fill the directory `root`. The result depends on nothing but `parts`.

    Raises `InternalError` (`guest-library-missing`, `guest-module-unknown`, `guest-script-inside`) and as `Tools` does.
    """
    _copy_layout(root)
    for name in layout.PROGRAMS:
        _copy(parts.stage / name, root / name)
    _copy_stdlib(parts.stage / layout.STDLIB, root / layout.STDLIB)
    _copy_wheels(parts.wheels, root)
    _copy_own(parts.closure, root / OWN)
    check_imports(parts.closure, root, tools.python_builtins())
    _write_modules(parts, root)
    copy_libraries(parts.stage / LIBRARIES, root)
    tools.compile_python(root, sorted(root.rglob("*.py")))
    check_scripts(root)
    _settle_modes(root)


def _copy_layout(root: Path) -> None:
    for name in layout.DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in layout.TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, target in layout.LINKS.items():
        (root / name).symlink_to(target)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), target)
    target.chmod(0o755 if source.resolve().stat().st_mode & 0o111 else 0o644)


def _copy_stdlib(source: Path, target: Path) -> None:
    for file in _files(source):
        name = file.relative_to(source)
        if layout.wanted_of_stdlib(str(name)):
            _copy(file, target / name)
    for replaced, ours in layout.QUICK.items():
        _copy(Path(__file__).with_name(ours), target / replaced)


def _copy_wheels(wheels: Sequence[Path], root: Path) -> None:
    own = root / OWN
    unpack_wheels(wheels, own)
    for file in list(_files(own)):
        if not layout.wanted_of_wheels(str(file.relative_to(own))):
            file.unlink()
    for directory in sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()


def _copy_own(closure: Closure, target: Path) -> None:
    for name, file in closure.modules.items():
        path = target.joinpath(*name.split("."))
        path = path / "__init__.py" if file.name == "__init__.py" else path.with_suffix(".py")
        _copy(file, path)


def check_imports(closure: Closure, root: Path, builtins: frozenset[str]) -> None:
    """Raise `InternalError` (`guest-module-unknown`) if our guest code imports what the guest does not carry."""
    directories = [root / layout.STDLIB, root / layout.STDLIB / "lib-dynload", root / OWN]
    inside = {path.name.partition(".")[0] for directory in directories for path in directory.iterdir()}
    missing = closure.others - inside - builtins
    if missing:
        raise InternalError(
            "guest-module-unknown",
            "the agent imports modules that the guest image does not carry",
            found=", ".join(sorted(missing)),
            hint="keep them in kokon/guest/build/tree.py, or do without",
        )


def _write_modules(parts: Ingredients, root: Path) -> None:
    directory = f"usr/lib/modules/{parts.kernel_release}"
    (root / directory).mkdir(parents=True)
    for module in parts.modules:
        (root / directory / f"{module.name}.ko").write_bytes(module.data)
    (root / OWN / "modules.json").write_bytes(module_index(parts.modules, f"/{directory}"))


def copy_libraries(source: Path, root: Path) -> None:
    """Copy what the programs below `root` need from the directory `source`.

    Raises `InternalError` (`guest-library-missing`), `MalformedError` (`elf-malformed`).
    """
    waiting = [*_needed(_files(root)), *layout.EXTRA_LIBRARIES]
    while waiting:
        name = waiting.pop()
        target = root / LIBRARIES / name
        if target.exists():
            continue
        if not (source / name).is_file():
            raise InternalError("guest-library-missing", "a program of the guest lacks a library", expected=name)
        _copy(source / name, target)
        waiting.extend(_needed([target]))


def _needed(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        yield from needed_libraries(file) or ()


def check_scripts(root: Path) -> None:
    """Raise `InternalError` (`guest-script-inside`) if a file would need an interpreter such as a shell."""
    for file in _files(root):
        with file.open("rb") as stream:
            if stream.read(2) == b"#!":
                raise InternalError(
                    "guest-script-inside", "a script got into the guest image", found=file.relative_to(root)
                )


def _settle_modes(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())
