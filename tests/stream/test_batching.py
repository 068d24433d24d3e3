"""Batching: every message leaves exactly once, in order, within the caps, whatever arrives however."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.batching import Batcher, Cut, CutPolicy, payload_bytes
from stream.events import RawChunk


def chunk_of(partition: int, start: int, sizes: list[int | None], arrived: float = 0.0) -> RawChunk:
    """A chunk with payloads of these sizes; each message's time and header name its offset."""
    offsets = np.arange(start, start + 3 * len(sizes), 3, dtype=np.int64)
    values = [None if size is None else b"x" * size for size in sizes]
    headers = [[("at", str(offset).encode())] for offset in offsets] if start % 2 else None
    return RawChunk(partition, offsets, offsets + 1000, values, headers, arrived)


def bytes_of(cut: Cut) -> int:
    return sum(map(payload_bytes, cut.chunks))


policies = st.builds(CutPolicy, rows=st.integers(1, 20), bytes=st.integers(1, 500), age_seconds=st.just(1.0))
sizes = st.lists(st.one_of(st.none(), st.integers(0, 200)), max_size=12)
# A poll of one partition, or None: cut once now.
polls = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 2), sizes)), max_size=25)


@settings(max_examples=300)
@given(policies, polls)
def test_every_message_leaves_once_in_order(
    policy: CutPolicy, drawn: list[tuple[int, list[int | None]] | None]
) -> None:
    """Whatever the policy, the sizes and the order of polls and cuts; with its own value, time and headers."""
    batcher, cuts, polled = Batcher(policy), [], {0: [], 1: [], 2: []}  # type: ignore[var-annotated]
    next_offsets = {0: 0, 1: 1, 2: 50}
    for poll in drawn:
        if poll is None:
            cuts.append(batcher.cut("age"))
            continue
        chunk = chunk_of(poll[0], next_offsets[poll[0]], poll[1])
        next_offsets[chunk.partition] += 3 * len(chunk) + 1
        polled[chunk.partition] += messages(chunk)
        batcher.add(chunk)
    while cut := batcher.cut("drain"):
        cuts.append(cut)

    left: dict[int, list[object]] = {0: [], 1: [], 2: []}
    for chunk in [chunk for cut in cuts if cut for chunk in cut.chunks]:
        left[chunk.partition] += messages(chunk)
    assert polled == left
    assert (batcher.rows, batcher.bytes) == (0, 0)
    assert all(within(policy, cut) for cut in cuts if cut)


def messages(chunk: RawChunk) -> list[object]:
    """Each message with all that belongs to it; no headers and empty headers are the same."""
    headers = chunk.headers if chunk.headers is not None else [()] * len(chunk)
    return [
        (offset, stamp, value, list(header))
        for offset, stamp, value, header in zip(
            chunk.offsets.tolist(), chunk.timestamps.tolist(), chunk.values, headers, strict=True
        )
    ]


def within(policy: CutPolicy, cut: Cut) -> bool:
    rows = sum(map(len, cut.chunks))
    partitions = [chunk.partition for chunk in cut.chunks]
    capped = 1 <= rows <= policy.rows and (bytes_of(cut) <= policy.bytes or rows == 1)
    return capped and partitions == sorted(set(partitions))


@given(policies, st.lists(sizes, max_size=8))
def test_counts_follow_what_is_held(policy: CutPolicy, drawn: list[list[int | None]]) -> None:
    """Rows and bytes, on which back-pressure and cuts rest, are those of the messages not yet cut."""
    batcher, start = Batcher(policy), 0
    held_rows = held_bytes = 0
    for found in drawn:
        chunk = chunk_of(0, start, found)
        start += 3 * len(chunk)
        batcher.add(chunk)
        cut = batcher.cut("rows") if len(chunk) % 2 else None
        held_rows += len(chunk) - (sum(map(len, cut.chunks)) if cut else 0)
        held_bytes += payload_bytes(chunk) - (bytes_of(cut) if cut else 0)

        assert (held_rows, held_bytes) == (batcher.rows, batcher.bytes)


