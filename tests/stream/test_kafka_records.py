"""Reading records by whole batches: the same rows, errors and positions as kafka-python's own reading, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from stream.kafka.records import _PartitionRows

PLACE = TopicPartition("clicks", 0)
FIELDS = st.tuples(
    st.integers(0, 2**40),
    st.none() | st.binary(max_size=9),
    st.none() | st.binary(max_size=300),
    st.just([]) | st.just([]) | st.just([("trace", b"1"), ("none", None)]),
)
BATCHES = st.lists(st.lists(FIELDS, min_size=1, max_size=12), min_size=1, max_size=4)


def encoded(batches: list[list[Any]], codec: int = 0, step: int = 1) -> bytes:
    """Record batches one after the other, offsets from 0 on, every `step`-th."""
    data, offset = b"", 0
    for rows in batches:
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=codec,
            is_transactional=False,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=10**9,
        )
        for place, (time, key, value, headers) in enumerate(rows):
            assert builder.append(place * step, time, key, value, headers)
        built = bytearray(builder.build())
        built[:8] = offset.to_bytes(8, "big")  # the broker's part; the checksum leaves it out
        data += bytes(built)
        offset += len(rows) * step
    return data


def read(kind: Any, data: bytes, start: int, sizes: list[int]) -> list[Any]:
    """What takes of the given sizes bring, with the position after each; an error stands for itself."""
    part = kind(start, PLACE, MemoryRecords(data))
    seen: list[Any] = []
    for size in sizes:
        if not part:
            break
        try:
            rows = part.take(size)
        except CorruptRecordError as error:
            seen.append(str(error))
            continue
        seen.append([(row.offset, row.timestamp, row.value, list(row.headers)) for row in map(named, rows)])
        seen.append((part.next_fetch_offset, bool(part)))
    return seen


class named:  # noqa: N801  reads as a verb where it is used
    """A row of either kind by names."""

    def __init__(self, row: Any) -> None:
        plain = (row.offset, row.timestamp, row.value, row.headers) if hasattr(row, "offset") else row
        self.offset, self.timestamp, self.value, self.headers = plain


@given(BATCHES, st.integers(0, 50), st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 3))
def test_same_rows_and_positions(batches: list[list[Any]], start: int, sizes: list[int], step: int) -> None:
    """Whatever the records, the first offset and the sizes of the takes: kafka-python's rows, and its positions."""
    data = encoded(batches, step=step)

    assert read(_PartitionRows, data, start, sizes) == read(Fetcher.PartitionRecords, data, start, sizes)


@given(st.lists(FIELDS, min_size=1, max_size=12), st.data())
def test_damage_is_found_as_before(rows: list[Any], draw: st.DataObject) -> None:
    """Records with a changed byte, where no checksum tells, give what kafka-python gives: rows or its error."""
    data = bytearray(encoded([rows]))
    place = draw.draw(st.integers(61, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    made = bytes(data)
    unchecked = {"check_crcs": False}

    ours = read(lambda *args: _PartitionRows(*args, **unchecked), made, 0, [100, 100, 100])
    theirs = read(lambda *args: Fetcher.PartitionRecords(*args, **unchecked), made, 0, [100, 100, 100])

    assert ours == theirs


def test_a_record_that_does_not_fill_its_length_is_corrupt() -> None:
    """A value shorter than its record has room for is not passed over in silence."""
    data = bytearray(encoded([[(1, None, bytes(3), [])]]))
    assert data[-5] == 6  # the value's length, three, as a zigzag number
    data[-5] = 4

    part = _PartitionRows(0, PLACE, MemoryRecords(bytes(data)), check_crcs=False)

    with pytest.raises(CorruptRecordError, match="Invalid record size"):
        part.take(5)


@pytest.mark.parametrize("codec", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
def test_compressed(codec: int) -> None:
    """Compressed batches, where the codec is installed."""
    batches: list[list[Any]] = [[(7, None, b"x" * size, [])] * 5 for size in (10, 200)]
    try:
        data = encoded(batches, codec)
    except Exception as error:  # noqa: BLE001 - kafka-python raises one of several for a codec that it lacks
        pytest.skip(f"no codec: {error}")

    assert read(_PartitionRows, data, 3, [4, 9, 9]) == read(Fetcher.PartitionRecords, data, 3, [4, 9, 9])


def test_checksums_are_checked() -> None:
    """A damaged batch is refused; the whole ones before it are given first."""
    data = bytearray(encoded([[(1, None, b"one", [])], [(2, None, b"two", [])]]))
    data[-3] ^= 1

    seen = read(_PartitionRows, bytes(data), 0, [5, 5])

    assert seen[0] == [(0, 1, b"one", [])]
    assert "crc" in seen[-1]


def test_plain_batches_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way is the one that plain batches take: kafka-python's own reader is never asked."""
    data = encoded([[(1, b"k", b"one", []), (2, None, None, [])]])
    monkeypatch.setattr("kafka.record.default_records.DefaultRecordBatch._read_msg", None)

    assert read(_PartitionRows, data, 0, [5])[0] == [(0, 1, b"one", []), (1, 2, None, [])]
