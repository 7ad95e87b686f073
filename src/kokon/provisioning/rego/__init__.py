"""Rego policies of the key broker protocol's admin clients, evaluated where they can do no harm.

Policies are text that other people wrote, and the engine (regopy, Microsoft's rego-cpp) is native code which such text
can crash, slow down or fill up. So it runs in processes of its own (`worker`, `confine`) that the server watches and
kills (`process`, `pool`, `engine`). The rest is pure: `text` bounds what the engine gets to see and `claims` what it
may answer, `inputs` and `events` make what policies read, `trial` is what they are tried on, `reference` keeps
reference values of the RVPS kind, `launches` gets them out of CoRIMs, `defaults` has our own policies.

This file stays without imports: the worker's process loads it.
"""
