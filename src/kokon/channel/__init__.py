"""Attested TLS: a TLS 1.3 channel whose other end is proven to be a measured guest (docs/PROTOCOL.md)."""
