"""The programs that shape the image's bytes, taken from packages too and run with their own C library.

So the image depends on no compiler, file system builder or Python version of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kokon.guest.build.run import run

_LOADER = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_COMPILE = Path(__file__).with_name("compile_all.py")


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs unpacked from packages below `tree`."""

    tree: Path

    def compile_c(self, source: Path, target: Path) -> None:
        """Compile a freestanding C program with tcc. Raises `HostError` (`guest-build-failed`)."""
        own = self.tree / _LIBRARIES / "tcc"
        options = [f"-B{own}", "-nostdinc", "-nostdlib", "-static", "-Wall", "-Werror", "-o", str(target), str(source)]
        self._run("usr/bin/tcc", options, "the C compiler")

    def make_erofs(self, tree: Path, image: Path, uuid: str) -> None:
        """Make an erofs file system of a directory: lz4, owners root, times the epoch. Raises as `compile_c`."""
        options = ["-zlz4", "-T0", f"-U{uuid}", "--all-root", "-x-1", "--quiet", str(image), str(tree)]
        self._run("usr/bin/mkfs.erofs", options, "mkfs.erofs")

    def compile_python(self, root: Path, files: Sequence[Path]) -> None:
        """Replace Python files below `root` by byte code of the guest's own Python. Raises as `compile_c`."""
        names = "".join(f"{file.relative_to(root)}\n" for file in files)
        self._run("usr/bin/python3.11", ["-S", "-s", "-B", str(_COMPILE), str(root)], "compiling Python", names)

    def python_builtins(self) -> frozenset[str]:
        """Names of the modules that are compiled into the guest's Python. Raises as `compile_c`."""
        program = "import sys; print(*sys.builtin_module_names)"
        listed = self._run("usr/bin/python3.11", ["-S", "-s", "-B", "-c", program], "the guest's Python")
        return frozenset(listed.decode().split())

    def _run(self, program: str, options: Sequence[str], what: str, given: str = "") -> bytes:
        environment = {"PATH": "/usr/bin:/bin", "PYTHONHOME": str(self.tree / "usr"), "PYTHONHASHSEED": "0"}
        loader: list[str | Path] = [self.tree / _LOADER, "--library-path", self.tree / _LIBRARIES, self.tree / program]
        return run([*loader, *options], what=what, environment=environment, given=given.encode())
