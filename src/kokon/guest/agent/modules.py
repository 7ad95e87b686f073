"""Loading kernel modules from the measured root file system, without modprobe.

`modules.json` (written when the guest image is built) maps a module's name to its path and the names it depends on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError, MalformedError
from kokon.guest.agent import kernel
from kokon.wire import Fields, parse_json

INDEX = Path("/usr/lib/kokon/modules.json")
NETWORK = ("virtio_net",)
STORAGE = ("virtio_blk", "dm_mod", "aegis128_aesni", "aegis128", "dm_integrity", "dm_crypt")
VOLUME = ("aesni_intel", "xts", "sha256_ssse3", "authenc")
BLOCK = ("aesni_intel", "xts", "sha256_ssse3", "overlay")
_LOADED = Path("/sys/module")
_INDEX_LIMIT = 256 << 10
# Absent hardware, or an algorithm that another module gave already, is no reason to stop.
_HARMLESS = frozenset({errno.EEXIST, errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Module:
    """One kernel module: the path of its file, and the names of the modules it needs."""

    path: str
    depends: tuple[str, ...]


def parse_index(data: bytes) -> dict[str, Module]:
    """The content of modules.json, names with underscores. Raises `MalformedError`."""
    index: dict[str, Module] = {}
    value = parse_json(data, limit=_INDEX_LIMIT, what="modules.json")
    if not isinstance(value, dict):
        raise MalformedError("modules-malformed", "modules.json must be an object")
    for name, entry in value.items():
        fields = Fields(entry, "module")
        depends = fields.array("depends")
        if not all(isinstance(d, str) for d in depends):
            raise MalformedError("modules-malformed", "depends must be names", found=name)
        index[_plain(name)] = Module(fields.text("path"), tuple(_plain(d) for d in depends))
    return index


def load_order(index: Mapping[str, Module], wanted: Iterable[str]) -> tuple[str, ...]:
    """Paths of the wanted modules and all they need, each after what it needs.

    A wanted name that is not in the index is built into the kernel, or the kernel does without it. Raises
    `MalformedError` (`modules-malformed`) for a circle or a missing dependency.
    """
    order: dict[str, str] = {}
    for name in wanted:
        if _plain(name) in index:
            _visit(index, _plain(name), order, ())
    return tuple(order.values())


def _visit(index: Mapping[str, Module], name: str, order: dict[str, str], above: tuple[str, ...]) -> None:
    if name in order:
        return
    if name in above or name not in index:
        raise MalformedError("modules-malformed", "a module's dependencies cannot be met", found=name)
    for needed in index[name].depends:
        _visit(index, needed, order, (*above, name))
    order[name] = index[name].path


def _plain(name: str) -> str:
    return name.replace("-", "_")


def read_index(path: Path = INDEX) -> dict[str, Module]:
    """The index of this guest image. Raises `MalformedError`, `OSError`."""
    with path.open("rb") as file:
        return parse_index(file.read(_INDEX_LIMIT + 1))


def load(paths: Iterable[str], insert: Callable[[int], None] = kernel.finit_module, loaded: Path = _LOADED) -> None:
    """Load modules in this order, save those that are there already. Raises `HostError` (`module-refused`)."""
    for path in paths:
        if (loaded / Path(path).stem).exists():
            continue
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            insert(descriptor)
        except OSError as error:
            if error.errno not in _HARMLESS:
                raise HostError(
                    "module-refused", "the kernel refused a module", found=f"{Path(path).name}: {error.strerror}"
                ) from error
        finally:
            os.close(descriptor)
