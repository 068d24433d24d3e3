"""Try again while a trouble may pass; give up when told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from stream.errors import Conflict, StoreUnavailable
from stream.policy import Backoff
from stream.ports import Meter

T = TypeVar("T")
log = structlog.get_logger()


class Patience:
    """Repeats store calls that are safe to repeat. `wait(seconds)` sleeps and answers True to give up."""

    def __init__(self, backoff: Backoff, wait: Callable[[float], bool], meter: Meter) -> None:
        self._backoff = backoff
        self._wait = wait
        self._meter = meter

    def call(self, what: str, attempt: Callable[[], T]) -> T:
        """Answer `attempt()`, repeated while it raises StoreUnavailable or Conflict; raises it once told to give up."""
        tries = 0
        while True:
            try:
                return attempt()
            except (StoreUnavailable, Conflict) as error:
                tries += 1
                self._meter.add("headrace_store_retries_total")
                log.warning("store does not answer, trying again", what=what, tries=tries, error=str(error))
                if self._wait(self._backoff.wait(tries)):
                    raise
