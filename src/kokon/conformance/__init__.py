"""A black-box suite of the key broker protocol of Confidential Containers: `kokon conformance URL`.

It speaks to any server of that protocol, ours or another, over HTTP alone. Messages, keys, encrypted answers and tokens
are built and read here a second time, without the code of `kokon.provisioning` and `kokon.jose`, so that a mistake that
server and client share does not go unnoticed. docs/CONFORMANCE.md tells how to run it and lists the cases.
"""
