"""What runs on the untrusted machine: virtual machines, their state, disks and what the machine can do.

Nothing here ever holds a key or a secret; the import rules in pyproject.toml prove it.
"""
