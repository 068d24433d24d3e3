"""Are the offsets that come next still held? If not, nothing is skipped on the quiet: say which, and the ways out."""

from __future__ import annotations

from collections.abc import Mapping

from stream.errors import SourceRefused
from stream.events import PlannedRange


def passed(wanted: Mapping[int, int], first: Mapping[int, int]) -> dict[int, int]:
    """The partitions whose retention has passed the offset wanted, and the first offset that they still hold."""
    return {p: first[p] for p, offset in sorted(wanted.items()) if offset < first.get(p, offset)}


def beyond(wanted: Mapping[int, int], end: Mapping[int, int]) -> list[int]:
    """The partitions that end before the offset wanted, or are not there at all: not the topic that was read."""
    return [p for p, offset in sorted(wanted.items()) if offset > end.get(p, -1)]


def gap(wanted: Mapping[int, int], first: Mapping[int, int]) -> tuple[PlannedRange, ...]:
    """The lost offsets as ranges of a plan: all absent."""
    lost = passed(wanted, first)
    return tuple(PlannedRange(p, wanted[p], held, absent=held - wanted[p]) for p, held in lost.items())


def refusal(topic: str, wanted: Mapping[int, int], first: Mapping[int, int], end: Mapping[int, int]) -> SourceRefused:
    """What is wanted and what is held, by partition, and what can be done."""
    lost, strange = passed(wanted, first), beyond(wanted, end)
    said = "; ".join(
        f"partition {p}: offset {wanted[p]} is wanted, {_held(first.get(p), end.get(p))}"
        for p in sorted({*lost, *strange})
    )
    if strange:
        return SourceRefused(
            f"topic {topic!r} does not hold what was read of it before: {said}. It was deleted and created anew, or "
            "has lost its newest messages; nothing is read, for these offsets would mean other messages. Begin another "
            "lineage on it (--lineage, HEADRACE_STORE_LINEAGE), or restore the topic"
        )
    return SourceRefused(
        f"Kafka no longer has what comes next in topic {topic!r}: {said}. Two ways out: go on without the offsets in "
        "between, recorded in a plan as a gap (--resume-from earliest, HEADRACE_STREAM_RESUME_FROM), or restore the "
        "topic or a state whose offsets are still held. Then raise the topic's retention.ms above the longest outage "
        "to be survived"
    )


def _held(first: int | None, end: int | None) -> str:
    return "and there is no such partition" if end is None else f"{first} to {end} are held"
