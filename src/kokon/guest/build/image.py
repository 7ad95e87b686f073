"""Building the guest image: kernel, initrd, root file system, firmware and their description.

The same packages, wheels and sources give the same bytes. An image is named by the digest of these inputs, so that
one that is there already is not built again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kokon
from kokon.errors import HostError, UntrustedError
from kokon.guest.build import packages as debian
from kokon.guest.build.closure import Closure, find_closure
from kokon.guest.build.deb import unpack_packages
from kokon.guest.build.initrd import build_initrd
from kokon.guest.build.modules import INITRD_MODULES, ROOT_MODULES, ModuleTree
from kokon.guest.build.packages import Progress
from kokon.guest.build.record import RECORD, Package, Record, Store, read_record, sha256_file, write_record
from kokon.guest.build.rootfs import Ingredients, build_rootfs
from kokon.guest.build.tools import Tools
from kokon.guest.build.tree import wanted_in_stage
from kokon.guest.build.verity import Verity, append_tree
from kokon.guest.build.wheels import LOCK, download_wheels
from kokon.launch.image import DESCRIPTION, GuestImage, read_guest_image, write_description

NAMES = {"kernel": "vmlinuz", "initrd": "initrd", "root": "root.img", "firmware": "firmware.bin"}
# A panic (verity's too) ends the machine. Neither the cipher tests at load nor the search for more serial ports, mouse
# and keyboard does anything for a guest, and together they take an emulated processor half a second.
# A seed that the host hands over is mixed in but not counted; no store of the host's gets the kernel's log at a panic.
CMDLINE = (
    "console=ttyS0 panic=-1 quiet cryptomgr.notests 8250.nr_uarts=1 i8042.noaux i8042.nokbd "
    "random.trust_bootloader=off random.trust_cpu=on pstore.backend=none"
)
FIRMWARE = "usr/share/seabios/bios-256k.bin"
CURRENT = "current"
STORE = "packages"
_UUID = "6b6f6b6f-6e00-4000-8000-000000000001"
_SALT = hashlib.sha256(b"kokon guest image root file system").digest()
_HERE = Path(__file__).parent
_PACKAGE = Path(kokon.__file__).parent


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that an image depends on, and the digest (SHA-256, hex) over packages, the build's code and the guest's."""

    packages: tuple[Package, ...]
    closure: Closure
    digest: str


def gather(packages: Sequence[Package], closure: Closure) -> Inputs:
    """The inputs as they are now: their digest stays, whatever is edited meanwhile."""
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.name} {package.sha256}\n".encode())
    for path in sorted(path for path in _HERE.iterdir() if path.suffix in (".py", ".c", ".lock")):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    for name, path in closure.modules.items():
        digest.update(f"{name} {sha256_file(path)}\n".encode())
    return Inputs(tuple(packages), closure, digest.hexdigest())


def build(
    output: Path,
    cache: Path,
    packages: Sequence[Package] | None = None,
    progress: Progress = lambda _text, _fraction: None,
    *,
    package_root: Path = _PACKAGE,
    update: bool = False,
) -> GuestImage:
    """The guest image in the directory `output`, built unless it is there already.

    `packages` are those of an earlier image's packages.json; None takes those recorded in `cache`, or today's where
    nothing is recorded or `update` is set. `package_root` is the directory of the kokon package that goes inside.
    Raises `HostError`, `UnreachableError`, `UntrustedError`, `MalformedError`, `InternalError`.
    """
    inputs = choose_inputs(cache, packages, progress, package_root=package_root, update=update)
    return build_from(inputs, output, cache, progress)


def build_default(
    home: Path, progress: Progress = lambda _text, _fraction: None, *, update: bool = False
) -> GuestImage:
    """The guest image of this version below `home`/guest, which becomes the one that `default_guest` names."""
    cache = home / "cache"
    inputs = choose_inputs(cache, None, progress, update=update)
    image = build_from(inputs, home / "guest" / inputs.digest, cache, progress)
    link = home / "guest" / CURRENT
    scratch = link.with_name(f".{CURRENT}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(inputs.digest)
    scratch.replace(link)
    return image


def default_home() -> Path:
    """Where Kokon keeps its files: KOKON_HOME, or .local/share/kokon in the home directory."""
    named = os.environ.get("KOKON_HOME")
    return Path(named) if named else Path.home() / ".local" / "share" / "kokon"


def default_guest(home: Path) -> Path | None:
    """The directory of the guest image that was built last below `home`, if there is one."""
    directory = home / "guest" / CURRENT
    return directory.resolve() if (directory / DESCRIPTION).is_file() else None


def choose_inputs(
    cache: Path,
    packages: Sequence[Package] | None,
    progress: Progress,
    *,
    package_root: Path = _PACKAGE,
    update: bool = False,
) -> Inputs:
    """Packages and sources of an image, the packages being in the cache's store. Raises as `build` does."""
    closure = find_closure(package_root)
    recorded = recorded_packages(cache) if packages is None and not update else packages
    with _writing("the package cache"):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as name:
            area = Path(name).resolve()
            store = Store(cache / STORE)
            if recorded is None:
                recorded = _choose(store, area, cache, progress)
            else:
                _fetch(recorded, store, area, progress)
    return gather(recorded, closure)


@contextmanager
def _writing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            "guest-build-failed",
            f"{what} could not be written",
            found=error,
            hint="free some disk space, or set KOKON_HOME to a directory that you may write to",
        ) from error


