"""What the tests of the suite share."""

from __future__ import annotations

from collections.abc import Callable

from kokon.conformance.run import Report
from kokon.tee.simulated.processor import Processor

CHIP = Processor(bytes(range(32)))
"""A simulated chip without certificates, which the fake broker knows."""

Trial = Callable[..., Report]
"""Runs the suite against a fake broker with the given faults."""
