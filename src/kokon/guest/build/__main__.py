"""`python -m kokon.guest.build`: build the guest image from a shell, without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kokon.errors import KokonError
from kokon.guest.build.image import build, build_default, default_home
from kokon.guest.build.record import read_record


def main(arguments: list[str] | None = None) -> int:
    """Build the image, print its directory; messages go to standard error. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kokon.guest.build", description=__doc__)
    parser.add_argument("--output", type=Path, help="directory of the image (default: below KOKON_HOME/guest)")
    parser.add_argument("--cache", type=Path, help="directory of downloaded packages (default: KOKON_HOME/cache)")
    parser.add_argument("--package", type=Path, help="directory of the kokon package that goes inside")
    parser.add_argument("--packages", type=Path, help="packages.json of the image to make again")
    parser.add_argument("--update", action="store_true", help="take today's packages, not the recorded ones")
    options = parser.parse_args(arguments)
    try:
        if options.output is None:
            image = build_default(default_home(), _tell, update=options.update)
        else:
            more = {} if options.package is None else {"package_root": options.package}
            cache = options.cache or default_home() / "cache"
            packages = read_record(options.packages).packages if options.packages else None
            image = build(options.output, cache, packages, _tell, update=options.update, **more)
    except KokonError as error:
        print(f"kokon: {error}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    print(image.directory)  # noqa: T201
    return 0


def _tell(text: str, _fraction: float | None) -> None:
    print(f"kokon: {text}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