def _request() -> str:
    """Digest of what is asked for: when it changes, packages are chosen anew."""
    asked = [*debian.ROOT_PACKAGES, *debian.TOOL_PACKAGES, debian.FIRMWARE_PACKAGE, debian.KERNEL_META_PACKAGE]
    unused = sorted(debian.UNUSED_PACKAGES)
    return hashlib.sha256(" ".join([*asked, *unused]).encode() + LOCK.read_bytes()).hexdigest()


def recorded_packages(cache: Path) -> tuple[Package, ...] | None:
    """The packages recorded in `cache` for what this version asks for, if there are any. Raises `MalformedError`."""
    path = cache / RECORD
    if not path.is_file():
        return None
    record = read_record(path)
    return record.packages if record.request == _request() else None


def _choose(store: Store, area: Path, cache: Path, progress: Progress) -> tuple[Package, ...]:
    chosen = debian.resolve_packages(store, area, progress)
    progress("downloading Python wheels", None)
    (area / "wheels").mkdir()
    chosen += download_wheels(store, area / "wheels")
    write_record(Record(_request(), tuple(chosen)), cache / RECORD)
    return tuple(chosen)


def _fetch(packages: Sequence[Package], store: Store, area: Path, progress: Progress) -> None:
    debian.fetch_packages([package for package in packages if package.suffix == "deb"], store, area, progress)
    if all(store.holds(package) for package in packages):
        return
    progress("downloading Python wheels", None)
    (area / "wheels").mkdir()
    download_wheels(store, area / "wheels")
    for package in packages:
        if not store.holds(package):
            raise UntrustedError(
                "guest-package-mismatch",
                f"{package.name} {package.version} is not the wheel that this version of Kokon locks",
                expected=package.sha256,
                hint="take today's packages with: kokon guest build --update",
            )


def build_from(inputs: Inputs, output: Path, cache: Path, progress: Progress) -> GuestImage:
    """The image of `inputs` in `output`. Raises as `build` does."""
    record = Record(inputs.digest, inputs.packages)
    if _is_built(output, record):
        return read_guest_image(output)
    with _writing("the guest image"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".building-") as name:
            area = Path(name)
            made = area / "image"
            made.mkdir()
            _Builder(inputs, Store(cache / STORE), area, made, progress).build()
            write_record(record, made / RECORD)
            if not _is_built(output, record):  # unless another build was quicker
                _replace(made, output)
    progress("guest image ready", 1.0)
    return read_guest_image(output)


def _is_built(output: Path, record: Record) -> bool:
    if not (output / RECORD).is_file() or not (output / DESCRIPTION).is_file():
        return False
    return read_record(output / RECORD) == record


def _replace(made: Path, output: Path) -> None:
    if output.exists():
        shutil.rmtree(output)
    made.rename(output)


@dataclass(frozen=True, slots=True)
class _Builder:
    inputs: Inputs
    store: Store
    area: Path
    made: Path
    progress: Progress

    def build(self) -> GuestImage:
        stage, kernel = self.area / "stage", self.area / "kernel"
        tools = Tools(stage)
        self.progress("unpacking packages", 0.0)
        kernels = self._files("deb", only="linux-image-")
        unpack_packages(self._files("deb", but=("linux-image-",)), stage, _wanted)
        self.progress("unpacking the kernel", 0.25)
        unpack_packages(kernels, kernel, lambda name: name.startswith(("usr/lib/modules", "boot/vmlinuz")))
        release = _only((kernel / "usr/lib/modules").glob("*"), "kernel modules").name
        modules = ModuleTree(kernel / "usr/lib/modules" / release / "kernel")
        shutil.copyfile(_only((kernel / "boot").glob("vmlinuz-*"), "kernel"), self.made / NAMES["kernel"])
        shutil.copyfile(stage / FIRMWARE, self.made / NAMES["firmware"])
        self.progress("making the initrd", 0.5)
        initrd = build_initrd(tools, modules.closure(INITRD_MODULES), self.area)
        (self.made / NAMES["initrd"]).write_bytes(initrd)
        self.progress("making the root file system", 0.6)
        verity = self._root(tools, modules, release)
        return write_description(self.made, release, f"{CMDLINE} {verity.parameters}", NAMES)

    def _root(self, tools: Tools, modules: ModuleTree, release: str) -> Verity:
        root = self.area / "root"
        there = [name for name in (*INITRD_MODULES, *ROOT_MODULES) if name in modules]
        wheels = self._files("whl")
        carried = modules.closure(there)
        build_rootfs(Ingredients(tools.tree, wheels, self.inputs.closure, carried, release), tools, root)
        self.progress("packing the root file system", 0.8)
        image = self.made / NAMES["root"]
        tools.make_erofs(root, image, _UUID)
        return append_tree(image, _SALT)

    def _files(self, suffix: str, only: str = "", but: tuple[str, ...] = ()) -> list[Path]:
        packages = [package for package in self.inputs.packages if package.suffix == suffix]
        return [
            self.store.path(package)
            for package in packages
            if package.name.startswith(only) and not (but and package.name.startswith(but))
        ]


def _only(found: Iterable[Path], what: str) -> Path:
    paths = list(found)
    if len(paths) != 1:
        raise HostError("guest-package-unknown", f"the packages do not hold one {what}", expected=1, found=len(paths))
    return paths[0]


def _wanted(name: str) -> bool:
    return name == FIRMWARE or wanted_in_stage(name)
