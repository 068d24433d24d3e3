"""The doors of a simulated process: a store, a log of messages, dead letters, and a learner in a process of its own.

Every call waits, may fail as the real thing may, and passes a boundary at which its process can die on either side of
the effect. What the outside holds (`Bucket`, `Log`) belongs to the world and outlives every process.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from stream.errors import Conflict, LearnerLost, NotFound, PreconditionFailed, SourceRefused, StoreUnavailable
from stream.events import CheckpointFailed, CheckpointRef, LearnReport, PlannedBatch, Position, RawChunk, Reject
from stream.host import HostConfig, LearnerHost
from stream.ports import Blob, ObjectInfo
from tests.recovery.simulated.world import WALL_START, Bell, Process, World

PAGE = 5
"""Keys in one page of a listing: what changes between two pages is seen in part."""


@dataclass(slots=True)
class Weather:
    """How bad it is outside: chances per call, and spans of time. A calm world has none of it.

    `twice`: that a call to the learner is delivered twice.
    """

    lost_request: float = 0.0
    lost_reply: float = 0.0
    conflict: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list)
    late_seconds: float = 60.0
    twice: float = 0.0

    def out(self, now: float) -> bool:
        """Whether the store is away."""
        return any(start <= now < end for start, end in self.outages)


class Bucket:
    """What the store holds. `written`: everything that was ever written, by SHA-256, for the judge."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = Weather()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.written: dict[str, bytes] = {}
        self.planned: dict[int, int] = {}
        """Up to which offset each partition has been planned: whoever's plan it was."""
        self.tables: dict[str, Any] = {}
        """What the judge has decoded."""
        self.honours_conditions = True

    def put(self, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        """Raises PreconditionFailed."""
        found = self.objects.get(key)
        if self.honours_conditions:
            if if_absent and found is not None:
                raise PreconditionFailed(f"{key} is there already")
            if if_match is not None and (found is None or _etag(found[0]) != if_match):
                raise PreconditionFailed(f"{key} has another ETag")
        self.objects[key] = (data, WALL_START + self.world.now)
        self.written[hashlib.sha256(data).hexdigest()] = data
        if "/plan/" in key:
            for planned in json.loads(data)["plan"]["ranges"]:
                self.planned[planned["partition"]] = max(self.planned.get(planned["partition"], 0), planned["end"])
        return _etag(data)

    def delete(self, key: str, if_match: str | None) -> None:
        """Raises PreconditionFailed."""
        found = self.objects.get(key)
        if if_match is not None and found is not None and _etag(found[0]) != if_match:
            raise PreconditionFailed(f"{key} has another ETag")
        self.objects.pop(key, None)

    def read(self, key: str) -> bytes:
        """Raises NotFound."""
        if key not in self.objects:
            raise NotFound(f"{key} is not there")
        return self.objects[key][0]

    def info(self, key: str) -> ObjectInfo:
        """Raises NotFound."""
        data = self.read(key)
        return ObjectInfo(key, len(data), _etag(data), self.objects[key][1])


class SimulatedStore:
    """An `ObjectStore` as one process sees it."""

    def __init__(self, bucket: Bucket, process: Process) -> None:
        self._bucket = bucket
        self._process = process
        self._world = bucket.world

    def get(self, key: str) -> Blob:
        data: bytes = self._call("get", key, lambda: self._bucket.read(key))
        return Blob(data, _etag(data))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data: bytes = self._call("get_range", key, lambda: self._bucket.read(key))
        return data[start : start + length]

    def head(self, key: str) -> ObjectInfo:
        return self._call("head", key, lambda: self._bucket.info(key))  # type: ignore[no-any-return]

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        whole = bytes(data)
        conditional = if_absent or if_match is not None
        return self._call(  # type: ignore[no-any-return]
            "put",
            key,
            lambda: self._bucket.put(key, whole, if_absent=if_absent, if_match=if_match),
            writes=True,
            conditional=conditional,
        )

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        after = start_after
        while True:
            page: Sequence[ObjectInfo] = self._call("list", prefix, lambda after=after: self._page(prefix, after))  # type: ignore[misc]
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].key

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        self._call("delete", key, lambda: self._bucket.delete(key, if_match), writes=True)

    def _page(self, prefix: str, after: str) -> Sequence[ObjectInfo]:
        keys = sorted(key for key in self._bucket.objects if key.startswith(prefix) and key > after)
        return [self._bucket.info(key) for key in keys[:PAGE]]

    def _call(
        self, name: str, key: str, act: Callable[[], Any], *, writes: bool = False, conditional: bool = False
    ) -> Any:
        world, weather, chance = self._world, self._bucket.weather, self._world.random.random
        self._process.boundary()
        world.sleep(chance() * (30.0 if chance() < weather.slow else 0.02))
        if weather.out(world.now) or chance() < weather.lost_request:
            return self._fail(name, key, "request lost")
        if conditional and chance() < weather.conflict:
            self._note(name, key, "409")
            raise Conflict(f"{key}: try again")
        if writes and chance() < weather.late:
            self._send_late(name, key, act)
            return self._fail(name, key, "request late")
        try:
            answer = act()
        except (NotFound, PreconditionFailed) as error:
            self._reply(name, key, type(error).__name__)
            raise
        self._reply(name, key, "ok")
        return answer

    def _reply(self, name: str, key: str, what: str) -> None:
        self._note(name, key, what)
        self._process.boundary()
        self._world.sleep(self._world.random.random() * 0.01)
        if self._world.random.random() < self._bucket.weather.lost_reply:
            self._fail(name, key, "reply lost")

    def _send_late(self, name: str, key: str, act: Callable[[], Any]) -> None:
        """The request is under way still when its sender has given it up, or died."""
        world = self._world

        def arrive() -> None:
            try:
                act()
                world.note(None, f"late {name} {key} took effect")
            except (NotFound, PreconditionFailed) as error:
                world.note(None, f"late {name} {key}: {type(error).__name__}")

        world.at(world.now + world.random.random() * self._bucket.weather.late_seconds, arrive)

    def _fail(self, name: str, key: str, how: str) -> Any:
        self._note(name, key, how)
        self._world.sleep(self._world.random.random() * 2.0)
        raise StoreUnavailable(f"{name} {key}: {how}")

    def _note(self, name: str, key: str, what: str) -> None:
        if self._world.trace is not None:
            self._world.note(self._process, f"{name} {key}: {what}")


