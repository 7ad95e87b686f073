"""The demonstration: one clinic, one cloud, and everything that the cloud could see. `kokon demo` runs it.

It uses Kokon as a newcomer would, through the command line, and reports only what it observed.
"""
