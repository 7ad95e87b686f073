"""Who holds the master key, and the data keys that it wraps.

`master` is the key itself, `wrapped` its wrapped form, `file`, `passphrase`, `pkcs11` and `enclave` are the holders,
`vault` is the state directory, `inputs` reads passphrases and PINs, `keyring` keeps the data keys.
"""
