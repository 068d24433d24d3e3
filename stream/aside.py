"""Which batches are set aside, and why: those at which learning diverged twice in a row, from a state restored anew.

Whether it does is a function of the plans, so every process, and a replay a year later, comes to the same decision by
itself. The record in the store is for people: it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import structlog

from stream.errors import Diverged, PreconditionFailed
from stream.events import LearnReport
from stream.naming import Layout
from stream.patience import Patience
from stream.ports import Meter, ObjectStore

log = structlog.get_logger()
FORMAT = 1


class Asides:
    """What this process has seen diverge. Used by one thread at a time."""

    def __init__(self, store: ObjectStore, layout: Layout, patience: Patience, meter: Meter) -> None:
        self._store, self._layout, self._patience, self._meter = store, layout, patience, meter
        self._suspected: set[int] = set()
        self._reasons: dict[int, str] = {}

    @property
    def reasons(self) -> Mapping[int, str]:
        """By plan, why its clicks are not to be learned."""
        return self._reasons

    def learned(self, seq: int) -> None:
        """Plan `seq` was learned, and all went well: whatever made it diverge before was not in its clicks."""
        self._suspected.discard(seq)

    def noting(self, told: Callable[[LearnReport], None]) -> Callable[[LearnReport], None]:
        """`told`, which lets the suspicion of each plan that is reported end first: for a replay."""

        def note(report: LearnReport) -> None:
            self.learned(report.seq)
            told(report)

        return note

    def diverged(self, error: Diverged) -> None:
        """Learning diverged at a plan. At the second time in a row the plan is set aside, and the store told so.

        Once could be this machine's fault: a bit that fell over in memory.
        """
        if error.seq not in self._suspected:
            self._suspected.add(error.seq)
            log.error("learning diverged, restoring and trying once more", seq=error.seq, reason=error.reason)
            return
        key = self._layout.aside(error.seq)
        record = msgspec.json.encode({"format": FORMAT, "seq": error.seq, "reason": error.reason})
        self._patience.call(f"write {key}", lambda: self._record(key, record))
        self._reasons[error.seq] = error.reason
        self._meter.add("headrace_batches_set_aside_total")
        log.error("learning diverged there again: the plan is set aside", seq=error.seq, reason=error.reason, key=key)

    def _record(self, key: str, record: bytes) -> None:
        with suppress(PreconditionFailed):  # another process came to the same decision
            self._store.put(key, record, if_absent=True)
