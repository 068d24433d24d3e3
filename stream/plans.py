"""Plans as bytes: canonical JSON, so that a plan's SHA-256 stands for its content and chains it to the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stream import bounded
from stream.errors import StoreRefused
from stream.events import Plan, PlannedRange
from stream.naming import Layout
from stream.ports import ObjectStore
from stream.staged import digest

FORMAT = 1
OFFSET_MAX = 2**63 - 1
PARTITION_MAX = 2**31 - 1


class _Header(msgspec.Struct):
    format: int


class _Document(_Header):
    plan: Plan


_header = msgspec.json.Decoder(_Header)
_decoder = msgspec.json.Decoder(_Document)


def encode(plan: Plan) -> bytes:
    """The bytes that are stored."""
    document: dict[str, Any] = {"format": FORMAT, "plan": plan}
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes, name: str) -> Plan:
    """The plan in `data`. Raises StoreRefused naming `name` when it is not one, or is of a format not known here."""
    try:
        found = _header.decode(data).format  # first: another format's fields may be other ones
        if found != FORMAT:
            raise StoreRefused(f"{name} has plan format {found}, this version of Headrace reads {FORMAT}")
        return _decoder.decode(data).plan
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreRefused(f"{name} is not a plan: {error}. Restore it from a backup.") from error


def read(store: ObjectStore, key: str) -> bytes:
    """A plan's bytes. Raises NotFound, and StoreRefused when there are more than a plan can have."""
    return bounded.read(store, key, bounded.PLAN_BYTES_MAX)


def sha256(data: bytes) -> str:
    """Hex SHA-256 of a plan's bytes."""
    return digest(data)


def count(planned: PlannedRange) -> tuple[int, int, int]:
    """(trained, rejected, duplicates) of one range."""
    rejected = sum(end - start for runs in planned.rejected.values() for start, end in runs)
    duplicates = sum(end - start for start, end in planned.duplicates)
    return planned.staged.rows if planned.staged is not None else 0, rejected, duplicates


def check_ranges(plan: Plan, next_offsets: Mapping[int, int], name: str) -> None:
    """Each range begins where the one before of its partition ended, and accounts for each of its offsets once.

    Raises StoreRefused naming `name`, partition and offsets.
    """
    ends = dict(next_offsets)
    for planned in plan.ranges:
        where = f"{name}: partition {planned.partition}"
        if not (0 <= planned.partition <= PARTITION_MAX and 0 <= planned.start <= planned.end <= OFFSET_MAX):
            raise StoreRefused(f"{where}, offsets {planned.start} to {planned.end}, cannot be one of Kafka's")
        expected = ends.get(planned.partition, planned.start)
        if planned.start != expected:
            raise StoreRefused(f"{where} begins at offset {planned.start}, the range before it ended at {expected}")
        if sum(count(planned)) + planned.absent != planned.end - planned.start:
            raise StoreRefused(f"{where}, offsets {planned.start} to {planned.end}, are not all accounted for")
        if not _apart(planned):
            raise StoreRefused(f"{where}, offsets {planned.start} to {planned.end}, has some in two places or outside")
        ends[planned.partition] = planned.end


def check_place(plan: Plan, layout: Layout, key: str) -> None:
    """The plan is the one that belongs at `key`, and names only staged objects of its own lineage.

    Raises StoreRefused naming what it is not: what it names may be about to be deleted.
    """
    if plan.lineage != layout.lineage or layout.plan(plan.seq) != key:
        raise StoreRefused(
            f"{key} says that it is plan {plan.seq} of lineage {plan.lineage}: it is not where it belongs"
        )
    for planned in plan.ranges:
        if planned.staged is not None and not planned.staged.key.startswith(layout.staged):
            raise StoreRefused(f"{key} names {planned.staged.key}, which lies outside of its lineage: refused")


def _apart(planned: PlannedRange) -> bool:
    """Whether all spans lie inside the range and no two of them share an offset."""
    spans = sorted([*(span for runs in planned.rejected.values() for span in runs), *planned.duplicates])
    at = planned.start
    for start, end in spans:
        if not at <= start < end:
            return False
        at = end
    return at <= planned.end and planned.absent >= 0
