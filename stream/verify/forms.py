"""What lies in a lineage, read by `headrace verify` with code of its own: plans, manifests, CURRENT, and breaches.

Nothing here is shared with the code that writes these objects, so that an error in it cannot hide itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = 1
RULES: Final = {
    "current": "a service that goes by CURRENT would begin anew instead of going on where the stream stood",
    "plan_missing": "recovery stops at this hole unless a checkpoint after it verifies, and what it trained is unknown",
    "plan_stray": "recovery refuses to replay while an object that is no plan lies among the plans",
    "plan_form": "recovery stops here: the offsets of this batch are not accounted for",
    "plan_place": "it was copied from elsewhere or edited: recovery stops here",
    "chain": "a plan was edited, replaced or lost after it was committed: what was trained is not what is stored",
    "epoch": "a writer that had been replaced went on writing: two of them may have trained the same clicks",
    "gap": "these offsets are in no plan: their clicks were lost",
    "gap_plan": "offsets that retention took are recorded together with others, so it is not known which were lost",
    "overlap": "these offsets are in two plans: their clicks were trained twice",
    "span": "a rejected or duplicate offset is claimed that is not this range's",
    "twice": "an offset is in more than one of trained, rejected and duplicate",
    "count": "offsets of the range are in none of trained, rejected, duplicate and absent, or in too many",
    "foreign_key": "objects of another place would be trained or restored",
    "staged_missing": "the clicks of a committed batch are gone: it cannot be replayed",
    "staged_altered": "the clicks of a committed batch are not those that were trained: a replay gives another model",
    "staged_form": "the clicks of a committed batch cannot be read: it cannot be replayed",
    "staged_rows": "the plan trained another number of clicks than are stored",
    "staged_offsets": "clicks are stored that are not this range's, or in another order than they were published",
    "event_id_twice": "one click was trained twice though its event_id was still in the dedupe window",
    "manifest_form": "this checkpoint cannot be restored",
    "manifest_place": "this checkpoint was copied from elsewhere or edited: it is not the state that its place says",
    "part_missing": "this checkpoint cannot be restored",
    "part_altered": "this checkpoint cannot be restored: its bytes are not those that were written",
    "manifest_plan": "this checkpoint is of a history that is not the one stored: its state is not what the plans give",
    "manifest_offsets": "a restart from this checkpoint would skip clicks or train them twice",
    "manifest_totals": "the state holds another number of clicks than the plans gave it",
    "manifest_epoch": "a restart from this checkpoint would take a wrong turn in telling writers apart",
    "manifest_ahead": "this checkpoint stands on plans that are lost: what it trained cannot be proven",
    "beginning": "plans are gone that no checkpoint stands for: the state cannot be rebuilt",
    "serving": "a service would not know which version of the model to start with, or cannot start with it",
    "archive_plans": "collected plans are not those that were written: a rollback to before, or a retrain, goes astray",
    "archive_form": "clicks of collected plans cannot be read: a full retrain would lack them",
    "archive_hole": "clicks of collected plans are in no archive: a full retrain would lack them, if archiving was on",
    "archive_rows": "the archive does not hold what its plans staged: a full retrain would learn something else",
}
"""Every rule that can be broken, with what a breach of it means."""
EXACT_MAX: Final = 2**63 - 1
_SAFE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


class Malformed(Exception):
    """An object is not what its key says; the message says how."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that is wrong: which of `RULES`, in which object, and how. Offsets [start, end) where known."""

    rule: str
    key: str
    what: str
    partition: int | None = None
    start: int | None = None
    end: int | None = None

    @property
    def meaning(self) -> str:
        """What follows from it, for an operator."""
        return RULES[self.rule]

    def __str__(self) -> str:
        place = f", partition {self.partition}" if self.partition is not None else ""
        offsets = f", offsets {self.start} to {self.end}" if self.start is not None else ""
        return f"{self.key}{place}{offsets}: {self.what}. It means: {self.meaning}"


@dataclass(frozen=True, slots=True)
class StagedDoc:
    key: str
    sha256: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class RangeDoc:
    """The account of offsets [start, end) of a partition. `rejected`, `duplicates`: half-open spans."""

    partition: int
    start: int
    end: int
    staged: StagedDoc | None
    rejected: list[tuple[int, int]]
    duplicates: list[tuple[int, int]]
    absent: int


@dataclass(frozen=True, slots=True)
class PlanDoc:
    lineage: str
    seq: int
    epoch: int
    previous_sha256: str
    cut: str
    topic: str
    ranges: list[RangeDoc]


