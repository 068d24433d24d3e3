"""Callers that hold a connection and give nothing for it: cut off in time, and never more of them than have a place.

uvicorn alone waits for ever for a request that is begun and not ended, or for a caller that does not read its answer;
and past its own limit it refuses whoever comes next, the orchestrator's probes included. Here the newest always has a
place: the one that has waited longest without a request gives up its own.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS: Final = 15.0
"""From one whole request or answer to the next; single bytes do not count. An answer takes a third of it at most."""
PLACES_MAX: Final = 256


class Caller(H11Protocol):
    """One connection, with a deadline. `since`: the loop's time of its last whole request or answer."""

    connections: set[Self]  # type: ignore[assignment]  # uvicorn makes all of them of this class
    _deadline: asyncio.TimerHandle | None = None
    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > PLACES_MAX:
            min(self.connections - {self}, key=lambda caller: (caller.is_served(), caller.since)).cut()

    def data_received(self, data: bytes) -> None:
        served = self.cycle
        super().data_received(data)
        if self.cycle is not served:
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def is_served(self) -> bool:
        """Whether a request of this caller is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """Count from now on. A connection that is no more needs no deadline."""
        self._stop_waiting()
        if self in self.connections:
            self.since = self.loop.time()
            self._deadline = self.loop.call_later(SILENT_SECONDS, self.cut)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def cut(self) -> None:
        """End the connection now, whatever is left to be sent."""
        # Not `close`, which would wait for the caller to read what is left. The place is free at once: uvicorn gives it
        # up a turn later, and until then the next newcomer would take the same one's.
        self.transport.abort()
        self.connections.discard(self)
