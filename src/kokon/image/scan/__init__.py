"""Secrets that must not be in an image: what they look like, and where in an image they are."""
