"""`kokon` with a clock that can be moved: `clocked.py FILE ARGUMENTS...`.

The server takes the time from one place. Here that adds the seconds in FILE, or with `stop` in front stands still at
them (seconds since 1970). Everything else is the command as it is.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from kokon.provisioning import serve

_FILE = Path(sys.argv[1])


class _Clock(datetime):
    """`datetime.now` as the file says."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The time."""
        word, _, number = _FILE.read_text().strip().partition(" ")
        if word == "stop":
            return datetime.fromtimestamp(float(number), tz or UTC)
        return datetime.now(tz) + timedelta(seconds=float(word or 0))


def main() -> None:
    """Run the command."""
    serve.datetime = _Clock  # type: ignore[attr-defined]
    sys.argv[1:2] = []
    from kokon.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
