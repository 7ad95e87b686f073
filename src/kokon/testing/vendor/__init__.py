"""A chip vendor in memory: authorities, evidence factories and endorsements for every format that Kokon verifies.

One file per format, and none of them uses the parsers of `kokon.tee`: the formats are written twice, so that each
implementation checks the other. `FakeVendor` is the way in; docs/TESTING.md shows how to use it.
"""

from kokon.testing.vendor.factory import FakeVendor

__all__ = ["FakeVendor"]
