"""`python -m kokon`: the command line."""

import sys

from kokon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