@dataclass(frozen=True, slots=True)
class Message:
    """What a producer published. `at`: when it can be read, in the world's seconds."""

    partition: int
    offset: int
    value: bytes
    at: float


class Log:
    """A topic. Offsets may have gaps (compaction). `held`: the first offset that retention has left, by partition."""

    def __init__(self, world: World, messages: Sequence[Message], opened: Mapping[int, float]) -> None:
        """`opened`: when each partition comes into being."""
        self._world = world
        self._opened = opened
        self.messages: dict[int, list[Message]] = {partition: [] for partition in opened}
        for message in messages:
            self.messages[message.partition].append(message)
        self._at = {partition: [each.at for each in found] for partition, found in self.messages.items()}
        self._offsets = {partition: [each.offset for each in found] for partition, found in self.messages.items()}
        self.held = dict.fromkeys(opened, 0)
        self.quiet: list[tuple[float, float]] = []
        """Spans in which no broker answers."""
        self.group: dict[int, int] = {}
        """What was committed to the consumer group."""

    def partitions(self) -> list[int]:
        """Those that exist now."""
        return sorted(partition for partition, at in self._opened.items() if at <= self._world.now)

    def ends(self, partition: int) -> int:
        """The offset after the last message that has been published."""
        published = bisect_right(self._at[partition], self._world.now)
        return self._offsets[partition][published - 1] + 1 if published else 0

    def read(self, partition: int, offset: int, most: int) -> Sequence[Message]:
        """At most so many messages of a partition from `offset` on, of those that have been published."""
        published = bisect_right(self._at[partition], self._world.now)
        first = bisect_left(self._offsets[partition], offset)
        return self.messages[partition][first : min(published, first + most)]

    def is_quiet(self) -> bool:
        """Whether no broker answers now."""
        return any(start <= self._world.now < end for start, end in self.quiet)


