"""Settings of the property tests in this folder."""

from __future__ import annotations

from hypothesis import settings

# No deadline: on a busy machine an example may take any time, and the suite has a time-out of its own. Derandomized:
# what one run finds, every run finds.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")
