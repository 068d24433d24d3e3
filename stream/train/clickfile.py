"""An object of clicks, one JSON object per line, as columns: read by ranges, decoded by chunks, never held whole.

What was read is known byte by byte (`Read.sha256`), so that a later run can tell what was trained already.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from model.batch import Int64
from stream.decode import DecodeRules, decode_chunk
from stream.dedupe import Window
from stream.errors import ConfigError, NotFound, StoreUnavailable
from stream.events import RawChunk
from stream.ports import ObjectInfo, ObjectStore
from stream.train.clicks import Clicks
from stream.train.rejects import Rejects

BLOCK_BYTES = 4 << 20
CHUNK_LINES = 4096
ATTEMPTS = 3
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"\x1f\x8b": "it is compressed with gzip; run gunzip on it first",
    b"PAR1": "it is Parquet; write it as JSON lines first",
    b"[": "it is one JSON array; jq -c '.[]' makes JSON lines of it",
}


@dataclass(slots=True)
class Head:
    """The first `end` bytes of an object, hashed so far, with `lines` line feeds in them."""

    hashed: Any
    end: int = 0
    lines: int = 0

    def take(self, block: bytes) -> None:
        self.hashed.update(block)
        self.end += len(block)
        self.lines += block.count(b"\n")


@dataclass(frozen=True, slots=True)
class Consumed:
    """Which bytes of which object were taken in: [start, end), read under `etag`. `sha256`: hex, over [0, end).

    `modified`: of the object by the store's clock, seconds since the epoch.
    """

    key: str
    etag: str
    start: int
    end: int
    sha256: str
    modified: float


@dataclass(slots=True)
class Reading:
    """One object as it was read. `lines`: those that are not blank; `event_ids`: the newest, to enter the window."""

    consumed: Consumed
    clicks: Clicks
    rejects: Rejects
    event_ids: deque[str]
    lines: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class Reader:
    """How to read. `window_ids`: event ids seen before, oldest first; the last `window` of all are remembered.
    `files`: closes temporary files. `keeps_ids`: see `Clicks`. `report(key, bytes, of)` is told how far it is.
    """

    store: ObjectStore
    rules: DecodeRules
    files: ExitStack
    window: int
    window_ids: list[str] = field(default_factory=list)
    keeps_ids: bool = False
    report: Callable[[str, int, int], None] = lambda *_: None

    def read(self, key: str, trained: Consumed | None = None, copy: IO[bytes] | None = None) -> Reading | None:
        """All of an object but what begins it and was `trained` already; None when it is missing or nothing is new.

        The bytes that are new go to `copy` as well. Raises `ConfigError` when it is no JSON lines, `StoreUnavailable`
        when it keeps changing while it is read.
        """
        for _ in range(ATTEMPTS):
            info = find(self.store, key)
            if info is None or not info.size:
                return None
            head = self._skip(info, trained)
            if head.end == info.size:
                return None
            if copy is not None:
                copy.truncate(0)
                copy.seek(0)
            reading = self._read(info, head, copy)
            now = find(self.store, key)
            if now is not None and now.etag == info.etag:
                return reading
        raise StoreUnavailable(f"{key} changed {ATTEMPTS} times while it was read: run again when its writer is done")

    def _skip(self, info: ObjectInfo, trained: Consumed | None) -> Head:
        """What precedes the new lines: `trained`, when the object begins with those very bytes, else nothing."""
        if trained is not None and trained.key == info.key and info.size >= trained.end:
            head = hash_head(self.store, info.key, trained.end)
            if head.hashed.hexdigest() == trained.sha256:
                return head
        return Head(hashlib.sha256())

    def _read(self, info: ObjectInfo, head: Head, copy: IO[bytes] | None) -> Reading:
        record_ms = round(info.modified * 1000)
        reading = Reading(
            _consumed(info, head), Clicks(record_ms, self.keeps_ids), Rejects(self._file()), deque(maxlen=self.window)
        )
        seen = Window(self.window, self.window_ids)
        begin = head.end
        blocks = self._blocks(info, head, copy)
        for numbers, values in _numbered(_lines(blocks, self.rules.message_bytes_max), head.lines):
            decoded = decode_chunk(RawChunk(0, numbers, np.full(len(values), record_ms), values), self.rules)
            deduped = seen.split([decoded])
            seen.advance(deduped.event_ids)
            reading.clicks.extend(deduped.ranges[0])
            reading.rejects.extend(decoded.rejects)
            reading.event_ids.extend(deduped.event_ids)
            reading.lines += len(values)
            reading.duplicates += len(deduped.duplicates[0])
        reading.consumed = replace(_consumed(info, head), start=begin)
        return reading

    def _file(self) -> IO[bytes]:
        return self.files.enter_context(tempfile.TemporaryFile(prefix="headrace-rejects-"))

    def _blocks(self, info: ObjectInfo, head: Head, copy: IO[bytes] | None) -> Iterator[bytes]:
        """The object from `head` to its end; moves `head` along."""
        while head.end < info.size:
            block = self.store.get_range(info.key, head.end, min(BLOCK_BYTES, info.size - head.end))
            if not block:
                return  # it has shrunk: the ETag will tell
            whole = head.end > 0
            head.take(block)
            if copy is not None:
                copy.write(block)
            yield block if whole else _checked(info.key, block)
            self.report(info.key, head.end, info.size)


def find(store: ObjectStore, key: str) -> ObjectInfo | None:
    """The object's row; None when there is none."""
    try:
        return store.head(key)
    except NotFound:
        return None


def hash_head(store: ObjectStore, key: str, end: int, copy: IO[bytes] | None = None, copy_from: int = 0) -> Head:
    """The first `end` bytes of an object, hashed; those from `copy_from` on are written to `copy`."""
    head = Head(hashlib.sha256())
    while head.end < end:
        block = store.get_range(key, head.end, min(BLOCK_BYTES, end - head.end))
        if not block:
            break
        if copy is not None:
            copy.write(block[max(0, copy_from - head.end) :])
        head.take(block)
    return head


def _consumed(info: ObjectInfo, head: Head) -> Consumed:
    return Consumed(info.key, info.etag, head.end, head.end, head.hashed.hexdigest(), info.modified)


def _checked(key: str, block: bytes) -> bytes:
    """The object's first bytes without a byte order mark. Raises `ConfigError` for what can be no JSON lines."""
    for magic, remedy in _FOREIGN.items():
        if block.lstrip().startswith(magic):
            raise ConfigError(f"{key} is not JSON lines: {remedy}")
    return block.removeprefix(_BOM)


def _lines(blocks: Iterable[bytes], limit: int) -> Iterator[list[bytes]]:
    """Lines without their line feeds, a list per block. One longer than `limit` comes out cut, but still too long."""
    rest = b""
    for block in blocks:
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > limit:
            rest = rest[: limit + 1]
        yield lines
    yield [rest]


def _numbered(blocks: Iterable[list[bytes]], before: int) -> Iterator[tuple[Int64, list[bytes]]]:
    """Lines that are not blank with their numbers, counted from `before` + 1, in chunks."""
    for lines in blocks:
        full = [place for place, line in enumerate(lines) if line and not line.isspace()]
        for start in range(0, len(full), CHUNK_LINES):
            places = full[start : start + CHUNK_LINES]
            yield np.array(places, np.int64) + before + 1, [lines[place] for place in places]
        before += len(lines)
