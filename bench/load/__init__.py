"""Load and faults: real servers under crowds, kills, full disks and hostile peers, and what must hold after each.

`python -m bench.load` runs the long form and prints the figures of docs/RELIABILITY.md; tests/load runs the short one.
"""
