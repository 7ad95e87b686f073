"""Workloads that are admitted by a rule: signer and minimum version, certifiers, where and how often, which secrets.

`rule` is what the owner admits, `record` what the server remembers of a statement that the rule let in (a *release* of
the workload), `standing` holds a release against the rule, `accept` decides about a statement, and `compose` makes of
rule and release what enclaves are judged by. Pure.

A statement is accepted without the owner, by whoever may add statements. So nothing in the request may widen what the
rule grants, and all that the rule says of a release is looked at again whenever the release is used.
"""
