"""One target under atheris: `python -m fuzz.one NAME CORPUS [libFuzzer options]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["kokon"]):
    from fuzz.targets import targets


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    target = targets()[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
