"""Event logs of measured boot: what firmware, boot loader and kernel wrote down about every extension of a register.

A log is worth nothing by itself: it is the untrusted explanation of register values that a quote signed. `log` reads
the formats, `replay` computes the registers a log leads to and compares, `events` says in words what an event is and
whether its digest covers what it says. Pure.
"""
