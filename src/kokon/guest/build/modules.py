"""Kernel modules: which ones the guest carries, unpacked, with the order in which they can be loaded."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError, MalformedError
from kokon.wire import canonical_json

# Loaded by init before the root file system can be read.
INITRD_MODULES = ("virtio_blk", "dm_mod", "dm_verity", "erofs")
# Loaded by the agent when it needs them (kokon.guest.agent.modules). What a kernel has built in is passed over.
ROOT_MODULES = (
    "virtio_net", "dm_crypt", "dm_integrity", "aegis128", "aegis128_aesni", "aesni_intel", "xts", "authenc",
    "sha256_ssse3", "overlay",
)  # fmt: skip
MODULE_LIMIT = 64 << 20
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module: name with underscores, unpacked content, names of the modules it needs."""

    name: str
    data: bytes
    depends: tuple[str, ...]


class ModuleTree:
    """The modules of one kernel package, below its kernel/ directory; read and unpacked as they are asked for."""

    def __init__(self, directory: Path) -> None:
        self._paths = {plain(path.name): path for path in sorted(directory.rglob("*.ko*"))}
        self._read: dict[str, Module] = {}

    def __contains__(self, name: str) -> bool:
        return plain(name) in self._paths

    def module(self, name: str) -> Module:
        """The module `name`. Raises `HostError` (`guest-module-missing`), `MalformedError` (`module-malformed`)."""
        name = plain(name)
        if name not in self._read:
            if name not in self._paths:
                raise HostError("guest-module-missing", "the kernel package lacks a module", expected=name)
            data = _unpacked(self._paths[name])
            self._read[name] = Module(name, data, read_depends(data, name))
        return self._read[name]

    def closure(self, names: Iterable[str]) -> list[Module]:
        """The modules and all that they need, each after what it needs. Raises as `module` does."""
        done: dict[str, Module] = {}
        for name in names:
            self._add(name, done)
        return list(done.values())

    def _add(self, name: str, done: dict[str, Module]) -> None:
        module = self.module(name)
        if module.name not in done:
            for needed in module.depends:
                self._add(needed, done)
            done[module.name] = module


def plain(name: str) -> str:
    """A module's name as the kernel has it: without suffix, with underscores."""
    return name.partition(".ko")[0].replace("-", "_")


def read_depends(data: bytes, name: str) -> tuple[str, ...]:
    """The names in `depends=` of a module's .modinfo section. Raises `MalformedError` (`module-malformed`)."""
    found = _DEPENDS.findall(data)
    if len(found) != 1:
        raise MalformedError("module-malformed", "a kernel module does not say what it needs", found=name)
    return tuple(plain(part.decode("ascii", "replace")) for part in found[0].split(b",") if part)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        unpacked = unpacker.decompress(data, MODULE_LIMIT)
    except lzma.LZMAError as error:
        raise MalformedError("module-malformed", f"{path.name} is not xz", found=error) from error
    if not unpacker.eof:
        raise MalformedError("module-malformed", f"{path.name} is cut off or too large")
    return unpacked


def module_index(modules: Iterable[Module], directory: str) -> bytes:
    """modules.json for the agent: {name: {"path": file in the guest, "depends": [names]}}."""
    index: Mapping[str, object] = {
        module.name: {"path": f"{directory}/{module.name}.ko", "depends": list(module.depends)} for module in modules
    }
    return canonical_json(index) + b"\n"
