"""Plans as bytes: the same plan is the same bytes, whatever is no plan is refused, and every offset has one place."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import plans
from stream.errors import StoreRefused
from stream.events import Plan, PlannedRange, StagedObject

KEY = "lineage/main/plan/00000000000000000007.json"
STAGED = StagedObject("lineage/main/stage/t/0/x.parquet", "ab" * 32, 1234, 5)
RANGE = PlannedRange(0, 10, 20, STAGED, {"not_json": [(12, 14)], "too_deep": [(19, 20)]}, [(15, 16)], absent=1)
PLAN = Plan("main", 7, 2, "n", "cd" * 32, "rows", 1_700_000_000_000, "t", (RANGE, PlannedRange(1, 0, 0)))

numbers = st.integers(0, 2**63 - 1)
runs = st.lists(st.tuples(numbers, numbers), max_size=3)
ranges = st.builds(
    PlannedRange,
    numbers,
    numbers,
    numbers,
    st.none() | st.builds(StagedObject, st.text(), st.text(), numbers, numbers),
    st.dictionaries(st.text(max_size=4), runs, max_size=3),
    runs,
    numbers,
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
drawn = st.builds(
    Plan, texts, numbers, numbers, texts, texts, st.sampled_from(["rows", "fence"]), numbers, texts, st.tuples(ranges)
)


@given(drawn)
def test_a_plan_comes_back_whole(plan: Plan) -> None:
    """Whatever a plan holds, its bytes hold it, and encoding them again gives the same bytes."""
    data = plans.encode(plan)
    back = plans.decode(data, KEY)

    assert msgspec.to_builtins(back) == msgspec.to_builtins(plan)
    assert plans.encode(back) == data


def test_order_of_reasons_does_not_show() -> None:
    """The bytes, and so the hash that chains plans, are a function of the content alone."""
    turned = dataclasses.replace(RANGE, rejected=dict(reversed(list(RANGE.rejected.items()))))

    again = dataclasses.replace(PLAN, ranges=(turned, PLAN.ranges[1]))

    assert plans.sha256(plans.encode(again)) == plans.sha256(plans.encode(PLAN))
    other = dataclasses.replace(PLAN, nonce="m")
    assert plans.sha256(plans.encode(other)) != plans.sha256(plans.encode(PLAN))


def test_the_bytes_of_a_plan_are_fixed() -> None:
    """Stored plans are chained by these bytes: another encoding of the same plan would break every lineage."""
    plan = Plan("main", 0, 1, "n", "", "fence", 5, "t", (PlannedRange(0, 3, 3),))

    assert plans.encode(plan) == (
        b'{"format":1,"plan":{"created_ms":5,"cut":"fence","epoch":1,"lineage":"main","nonce":"n","previous_sha256":"",'
        b'"ranges":[{"absent":0,"duplicates":[],"end":3,"partition":0,"rejected":{},"staged":null,"start":3}],'
        b'"seq":0,"topic":"t"}}'
    )


GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"format":1}',
    b'{"format":"1"}',
    b"\xff\xfe",
    b'{"format":1,"plan":{"nonce":"\xff"}}',
]
GARBAGE += [
    b'{"x":' * 100_000,
    plans.encode(PLAN)[:-1],
    plans.encode(PLAN) + b"}",
    plans.encode(PLAN).replace(b"7", b'"7"'),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    """Torn, foreign or hostile bytes are refused naming the object, never in another way."""
    with pytest.raises(StoreRefused, match=KEY):
        plans.decode(data, KEY)


@given(st.binary())
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    """Bytes at random are no plan."""
    with pytest.raises(StoreRefused, match=KEY):
        plans.decode(data, KEY)


@pytest.mark.parametrize("document", [{"format": 2, "plan": {"new": 1}}, {"format": 2}, {"format": 0, "plan": None}])
def test_another_format_is_named(document: dict[str, Any]) -> None:
    """A plan of a later version is called that, though none of its fields may be known."""
    with pytest.raises(StoreRefused, match=rf"{KEY} has plan format {document['format']}.* reads 1"):
        plans.decode(json.dumps(document).encode(), KEY)


def test_counts_are_those_of_the_range() -> None:
    """Trained by the staged rows, rejected and duplicates by their spans."""
    assert plans.count(RANGE) == (5, 3, 1)
    assert plans.count(PlannedRange(1, 4, 4)) == (0, 0, 0)


def checked(*changed: PlannedRange, known: dict[int, int] | None = None) -> None:
    plans.check_ranges(dataclasses.replace(PLAN, ranges=changed), known if known is not None else {0: 10, 1: 0}, KEY)


def test_right_ranges_pass() -> None:
    """Joined to the plan before, or the first of their partition; every offset in one place."""
    checked(*PLAN.ranges)
    checked(*PLAN.ranges, known={})


def ranged(**changes: Any) -> PlannedRange:
    return dataclasses.replace(RANGE, **changes)


WRONG = {
    "gap": ranged(start=11, absent=0),
    "overlap": ranged(start=9, absent=2),
    "unaccounted": ranged(absent=0),
    "too many": ranged(absent=2),
    "backwards": ranged(end=9, staged=None, rejected={}, duplicates=(), absent=-1),
    "negative absent": ranged(absent=-1, duplicates=[(14, 17)]),
    "two reasons": ranged(rejected={"not_json": [(12, 14)], "too_deep": [(13, 14)]}),
    "rejected and duplicate": ranged(duplicates=[(13, 14)]),
    "outside before": ranged(duplicates=[(9, 10)]),
    "outside after": ranged(duplicates=[(20, 21)]),
    "reversed span": ranged(duplicates=[(17, 15)], absent=4),
    "empty span": ranged(duplicates=[(15, 15)], absent=2),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_range_is_refused(name: str) -> None:
    """A gap, an overlap, an offset in no place or in two: refused naming plan, partition and offset."""
    with pytest.raises(StoreRefused, match=rf"{KEY}: partition 0.*\b{WRONG[name].start}\b"):
        checked(WRONG[name])


def test_a_partition_cannot_stand_twice() -> None:
    """Two ranges of one partition in one plan must join as those of two plans do."""
    with pytest.raises(StoreRefused, match="partition 0 begins at offset 10, the range before it ended at 20"):
        checked(RANGE, RANGE)
    checked(RANGE, PlannedRange(0, 20, 21, absent=1))
