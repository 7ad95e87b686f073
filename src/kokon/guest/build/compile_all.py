"""Run by the guest's own Python while an image is built: turn sources into byte code that needs no source.

Usage: compile_all.py ROOT < names. Each line names a file below ROOT; it is replaced by a .pyc beside it with an
unchecked source hash (PEP 552), whose code names the file as the guest sees it.
"""

import sys
from importlib import _bootstrap_external as machinery
from importlib.util import source_hash
from pathlib import Path


def main() -> None:
    root = Path(sys.argv[1])
    for line in sys.stdin:
        name = line.rstrip("\n")
        path = root / name
        source = path.read_bytes()
        code = compile(source, f"/{name}", "exec", dont_inherit=True, optimize=0)
        data = machinery._code_to_hash_pyc(code, source_hash(source), checked=False)  # type: ignore[attr-defined]  # noqa: SLF001
        path.with_suffix(".pyc").write_bytes(data)
        path.unlink()


if __name__ == "__main__":
    main()