@dataclass(frozen=True, slots=True)
class PartDoc:
    name: str
    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ManifestDoc:
    """`totals`: events by outcome (`trained`, `rejected`, `duplicates`, `aside`)."""

    lineage: str
    seq: int
    epoch: int
    plan_sha256: str
    next_offsets: dict[int, int]
    totals: dict[str, int]
    parts: list[PartDoc]
    version: int = 1


def parse_plan(data: bytes) -> PlanDoc:
    """Raises Malformed."""
    document = _loads(data)
    _check_format(document)
    plan = _of(dict, document, "plan")
    if not _text(plan, "nonce"):
        raise Malformed("its nonce is empty")
    if not _SAFE.fullmatch(topic := _text(plan, "topic")):
        raise Malformed(f"the topic {topic!r:.80} cannot be one")
    ranges = [_range(entry) for entry in _of(list, plan, "ranges")]
    if len({planned.partition for planned in ranges}) != len(ranges):
        raise Malformed("it names a partition twice")
    return PlanDoc(
        _text(plan, "lineage"),
        _count(plan, "seq"),
        _count(plan, "epoch"),
        _text(plan, "previous_sha256"),
        _text(plan, "cut"),
        topic,
        ranges,
    )


def parse_manifest(data: bytes) -> ManifestDoc:
    """Raises Malformed."""
    document = _loads(data)
    _check_format(document)
    totals, offsets = _of(dict, document, "totals"), _of(dict, document, "next_offsets")
    return ManifestDoc(
        _text(document, "lineage"),
        _count(document, "seq"),
        _count(document, "epoch"),
        _text(document, "plan_sha256"),
        {_partition(name): _count(offsets, name) for name in offsets},
        {name: _count(totals, name) for name in ("trained", "rejected", "duplicates")}
        | {"aside": _count(totals, "aside") if "aside" in totals else 0},
        [_part(entry) for entry in _of(list, document, "parts")],
        _count(document, "version") if "version" in document else 1,
    )


def parse_current(data: bytes) -> str:
    """The lineage that CURRENT names. Raises Malformed."""
    return _text(_loads(data), "lineage")


def parse_serving(data: bytes) -> int:
    """The version that SERVING.json names. Raises Malformed."""
    document = _loads(data)
    if not all(type(each) is int and each > 0 for each in _of(list, document, "before")):
        raise Malformed("before names something that is no version")
    if not (version := _count(document, "version")):
        raise Malformed("version 0 cannot be one")
    return version


def _loads(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON that can be read: {error}") from error
    if type(document) is not dict:
        raise Malformed("it is not a JSON object")
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may read a repeated name differently, so it is none of ours."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _check_format(document: dict[str, Any]) -> None:
    if (found := document.get("format")) != FORMAT:
        raise Malformed(f"it has format {found!r:.20}, this version of Headrace reads {FORMAT}")


def _of(kind: type, document: Any, name: str) -> Any:
    value = document.get(name) if type(document) is dict else None
    if type(value) is not kind:  # not isinstance: True is no number here
        raise Malformed(f"{name} is {value!r:.80} and not of type {kind.__name__}")
    return value


def _text(document: Any, name: str) -> str:
    return str(_of(str, document, name))


def _count(document: Any, name: str) -> int:
    value = int(_of(int, document, name))
    if not 0 <= value <= EXACT_MAX:
        raise Malformed(f"{name} is {value}, which cannot be")
    return value


def _partition(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 11):
        raise Malformed(f"next_offsets names partition {name!r:.40}")
    return int(name)


def _range(entry: Any) -> RangeDoc:
    staged = entry.get("staged") if type(entry) is dict else None
    rejected = _of(dict, entry, "rejected")
    return RangeDoc(
        _count(entry, "partition"),
        _count(entry, "start"),
        _count(entry, "end"),
        _staged(staged) if staged is not None else None,
        [span for reason in rejected for span in _spans(rejected[reason])],
        _spans(_of(list, entry, "duplicates")),
        _count(entry, "absent"),
    )


def _staged(entry: Any) -> StagedDoc:
    return StagedDoc(_text(entry, "key"), _text(entry, "sha256"), _count(entry, "size"), _count(entry, "rows"))


def _part(entry: Any) -> PartDoc:
    return PartDoc(_text(entry, "name"), _text(entry, "key"), _text(entry, "sha256"), _count(entry, "size"))


def _spans(found: Any) -> list[tuple[int, int]]:
    if type(found) is not list or not all(map(_is_span, found)):
        raise Malformed(f"{found!r:.80} are no spans of offsets")
    return [(start, end) for start, end in found]


def _is_span(found: Any) -> bool:
    return type(found) is list and len(found) == 2 and all(type(end) is int and 0 <= end <= EXACT_MAX for end in found)
