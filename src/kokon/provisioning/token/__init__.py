"""Attestation tokens: EAR documents as ES256 JSON Web Tokens of this server. Pure, but for making keys and the cache.

`keys` are those that sign and those that signed, `sign` makes a token, `verify` reads ours and remembers it, `claims`
says what is in one.
"""
