"""Repeats: what an item that stands in the context gains or loses by it, place by place.

Repeats do not follow popularity, nor age: so where an item is a repeat, both count anew, by products of their own.
"""

from __future__ import annotations

from collections.abc import Sequence


def features(clicked: Sequence[int], fresh: int, item: int, popularity: float, age: float) -> list[float]:
    """[K indicators of the item's places in the context `clicked`, newest first | whether one of them is among the
    first `fresh`, the clicks of the same batch | popularity | age]; zeros when the item is not in the context.
    """
    places = [float(other == item) for other in clicked]
    if not any(places):
        return [0.0] * (len(clicked) + 3)
    return [*places, float(any(places[:fresh])), popularity, age]
