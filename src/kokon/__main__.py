"""`python -m kokon`: the command line."""

from kokon.cli.main import main

if __name__ == "__main__":
    main()
