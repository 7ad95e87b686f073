"""For all tests: hypothesis has no deadline, since other people's work on the machine is no fault of a parser."""

from hypothesis import settings

settings.register_profile("kokon", deadline=None)
settings.load_profile("kokon")
