"""Duplicates: an event id seen within the window is dropped, exactly as a plain list of ids would say."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.dedupe import Window
from stream.events import Decoded

Ids = list[str | None]


def decoded_of(partition: int, event_ids: Ids | None, count: int | None = None) -> Decoded:
    total = len(event_ids) if event_ids is not None else count or 0
    offsets = np.arange(total, dtype=np.int64) * 2 + 100
    names = [f"{partition}-{place}" for place in range(total)]
    return Decoded(partition, offsets, names, names, ["view"] * total, offsets * 10, event_ids)


keys = st.one_of(st.none(), st.sampled_from("abcdefgh"))
batches = st.lists(st.lists(st.lists(keys, max_size=6), min_size=1, max_size=3), max_size=12)


def naive(stream: list[list[Ids]], limit: int) -> tuple[list[list[list[int]]], list[str]]:
    """Places of the duplicates of each range of each batch, and the window at the end: one list, searched through."""
    entered: list[str] = []
    found = []
    for batch in stream:
        window, fresh = entered[max(0, len(entered) - limit) :], []
        places: list[list[int]] = []
        for ids in batch:
            places.append([])
            for place, key in enumerate(ids):
                if key is not None and (key in window or key in fresh):
                    places[-1].append(place)
                elif key is not None:
                    fresh.append(key)
        found.append(places)
        entered += fresh
    return found, entered[max(0, len(entered) - limit) :]


@given(batches, st.integers(0, 6))
def test_duplicates_are_those_of_a_naive_search(stream: list[list[Ids]], limit: int) -> None:
    """Over any stream and window, the limit 0 included; what is kept is all the rest, in order."""
    window, split = Window(limit), []
    for batch in stream:
        ranges = [decoded_of(partition, ids) for partition, ids in enumerate(batch)]
        deduped = window.split(ranges)
        split.append([[(offset - 100) // 2 for offset in offsets] for offsets in deduped.duplicates])
        for before, kept, offsets in zip(ranges, deduped.ranges, deduped.duplicates, strict=True):
            keep = ~np.isin(before.offsets, offsets)
            assert kept.offsets.tolist() == before.offsets[keep].tolist()
            assert kept.times.tolist() == before.times[keep].tolist()
            expected = [name for name, kept_here in zip(before.users, keep.tolist(), strict=True) if kept_here]
            assert kept.users == kept.items == expected
            assert len(kept.types) == len(kept.event_ids or []) == len(expected)
        window.advance(deduped.event_ids)

    assert naive(stream, limit)[0] == split
    assert len(window) == len(naive(stream, limit)[1])


@given(batches, st.integers(0, 6), st.lists(st.lists(keys, max_size=5), min_size=1, max_size=2))
def test_a_window_is_rebuilt_from_plans(stream: list[list[Ids]], limit: int, after: list[Ids]) -> None:
    """All ids of the committed plans, entered at once after a crash, make the window that stood before it."""
    live, committed = Window(limit), []
    for batch in stream:
        deduped = live.split([decoded_of(partition, ids) for partition, ids in enumerate(batch)])
        live.advance(deduped.event_ids)
        committed += deduped.event_ids

    rebuilt = Window(limit, committed)

    ranges = [decoded_of(partition, ids) for partition, ids in enumerate(after)]
    assert live.split(ranges).duplicates == rebuilt.split(ranges).duplicates
    assert len(live) == len(rebuilt)


@given(st.lists(st.lists(keys, max_size=6), min_size=1, max_size=3))
def test_a_split_changes_nothing(batch: list[Ids]) -> None:
    """A batch that could not be committed is split again with the same answer."""
    window = Window(4, "abc")
    ranges = [decoded_of(partition, ids) for partition, ids in enumerate(batch)]

    first, second = window.split(ranges), window.split(ranges)

    assert first.duplicates == second.duplicates
    assert first.event_ids == second.event_ids
    assert [list(decoded.event_ids or []) for decoded in ranges] == batch


def test_clicks_without_ids_are_never_duplicates() -> None:
    """Partition and offset are their identity."""
    deduped = Window(10, ["a"]).split([decoded_of(0, None, count=3), decoded_of(1, [None, None, "a"])])

    assert deduped.duplicates == [[], [104]]
    assert deduped.event_ids == []


def test_the_latest_sighting_counts() -> None:
    """An id that left the window and came back is as young as its return, however the window is filled."""
    window = Window(2, ["a", "b", "c", "a"])
    assert window.split([decoded_of(0, ["b", "c", "a"])]).duplicates == [[102, 104]]

    window.advance("c")
    window.advance("d")

    assert window.split([decoded_of(0, ["a", "c", "d"])]).duplicates == [[102, 104]]
