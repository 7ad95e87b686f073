"""The append-only log as a Merkle tree with signed checkpoints. Pure: bytes in, bytes out; the store keeps them.

    entry        an entry's bytes, which are a leaf of the tree
    merkle       hashes, the tree's right edge, proofs of inclusion and consistency (RFC 9162)
    keys         keys of the log and of its witnesses, and their texts (C2SP signed-note)
    note         texts with signatures (C2SP signed-note, tlog-cosignature)
    checkpoint   the log's signed head, and what a witness checks before it cosigns (C2SP tlog-checkpoint)
    tiles        the tree in files for anyone to fetch (C2SP tlog-tiles)
    audit        a whole log in one file, and its verification without the server
    receipt      one entry with all that proves it

docs/LOG.md describes every format.
"""
