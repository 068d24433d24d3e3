"""Fakes that really work, for speed: a store in memory, a learner in this process, a clock that a test sets.

They keep the ports' promises: the contract suites run over them and over the real things alike. Trouble is an input: a
`MemoryStore` fails, loses a reply or crashes where a test tells it to, and an `InlineLearner` can be killed.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from stream.errors import LearnerLost, NotFound, PreconditionFailed
from stream.events import CheckpointFailed, CheckpointRef, LearnReport, PlannedBatch, Position, Recommendation, Reject
from stream.host import HostConfig, LearnerHost
from stream.ports import Blob, ObjectInfo


class Crash(BaseException):
    """The process died here. Not an Exception: nothing in the product may catch it."""


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.wall = start
        self.ticks = 0.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.ticks += seconds


class MemoryStore:
    """An `ObjectStore` in memory.

    `trouble(call, key)` runs before, `aftermath(call, key)` after each call, refused ones included.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.calls: list[tuple[str, str]] = []
        self.trouble: Callable[[str, str], None] = lambda _call, _key: None
        self.aftermath: Callable[[str, str], None] = lambda _call, _key: None
        self._clock = clock or FakeClock()
        self._lock = threading.Lock()

    def get(self, key: str) -> Blob:
        with self._call("get", key):
            data = self._found(key)
            return Blob(data, _etag(data))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._call("get_range", key):
            return self._found(key)[start : start + length]

    def head(self, key: str) -> ObjectInfo:
        with self._call("head", key):
            return self._info(key)

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        with self._call("put", key):
            found = self.objects.get(key)
            if if_absent and found is not None:
                raise PreconditionFailed(f"{key} is there already")
            if if_match is not None and (found is None or _etag(found[0]) != if_match):
                raise PreconditionFailed(f"{key} has another ETag")
            self.objects[key] = (bytes(data), self._clock.now())
            return _etag(bytes(data))

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        with self._call("list", prefix):
            keys = sorted((key for key in self.objects if key.startswith(prefix)), key=str.encode)
            found = [self._info(key) for key in keys if key.encode() > start_after.encode()]
        yield from found

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        with self._call("delete", key):
            if if_match is not None and key in self.objects and _etag(self.objects[key][0]) != if_match:
                raise PreconditionFailed(f"{key} has another ETag")
            self.objects.pop(key, None)

    def copy(self) -> MemoryStore:
        """Another store with the same content, and no trouble."""
        other = MemoryStore(self._clock)
        other.objects = dict(self.objects)
        return other

    def _found(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFound(f"{key} is not there")
        return self.objects[key][0]

    def _info(self, key: str) -> ObjectInfo:
        data = self._found(key)
        return ObjectInfo(key, len(data), _etag(data), self.objects[key][1])

    def _call(self, name: str, key: str) -> _Call:
        return _Call(self, name, key)


class _Call:
    """One call: trouble before it, the lock around it, the aftermath behind it."""

    def __init__(self, store: MemoryStore, name: str, key: str) -> None:
        self._store, self._name, self._key = store, name, key

    def __enter__(self) -> None:
        self._store.trouble(self._name, self._key)
        self._store._lock.acquire()
        self._store.calls.append((self._name, self._key))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._store._lock.release()
        if kind is None or issubclass(kind, Exception):
            self._store.aftermath(self._name, self._key)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class InlineLearner:
    """A `LiveLearner` in this process: plans are learned when they are collected. `kill` loses it, as SIGKILL would.

    `dies_at`: a plan's seq at which it dies, once, before learning it. `is_awake` is asked at each `collect`; while it
    says no, nothing is learned and nothing reported.
    """

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._host: LearnerHost | None = None
        self._waiting: deque[PlannedBatch | None] = deque()
        self.dies_at: int | None = None
        self.is_awake: Callable[[], bool] = lambda: True
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        self._waiting.clear()
        self._host = LearnerHost(self._config)

    def restore(self, manifest_key: str | None) -> Position:
        return self._alive().restore(manifest_key)

    def submit(self, planned: PlannedBatch) -> None:
        self._alive()
        self._waiting.append(planned)

    def begin_checkpoint(self) -> None:
        self._alive()
        self._waiting.append(None)

    def in_flight(self) -> int:
        return sum(each is not None for each in self._waiting)

    def collect(self, timeout_seconds: float = 0.0) -> Sequence[LearnReport | CheckpointRef | CheckpointFailed]:
        host = self._alive()
        reports: list[LearnReport | CheckpointRef | CheckpointFailed] = []
        while self.is_awake() and self._waiting:
            planned = self._waiting.popleft()
            if planned is None:
                reports.append(self._write(host))
                continue
            if planned.plan.seq == self.dies_at:
                self.dies_at = None
                self.kill()
                raise LearnerLost("killed by the test")
            reports.append(host.apply(planned))
        return reports

    def status(self, *, digest: bool = False) -> Mapping[str, Any]:
        return self._alive().status(digest=digest)

    def recommend(self, user_id: str, top_n: int) -> Sequence[Recommendation]:
        return self._alive().recommend(user_id, top_n)

    def close(self) -> None:
        self._host = None
        self._waiting.clear()

    def kill(self) -> None:
        """End it without a word."""
        self.close()

    def _alive(self) -> LearnerHost:
        if self._host is None:
            raise LearnerLost("the learner is not running")
        return self._host

    def _write(self, host: LearnerHost) -> CheckpointRef | CheckpointFailed:
        host.begin_checkpoint()
        try:
            return host.finish_checkpoint()
        except Exception as error:  # noqa: BLE001 - as Ray does: whatever it was comes back as the answer
            return CheckpointFailed(str(error))


class MemoryLetters:
    """`DeadLetters` in a list."""

    def __init__(self) -> None:
        self.letters: list[Reject] = []

    def send(self, rejects: Sequence[Reject]) -> None:
        self.letters.extend(rejects)

    def close(self) -> None:
        """Nothing to release."""


class InlineExecutor:
    """Runs each job at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:  # noqa: BLE001 - a future holds whatever its job raised
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as concurrent.futures has it
        """Nothing to end."""
