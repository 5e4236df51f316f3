"""What holds for every test: property tests draw the same examples in every run, so that a failure is everybody's."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