@given(policies, st.lists(sizes.filter(len), min_size=1, max_size=6), st.integers(1, 12))
def test_cuts_ignore_how_messages_were_polled(policy: CutPolicy, drawn: list[list[int | None]], piece: int) -> None:
    """The same messages in larger or smaller chunks are cut into the same batches."""
    whole = chunk_of(0, 0, [size for found in drawn for size in found])
    pieces = [whole.slice(start, start + piece) for start in range(0, len(whole), piece)]

    assert lengths_of(policy, [whole]) == lengths_of(policy, pieces)


def lengths_of(policy: CutPolicy, chunks: list[RawChunk]) -> list[int]:
    batcher, lengths = Batcher(policy), []
    for chunk in chunks:
        batcher.add(chunk)
    while cut := batcher.cut("drain"):
        lengths.append(sum(map(len, cut.chunks)))
    return lengths


def test_each_limit_makes_a_batch_due() -> None:
    """Rows, bytes or the age of the oldest message; nothing is due while nothing is held."""
    batcher = Batcher(CutPolicy(rows=3, bytes=1000, age_seconds=2.0))

    assert batcher.due(now=99.0) is None
    batcher.add(chunk_of(0, 0, [1], arrived=10.0))
    batcher.add(chunk_of(0, 3, [1], arrived=11.5))
    assert batcher.due(now=11.9) is None
    assert batcher.due(now=12.0) == "age"
    batcher.add(chunk_of(1, 0, [1], arrived=11.9))
    assert batcher.due(now=11.9) == "rows"
    batcher.cut("rows")
    batcher.add(chunk_of(1, 3, [1000], arrived=12.0))
    assert batcher.due(now=12.0) == "bytes"


def test_what_is_left_keeps_its_age() -> None:
    """After a cut the oldest message left decides, and a cut says when its own oldest arrived."""
    batcher = Batcher(CutPolicy(rows=2, bytes=10_000, age_seconds=1.0))
    batcher.add(chunk_of(0, 0, [1, 1, 1], arrived=5.0))
    batcher.add(chunk_of(1, 0, [1], arrived=7.0))

    first, second = batcher.cut("rows"), batcher.cut("age")

    assert first is not None
    assert second is not None
    assert (first.arrived, second.arrived) == (5.0, 5.0)
    assert [chunk.partition for chunk in second.chunks] == [0, 1]
    assert batcher.cut("age") is None


def test_a_null_value_counts_for_its_overhead() -> None:
    """Tombstones are messages too: a flood of them is cut and pauses the source like any other."""
    batcher = Batcher(CutPolicy(rows=10**9, bytes=6400, age_seconds=1e9))

    batcher.add(chunk_of(0, 0, [None] * 100))

    assert batcher.due(now=0.0) == "bytes"


def test_one_oversized_message_leaves_alone() -> None:
    """A message above the byte cap is a batch of its own, and blocks nothing."""
    assert lengths_of(CutPolicy(rows=10, bytes=500), [chunk_of(0, 0, [10, 10, 10_000, 10])]) == [2, 1, 1]


def test_a_batch_is_filled_to_the_byte() -> None:
    """Two messages that fit exactly leave together, in one chunk or in two."""
    policy, exact = CutPolicy(rows=10, bytes=payload_bytes(chunk_of(0, 0, [10, 10]))), chunk_of(0, 0, [10, 10, 10])

    assert lengths_of(policy, [exact]) == lengths_of(policy, [exact.slice(0, 2), exact.slice(2, 3)]) == [2, 1]


def test_cleared_messages_can_come_again() -> None:
    """After `clear` nothing is held, and the same offsets are taken anew."""
    batcher, chunk = Batcher(CutPolicy()), chunk_of(0, 0, [1, 2, None])
    batcher.add(chunk)

    batcher.clear()

    assert (batcher.rows, batcher.bytes, batcher.cut("drain")) == (0, 0, None)
    batcher.add(dataclasses.replace(chunk))
    assert batcher.rows == 3
