"""A staged object that is gone or altered comes back from the source, byte for byte, or the start stops clearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from stream import plans, staged
from stream.decode import REPLAY_HEADER
from stream.errors import StoreRefused
from stream.events import Headers, RawChunk, StagedObject
from stream.replay.source import ReplaySource
from tests.fakes import InlineLearner, MemoryStore
from tests.forge import flipped
from tests.rigs import LAYOUT, RHYTHM, Rig, Row, clicks, folded

ROWS: list[Row] = [
    *clicks(70),
    b"not json",
    {"user_id": "u1", "product_id": "i1", "timestamp": 1_600_000_100, "event_id": "once"},
    {"user_id": "u1", "product_id": "i1", "timestamp": 1_600_000_101, "event_id": "once"},
    None,
    *clicks(140)[70:],
]
NO_CHECKPOINT = replace(RHYTHM, checkpoint=replace(RHYTHM.checkpoint, batches=10**6))
Damage = Callable[[MemoryStore, str], None]


def delete(store: MemoryStore, key: str) -> None:
    store.delete(key)


def alter(store: MemoryStore, key: str) -> None:
    store.put(key, flipped(store.get(key).data))


def truncate(store: MemoryStore, key: str) -> None:
    store.put(key, store.get(key).data[:-9])


class Retaining(ReplaySource):
    """A source that no longer holds the first offsets of its partitions."""

    first = 0

    def beginning(self) -> Mapping[int, int]:
        return dict.fromkeys(self.partitions(), self.first)


class Told(ReplaySource):
    """A source of messages that were told again from their dead letters: their ids are in headers."""

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        return [replace(chunk, headers=_ids(chunk)) for chunk in super().poll(max_events, timeout_seconds)]


def _ids(chunk: RawChunk) -> list[Headers]:
    return [[(REPLAY_HEADER, f"clicks/{chunk.partition}/{offset}".encode())] for offset in chunk.offsets.tolist()]


def told(store: MemoryStore) -> Rig:
    rig = Rig(store, ROWS, rhythm=NO_CHECKPOINT)
    rig.service._doors = replace(rig.service._doors, source=Told(ROWS, partitions=2, clock=rig.clock))
    return rig


@pytest.fixture
def store() -> MemoryStore:
    """A lineage whose plans all have to be replayed, for no checkpoint verifies."""
    store = MemoryStore()
    Rig(store, ROWS, rhythm=NO_CHECKPOINT).run()
    for info in list(store.list(LAYOUT.checkpoints)):
        store.delete(info.key)
    return store


def objects(store: MemoryStore) -> list[StagedObject]:
    """What the plans stage, in order."""
    found = [plans.decode(store.get(info.key).data, info.key) for info in store.list(LAYOUT.plans)]
    return [planned.staged for plan in found for planned in plan.ranges if planned.staged is not None]


@pytest.mark.parametrize("damage", [delete, alter, truncate])
def test_fetched_again_from_the_source(store: MemoryStore, damage: Damage) -> None:
    """Every staged object in turn, with its rejects and duplicates left out: put back as it was, and counted."""
    whole, state = store.copy(), folded(store).state_sha256()
    for stored in objects(store):
        damage(store, stored.key)
    rig = Rig(store, ROWS)
    rig.service.open()

    assert [store.get(stored.key).data for stored in objects(store)] == [
        whole.get(stored.key).data for stored in objects(whole)
    ]
    assert rig.meter.value("headrace_staged_refetched_total") == len(objects(store)) > 6
    assert folded(store.copy()).state_sha256() != state  # one fence more
    rig.service.run()
    assert rig.state() == folded(store).state_sha256()


def test_ids_in_headers_come_back_too() -> None:
    """What was told again from dead letters has its ids in headers; they are in the object that is put back."""
    store = MemoryStore()
    told(store).run()
    for info in list(store.list(LAYOUT.checkpoints)):
        store.delete(info.key)
    stored = objects(store)[0]
    data = store.get(stored.key).data
    store.delete(stored.key)

    told(store).service.open()

    assert store.get(stored.key).data == data
    assert staged.decode(data, "x")["event_id"].null_count == 0


def test_an_untouched_lineage_fetches_nothing(store: MemoryStore) -> None:
    """What is as it should be is not read from the source again."""
    rig = Rig(store, ROWS)
    rig.service.open()

    assert rig.meter.value("headrace_staged_refetched_total") == 0


def test_past_retention_it_stops(store: MemoryStore) -> None:
    """The source no longer holds the messages: object, partition, offsets and remedies are named, nothing is put."""
    stored = objects(store)[0]
    store.delete(stored.key)
    rig = Rig(store, ROWS)
    source = Retaining(ROWS, partitions=2, clock=rig.clock)
    source.first = 5
    rig.service._doors = replace(rig.service._doors, source=source)

    with pytest.raises(StoreRefused, match=rf"{stored.key} \(partition \d, offsets 0 to \d+\) is missing.*no longer"):
        rig.service.open()
    assert stored.key not in store.objects


def test_other_messages_are_not_put_back(store: MemoryStore) -> None:
    """The source gives something else for the same offsets: the plan's hash decides, and the start stops."""
    stored = objects(store)[0]
    store.delete(stored.key)
    others = [dict(row, product_id="other") if isinstance(row, dict) else row for row in ROWS]

    with pytest.raises(StoreRefused, match="give another object"):
        Rig(store, others).service.open()
    assert stored.key not in store.objects


def test_a_running_loop_leaves_it_to_the_next_start(store: MemoryStore) -> None:
    """While the learner is brought back, the source is being read: the service stops, and its next start mends."""
    rig = Rig(store, [*ROWS, *clicks(200)[140:]], rhythm=NO_CHECKPOINT)
    rig.service.open()
    stored = objects(store)[3]
    store.delete(stored.key)
    assert isinstance(rig.learner, InlineLearner)
    rig.learner.dies_at = len(list(store.list(LAYOUT.plans)))

    with pytest.raises(StoreRefused, match="Start again: at its start the service fetches the messages again"):
        rig.service.run()

    rig = Rig(store, rig.rows)
    rig.run()
    assert staged.digest(store.get(stored.key).data) == stored.sha256
    assert rig.state() == folded(store).state_sha256()
