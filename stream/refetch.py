"""A staged object that is gone or altered, made again from the source, as long as the source holds its messages.

The plan says which offsets were trained, and the SHA-256 of what they gave: what is made here is that object, byte for
byte, or nothing. It needs the source for itself, so it works while a lineage is being opened, and not later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from stream import staged
from stream.batching import Batcher, CutPolicy
from stream.decode import DecodeRules, decode_chunk
from stream.errors import NotFound, PreconditionFailed, SourceRefused, StoreRefused
from stream.events import PlannedRange, RawChunk, StagedObject
from stream.patience import Patience
from stream.ports import EventSource, Meter, ObjectStore

log = structlog.get_logger()
_EMPTY_POLLS_MAX = 30
"""So many polls of a second without a message: what is missing will not come."""
_EVERYTHING = CutPolicy(rows=2**62, bytes=2**62)


@dataclass(frozen=True, slots=True)
class Refetch:
    """What making an object again needs. `source`: ours alone; its assignment is lost."""

    source: EventSource
    rules: DecodeRules
    store: ObjectStore
    patience: Patience
    meter: Meter

    def mend(self, planned: PlannedRange, stored: StagedObject, wrong: str) -> bytes:
        """Put the object of a range back, and answer its bytes. `wrong`: what is the matter with it, for people.

        Raises StoreRefused when the source no longer holds the messages, or they give another object.
        """
        log.error("staged object lost, fetching its messages again from the source", key=stored.key, wrong=wrong)
        try:
            data = self._made_again(planned)
        except SourceRefused as error:
            raise _refused(planned, stored, wrong, f"its messages cannot be fetched again: {error}") from error
        if data is None:
            raise _refused(planned, stored, wrong, "the source no longer holds its messages")
        if staged.digest(data) != stored.sha256:
            raise _refused(
                planned,
                stored,
                wrong,
                "its messages, fetched again, give another object: another version or other settings of Headrace "
                "(HEADRACE_MODEL_DEFAULT_EVENT_TYPE, HEADRACE_STREAM_MESSAGE_BYTES_MAX) wrote it, or some were "
                "compacted away",
            )
        self.patience.call(f"put back {stored.key}", lambda: self._put_back(stored, data))
        self.meter.add("headrace_staged_refetched_total")
        log.error("staged object put back, made again from the source", key=stored.key, rows=stored.rows)
        return data

    def _made_again(self, planned: PlannedRange) -> bytes | None:
        first = self.source.beginning().get(planned.partition)
        if first is None or first > planned.start:
            return None
        self.source.assign({planned.partition: planned.start})
        batcher = Batcher(_EVERYTHING)
        for chunk in self._polled(planned):
            batcher.add(_without(chunk, planned))
        cut = batcher.cut("fence")
        if cut is None:
            return None
        return staged.encode(staged.to_table(decode_chunk(cut.chunks[0], self.rules)))

    def _polled(self, planned: PlannedRange) -> Iterator[RawChunk]:
        """The messages of the range, to its end, or to where no more come."""
        at, empty = planned.start, 0
        while at < planned.end and empty < _EMPTY_POLLS_MAX:
            chunks: Sequence[RawChunk] = self.source.poll(10_000, 1.0)
            empty = 0 if chunks else empty + 1
            for chunk in chunks:
                yield chunk.slice(0, int(np.searchsorted(chunk.offsets, planned.end)))
                at = chunk.end

    def _put_back(self, stored: StagedObject, data: bytes) -> None:
        """Over the altered object, or where there is none; one that became right meanwhile is left."""
        try:
            etag = self.store.head(stored.key).etag
            there = staged.read(self.store, stored)
        except NotFound:
            self._put(stored, data, None)
            return
        if staged.digest(there) != stored.sha256:
            self._put(stored, data, etag)

    def _put(self, stored: StagedObject, data: bytes, over: str | None) -> None:
        try:
            self.store.put(stored.key, data, if_absent=over is None, if_match=over)
        except PreconditionFailed:  # somebody else put it back, or one's own reply was lost
            if staged.digest(staged.read(self.store, stored)) != stored.sha256:
                raise StoreRefused(
                    f"{stored.key} is being altered by somebody while it is put back: find out by whom, and start again"
                ) from None


def _without(chunk: RawChunk, planned: PlannedRange) -> RawChunk:
    """The messages that were trained: neither rejected nor duplicates."""
    spans = [*(span for runs in planned.rejected.values() for span in runs), *planned.duplicates]
    keep = np.ones(len(chunk), bool)
    for start, end in spans:
        keep &= (chunk.offsets < start) | (chunk.offsets >= end)
    places = np.flatnonzero(keep).tolist()
    values = [chunk.values[place] for place in places]
    headers = [chunk.headers[place] for place in places] if chunk.headers is not None else None
    return RawChunk(chunk.partition, chunk.offsets[keep], chunk.timestamps[keep], values, headers, chunk.arrived)


def _refused(planned: PlannedRange, stored: StagedObject, wrong: str, why: str) -> StoreRefused:
    return StoreRefused(
        f"{stored.key} (partition {planned.partition}, offsets {planned.start} to {planned.end}) {wrong}, though a "
        f"plan commits to it, and {why}. Restore the object from a backup, or begin a new lineage (--lineage)."
    )
