"""A partition that is added while the service opens is read like any other, by the loop."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from stream.opening import Start, _first_offsets


class Growing:
    """A source that gets its third partition right after it was asked for offsets."""

    def __init__(self) -> None:
        self.count = 2

    def partitions(self) -> list[int]:
        return list(range(self.count))

    def beginning(self) -> dict[int, int]:
        found = dict.fromkeys(self.partitions(), 5)
        self.count = 3
        return found

    def end(self) -> dict[int, int]:
        return dict.fromkeys(self.beginning(), 9)


@pytest.mark.parametrize(
    ("start", "known", "first"),
    [
        ("earliest", {}, {0: 5, 1: 5}),
        ("latest", {}, {0: 9, 1: 9}),
        ("latest", {0: 7}, {0: 7, 1: 5}),
        ("earliest", {0: 7, 1: 8, 2: 6}, {0: 7, 1: 8, 2: 6}),
    ],
)
def test_first_offsets(start: Start, known: Mapping[int, int], first: Mapping[int, int]) -> None:
    """It has no first offset yet, unless it has been read before; simulated world 918 ended with a KeyError here."""
    assert _first_offsets(Growing(), start, known) == first  # type: ignore[arg-type]
