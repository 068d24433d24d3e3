"""Drop an `event_id` that was seen inside a bounded window of the stream.

The window is counted in ids, not in seconds, and its content is a function of the committed plans alone: it is rebuilt
exactly after a crash. Ids are kept as they are, not hashed: a collision would silently drop a click.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from stream.events import Decoded


@dataclass(frozen=True, slots=True)
class Deduped:
    """Ranges without their duplicates, the duplicates' offsets by range, and the ids to enter the window afterwards."""

    ranges: list[Decoded]
    duplicates: list[list[int]]
    event_ids: list[str]


class Window:
    """The last `limit` distinct event ids, oldest first. `limit` 0 keeps none and drops nothing across batches."""

    def __init__(self, limit: int, event_ids: Iterable[str] = ()) -> None:
        self._limit = limit
        self._seen: dict[str, None] = {}
        self.advance(event_ids)

    def split(self, ranges: Sequence[Decoded]) -> Deduped:
        """Tell first sightings from duplicates, in the order of `ranges`. Changes nothing: a batch may come again."""
        fresh: dict[str, None] = {}
        kept, duplicates = [], []
        for decoded in ranges:
            repeated = self._repeats(decoded, fresh)
            duplicates.append(decoded.offsets[repeated].tolist())
            kept.append(_without(decoded, repeated))
        return Deduped(kept, duplicates, list(fresh))

    def advance(self, event_ids: Iterable[str]) -> None:
        """Enter ids, in order, and let the oldest go. An id that comes back is as young as its return."""
        latest_first = dict.fromkeys(reversed(list(event_ids)))
        if not self._seen.keys().isdisjoint(latest_first):
            for key in latest_first:
                self._seen.pop(key, None)
        self._seen.update(dict.fromkeys(reversed(latest_first)))
        for key in list(islice(self._seen, max(0, len(self._seen) - self._limit))):
            del self._seen[key]

    def __len__(self) -> int:
        return len(self._seen)

    def _repeats(self, decoded: Decoded, fresh: dict[str, None]) -> list[int]:
        if self._all_new(decoded, fresh):
            return []
        repeated = []
        for place, key in enumerate(decoded.event_ids or ()):
            if key is None:
                continue
            if key in self._seen or key in fresh:
                repeated.append(place)
            else:
                fresh[key] = None
        return repeated

    def _all_new(self, decoded: Decoded, fresh: dict[str, None]) -> bool:
        """Whether every click has an id that is nowhere else, which is the rule; they are then in `fresh`."""
        keys = dict.fromkeys(decoded.event_ids or ())
        alone = len(keys) == len(decoded.users) and None not in keys
        if alone and self._seen.keys().isdisjoint(keys) and fresh.keys().isdisjoint(keys):
            fresh.update(keys)  # type: ignore[arg-type]  # None is not among them
            return True
        return False


def _without(decoded: Decoded, places: Sequence[int]) -> Decoded:
    if not places:
        return decoded
    keep = np.ones(len(decoded.users), bool)
    keep[places] = False
    positions = np.flatnonzero(keep).tolist()
    ids = decoded.event_ids
    return replace(
        decoded,
        offsets=decoded.offsets[keep],
        users=[decoded.users[place] for place in positions],
        items=[decoded.items[place] for place in positions],
        types=[decoded.types[place] for place in positions],
        times=decoded.times[keep],
        event_ids=None if ids is None else [ids[place] for place in positions],
    )