class SimulatedSource:
    """An `EventSource` as one process sees it."""

    def __init__(self, log: Log, process: Process) -> None:
        self._log = log
        self._process = process
        self._world = process.world
        self._next: dict[int, int] = {}
        self._paused = False

    def partitions(self) -> Sequence[int]:
        self._wait()
        return self._log.partitions()

    def beginning(self) -> Mapping[int, int]:
        self._wait()
        return {partition: self._log.held[partition] for partition in self._log.partitions()}

    def end(self) -> Mapping[int, int]:
        self._wait()
        return {partition: self._log.ends(partition) for partition in self._log.partitions()}

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        self._next = dict(next_offsets)
        self._paused = False
        self._world.note(self._process, f"reads from {self._next}")

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        self._process.boundary()
        chunks = [] if self._paused or self._log.is_quiet() else list(self._read(max_events))
        self._world.sleep(0.002 if chunks else min(timeout_seconds, 1.0))
        return chunks

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        self._log.group |= next_offsets

    def lag(self) -> Mapping[int, int]:
        return {partition: self._log.ends(partition) - at for partition, at in self._next.items()}

    def silent_seconds(self) -> float:
        return 0.0

    def exhausted(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release."""

    def _wait(self) -> None:
        self._process.boundary()
        self._world.sleep(self._world.random.random() * 0.05)

    def _read(self, most: int) -> Iterator[RawChunk]:
        order = list(self._next)
        self._world.random.shuffle(order)
        for partition in order:
            at = self._next[partition]
            if at < (held := self._log.held[partition]):
                raise SourceRefused(f"offset {at} of partition {partition} is no longer held: the first one is {held}")
            if found := self._log.read(partition, at, most):
                self._next[partition] = found[-1].offset + 1
                yield _chunk(found, self._world.now)


def _chunk(messages: Sequence[Message], now: float) -> RawChunk:
    offsets = np.array([message.offset for message in messages], np.int64)
    times = np.array([1_600_000_000_000 + int(message.at * 1000) for message in messages], np.int64)
    return RawChunk(messages[0].partition, offsets, times, [message.value for message in messages], None, now)


class SimulatedLetters:
    """`DeadLetters` in a list that outlives the process."""

    def __init__(self, letters: list[Reject], process: Process, bucket: Bucket) -> None:
        self._letters, self._process, self._bucket = letters, process, bucket

    def send(self, rejects: Sequence[Reject]) -> None:
        world = self._process.world
        self._process.boundary()
        world.sleep(world.random.random() * 0.02)
        if world.random.random() < self._bucket.weather.lost_request:
            raise StoreUnavailable("no broker takes the dead letters")
        self._letters.extend(rejects)
        self._process.boundary()
        if world.random.random() < self._bucket.weather.lost_reply:
            raise StoreUnavailable("no broker said that it took the dead letters")

    def close(self) -> None:
        """Nothing to release."""


class Tally:
    """A `Meter` that counts."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def add(self, name: str, amount: float = 1.0, **_labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + amount

    def set(self, name: str, value: float, **_labels: str) -> None:
        self.counts[name] = value

    def observe(self, name: str, value: float, **_labels: str) -> None:
        """Nobody asks."""


class _Body:
    """The learner's process: a host, a thread that learns, a thread that uploads."""

    def __init__(self, config: HostConfig, bucket: Bucket, process: Process, seconds: float) -> None:
        self.process = process
        self.reports: deque[LearnReport | CheckpointRef | CheckpointFailed | Exception] = deque()
        self._world, self._seconds = process.world, seconds
        self._jobs: deque[Callable[[], None]] = deque()
        self._uploads: deque[Exception | None] = deque()
        self._work, self._frozen = Bell(self._world), Bell(self._world)
        self._bucket = bucket
        self._config = replace(config, store=SimulatedStore(bucket, process), fork=False)
        self.host: LearnerHost | None = None
        self._world.spawn(process, self._learn)
        self._world.spawn(process, self._upload)

    def do(self, job: Callable[[], None]) -> None:
        """Queue for the thread that learns."""
        self._jobs.append(job)
        self._work.ring()

    def apply(self, planned: PlannedBatch) -> None:
        """Score and learn; then say so."""
        self._world.sleep(self._world.random.random() * self._seconds)
        self.process.boundary()
        try:
            report = self.alive().apply(planned)
            if self._world.random.random() < self._bucket.weather.twice:
                self.alive().apply(planned)
        except Exception as error:  # noqa: BLE001 - as in Ray's actor: it is the answer
            self.reports.append(error)
            return
        self._world.note(self.process, f"learned plan {planned.plan.seq}")
        self.process.boundary()
        self.reports.append(report)

    def freeze(self) -> None:
        """Begin a checkpoint."""
        self.process.boundary()
        try:
            self.alive().begin_checkpoint()
        except Exception as error:  # noqa: BLE001 - the upload says it
            self._uploads.append(error)
        else:
            self._uploads.append(None)
        self._frozen.ring()

    def alive(self) -> LearnerHost:
        """The host."""
        if self.host is None:
            raise LearnerLost("the learner is not there yet")
        return self.host

    def _learn(self) -> None:
        self.host = LearnerHost(self._config)
        while True:
            if self._jobs:
                self._jobs.popleft()()
            else:
                self._work.wait()

    def _upload(self) -> None:
        while True:
            if not self._uploads:
                self._frozen.wait()
                continue
            failed = self._uploads.popleft()
            try:
                if failed is not None:
                    raise failed
                self.reports.append(self.alive().finish_checkpoint())
            except Exception as error:  # noqa: BLE001 - as in Ray's actor: it is the answer
                self.reports.append(CheckpointFailed(str(error)))


class SimulatedLearner:
    """A `LiveLearner` whose host runs in a process of its own, which may die, or be out of reach and go on for a while.

    `seconds`: how long learning a plan takes at most.
    """

    def __init__(self, config: HostConfig, bucket: Bucket, process: Process, seconds: float) -> None:
        self._config, self._bucket, self._process, self._seconds = config, bucket, process, seconds
        self._world = process.world
        self._body: _Body | None = None
        self._in_flight = 0
        self.born: Callable[[Process], None] = lambda _process: None
        """Told of each process that is begun."""
        self.poison: Callable[[PlannedBatch], bool] = lambda _planned: False

    def start(self) -> None:
        self.close()
        self._process.boundary()
        self._world.sleep(0.5 + self._world.random.random() * 3.0)
        child = Process(self._world, f"{self._process.name}.learner")
        self._process.children.append(child)
        self.born(child)
        self._body = _Body(self._config, self._bucket, child, self._seconds)
        self._world.sleep(0.01)

    def restore(self, manifest_key: str | None) -> Position:
        body = self._reached()
        answer: list[Position | Exception] = []

        def restore() -> None:
            try:
                answer.append(body.alive().restore(manifest_key))
            except Exception as error:  # noqa: BLE001 - as in Ray's actor: it is the answer
                answer.append(error)

        body.do(restore)
        while not answer:
            self._world.sleep(0.02)
            self._reached()
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    def submit(self, planned: PlannedBatch) -> None:
        body = self._reached()
        self._in_flight += 1
        body.do(lambda: body.apply(planned))

    def begin_checkpoint(self) -> None:
        body = self._reached()
        body.do(body.freeze)

    def in_flight(self) -> int:
        return self._in_flight

    def collect(self, timeout_seconds: float = 0.0) -> Sequence[LearnReport | CheckpointRef | CheckpointFailed]:
        body = self._reached()
        if not body.reports and timeout_seconds:
            self._world.sleep(timeout_seconds)
            body = self._reached()
        found: list[LearnReport | CheckpointRef | CheckpointFailed] = []
        while body.reports:
            report = body.reports.popleft()
            if isinstance(report, LearnerLost):
                raise report
            if isinstance(report, Exception):
                raise LearnerLost(f"learning a plan failed: {report}") from report
            self._in_flight -= isinstance(report, LearnReport)
            found.append(report)
        return found

    def status(self, *, digest: bool = False) -> Mapping[str, Any]:
        return self._reached().alive().status(digest=digest)

    def recommend(self, user_id: str, top_n: int) -> Sequence[Any]:
        return self._reached().alive().recommend(user_id, top_n)

    def close(self) -> None:
        """End it; one that is out of reach ends by itself, a little later."""
        self._in_flight = 0
        body, self._body = self._body, None
        if body is not None:
            self._world.kill(body.process)

    def lose(self) -> None:
        """Contact is lost: the process goes on for up to half a minute, and nobody hears it."""
        body, self._body = self._body, None
        self._in_flight = 0
        if body is not None:
            self._world.note(body.process, "is out of reach")
            self._world.at(self._world.now + self._world.random.random() * 30, lambda: self._world.kill(body.process))

    def _reached(self) -> _Body:
        if self._body is None or not self._body.process.alive:
            self._in_flight = 0
            raise LearnerLost("the learner's process is gone or out of reach")
        return self._body


@lru_cache(10_000)
def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
