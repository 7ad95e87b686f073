"""The verifier's role in one call: bytes of any kind in, a verdict with every reason out."""
