"""Fuzzing of every parser that reads what a stranger made. `python -m fuzz --help`."""
