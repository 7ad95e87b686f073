"""Shipped fakes, for our tests and yours: a chip vendor in memory, its services over HTTP, an attacker.

docs/TESTING.md shows how to test a policy or a verifier with them. Nothing in Kokon itself imports this package.
"""

from kokon.testing.vendor import FakeVendor

__all__ = ["FakeVendor"]
