"""Plans as bytes: canonical JSON, so that a plan's SHA-256 stands for its content and chains it to the one before."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.errors import StoreRefused
from stream.events import Plan, PlannedRange
from stream.staged import digest

FORMAT = 1


class _Document(msgspec.Struct):
    format: int
    plan: Plan


_decoder = msgspec.json.Decoder(_Document)


def encode(plan: Plan) -> bytes:
    """The bytes that are stored."""
    document: dict[str, Any] = {"format": FORMAT, "plan": plan}
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes, name: str) -> Plan:
    """The plan in `data`. Raises StoreRefused naming `name` when it is not one, or is of a format not known here."""
    try:
        document = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StoreRefused(f"{name} is not a plan: {error}") from error
    if document.format != FORMAT:
        raise StoreRefused(f"{name} has plan format {document.format}, this version of Headrace reads {FORMAT}")
    return document.plan


def sha256(data: bytes) -> str:
    """Hex SHA-256 of a plan's bytes."""
    return digest(data)


def count(planned: PlannedRange) -> tuple[int, int, int]:
    """(trained, rejected, duplicates) of one range."""
    rejected = sum(end - start for runs in planned.rejected.values() for start, end in runs)
    duplicates = sum(end - start for start, end in planned.duplicates)
    return planned.staged.rows if planned.staged is not None else 0, rejected, duplicates


def check_ranges(plan: Plan, next_offsets: dict[int, int], name: str) -> None:
    """Each range begins where the one before of its partition ended, and accounts for all of its offsets.

    Raises StoreRefused naming `name`, partition and offsets.
    """
    for planned in plan.ranges:
        expected = next_offsets.get(planned.partition, planned.start)
        if planned.start != expected:
            raise StoreRefused(
                f"{name}: partition {planned.partition} begins at offset {planned.start}, the plan before ended at {expected}"
            )
        if sum(count(planned)) + planned.absent != planned.end - planned.start:
            raise StoreRefused(
                f"{name}: partition {planned.partition}, offsets {planned.start} to {planned.end}, are not all accounted for"
            )
