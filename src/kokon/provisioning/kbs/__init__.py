"""The key broker protocol of Confidential Containers as values: messages, bindings, sessions, answers. Pure.

`messages` reads and writes what travels, `binding` holds it against what the hardware signed, `envelopes` turns
evidence into kokon.tee's, `session` is the state that the guest carries for us, `answers` says how we refuse.
"""
