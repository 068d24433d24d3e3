"""The ports: what the corridor (`loop.py`, `recovery.py`) asks of the world, and what the world promises.

Each protocol has two real implementations and one contract suite (`tests/contract/`) that runs over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from stream.events import (
    CheckpointFailed,
    CheckpointRef,
    LearnReport,
    PlannedBatch,
    Position,
    RawChunk,
    Recommendation,
    Reject,
)


class Clock(Protocol):
    """Time as a port, so that tests and the simulation can set it."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch. May jump; decides nothing that reaches the model's state."""

    def monotonic(self) -> float:
        """Seconds that never go back, for ages and intervals."""

    def sleep(self, seconds: float) -> None:
        """Give the processor away for so long, as `monotonic` counts."""


class Lookout(Protocol):
    """A flag that is raised once, and that can be waited for."""

    def set(self) -> None:
        """Raise it."""

    def is_set(self) -> bool:
        """Whether it is raised."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is raised, at most `timeout` seconds; whether it is."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One row of a listing. `modified`: seconds since the epoch by the store's clock."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Blob:
    """An object's bytes and the ETag under which they were read."""

    data: bytes
    etag: str


class ObjectStore(Protocol):
    """Keys to bytes. Every call may raise `StoreUnavailable` (may pass; the outcome of a write is then unknown) or
    `StoreRefused` (will not pass: no bucket, no access). Implementations are safe to use from several threads and can
    be pickled (for the learner's process), reconnecting on the other side.
    """

    def get(self, key: str) -> Blob:
        """The whole object. Raises `NotFound`."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer at the end of the object. Raises `NotFound`."""

    def head(self, key: str) -> ObjectInfo:
        """Size, ETag and time without the bytes. Raises `NotFound`."""

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write the object whole, durably when this returns, never visible in part; answers its new ETag.

        `if_absent`: only if no object is there; `if_match`: only over that ETag; else `PreconditionFailed`. `Conflict`
        when the store asks for another try. Large objects go up in several parts, the condition holds all the same.
        """

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix` and is greater than `start_after`, in ascending key order."""

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove the object; no error if it is not there.

        With `if_match`, only that version: else `PreconditionFailed`.
        """


class EventSource(Protocol):
    """A log of messages in numbered partitions. Not thread safe: one thread owns it."""

    def partitions(self) -> Sequence[int]:
        """The partitions that exist now, ascending. Raises `SourceRefused` when the topic does not exist."""

    def beginning(self) -> Mapping[int, int]:
        """The first offset still held, by partition."""

    def end(self) -> Mapping[int, int]:
        """The offset after the last message, by partition, as known now."""

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        """Read exactly these partitions, from exactly these offsets. Nothing is paused afterwards."""

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        """What has arrived: at most `max_events` messages, offsets rising within a partition, none skipped or repeated.

        Waits at most `timeout_seconds` (capped at 1). Raises `SourceRefused` when an offset asked for is no longer held
        (retention), naming partition, offset, and the offsets that are held. Connection trouble is not raised: the
        answer is empty until it passes.
        """

    def pause(self) -> None:
        """Stop fetching; `poll` goes on answering, with nothing."""

    def resume(self) -> None:
        """Fetch again."""

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the group's offsets to lag tools.

        Best effort, never raises for a broker's trouble, read back by nobody.
        """

    def lag(self) -> Mapping[int, int]:
        """Messages not yet polled, by partition, as far as known without a network call."""

    def silent_seconds(self) -> float:
        """For how long whoever holds the log has not answered; 0 while it does, or while nothing is asked of it."""

    def exhausted(self) -> bool:
        """True when nothing more will ever come (a finished replay); a broker never is."""

    def close(self) -> None:
        """Release connections and threads. Idempotent."""


class DeadLetters(Protocol):
    """Where rejects go, with their original bytes. At least once: a crash before the plan may write them again."""

    def send(self, rejects: Sequence[Reject]) -> None:
        """Durable when this returns. Raises `StoreUnavailable` when it may pass, `SourceRefused` when it will not."""

    def close(self) -> None:
        """Flush and release. Idempotent."""


class LiveLearner(Protocol):
    """The live model, in a process of its own. Calls other than `collect` may be made by one thread only.

    Every call raises `LearnerLost` when the process is gone; `start` then begins a new, empty one.
    """

    def start(self) -> None:
        """Begin a new, empty learner process; ends the one before. Raises `LearnerFailed`."""

    def restore(self, manifest_key: str | None) -> Position:
        """Load a checkpoint (None: an empty model). Raises `CheckpointInvalid`; the learner is then empty again."""

    def submit(self, planned: PlannedBatch) -> None:
        """Hand over a plan. Returns at once; learned in the order of submission. A gap in seq is refused."""

    def begin_checkpoint(self) -> None:
        """Write a checkpoint of the state after everything submitted so far.

        Returns at once; `collect` has the result.
        """

    def in_flight(self) -> int:
        """Plans submitted and not yet collected."""

    def collect(self, timeout_seconds: float = 0.0) -> Sequence[LearnReport | CheckpointRef | CheckpointFailed]:
        """Reports that have arrived since the last call, plans in order; waits at most `timeout_seconds` for the first.

        Raises `LearnerLost` too when learning a plan failed: the state may be half changed then, and is given up.
        """

    def status(self, *, digest: bool = False) -> Mapping[str, Any]:
        """`seq`, `pid`, `rows`, `config`, `compiled` (kernels compiled in this process), and, if asked for,
        `state_sha256` over the whole state after everything submitted so far (two equal states have equal ones).
        """

    def recommend(self, user_id: str, top_n: int) -> Sequence[Recommendation]:
        """Top N for a user by the current model; by popularity for one never seen. Changes nothing."""

    def close(self) -> None:
        """End the process. Idempotent."""


class Meter(Protocol):
    """Where figures go. Names and labels are those listed in `stream/metrics.py`; an unknown one is an error."""

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one observation of a histogram."""


class Executor(Protocol):
    """Runs blocking work beside the poll loop. With one thread: one job at a time, in the order of submission."""

    def submit(self, fn: Any, /, *args: Any) -> Future[Any]:
        """Queue `fn(*args)`."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as concurrent.futures has it
        """Take no more jobs; wait for the one that runs, drop those that wait if told to."""
