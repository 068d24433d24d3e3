"""Plans are created once; a lost reply is no defeat, another writer's plan is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream import plans
from stream.clocks import SystemClock
from stream.errors import Conflict, Fenced, PreconditionFailed, StoreRefused, StoreUnavailable
from stream.events import PlannedRange
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head, Planner, Slots
from stream.policy import Backoff
from stream.store.directory import DirectoryStore
from tests.fakes import FakeClock

LAYOUT = Layout("pre", "main")
RANGES = (PlannedRange(0, 0, 4, absent=4),)
START = Head(-1, "", 0)
Put = Callable[..., str]


class TroubledStore(DirectoryStore):
    """Each put is made by the next of `turns`, which is given the real put; by the real one once they are over."""

    def __init__(self, root: Path, *turns: Callable[[Put], Put]) -> None:
        super().__init__(root)
        self.turns = list(turns)
        self.puts = 0

    def put(self, key: str, *args: Any, **options: Any) -> str:
        self.puts += 1
        turn = self.turns.pop(0) if self.turns else (lambda put: put)
        return turn(super().put)(key, *args, **options)


def lost_reply(put: Put) -> Put:
    """The object is written, and the caller hears of a time-out."""

    def turn(*args: Any, **options: Any) -> str:
        put(*args, **options)
        raise StoreUnavailable("time-out")

    return turn


def retried_inside(put: Put) -> Put:
    """As an S3 client that loses a reply and tries again by itself: its own write is then in the way."""

    def turn(*args: Any, **options: Any) -> str:
        put(*args, **options)
        return put(*args, **options)

    return turn


def raising(error: Exception) -> Callable[[Put], Put]:
    def turn(_put: Put) -> Put:
        def put(*_args: Any, **_options: Any) -> str:
            raise error

        return put

    return turn


def planner_on(
    store: DirectoryStore, head: Head = START, tries: int = 10, name: str = "n", since: float | None = None
) -> Planner:
    count, nonces = itertools.count(1), itertools.count()
    patience = Patience(Backoff(0.0, 0.0), lambda _: next(count) >= tries, PrometheusMeter())
    return Planner(Slots(store, LAYOUT, "t", SystemClock(), patience, lambda: f"{name}{next(nonces)}"), head, since)


def stored(store: DirectoryStore) -> list[Any]:
    return [plans.decode(store.get(info.key).data, info.key) for info in store.list(LAYOUT.plans)]


def test_plans_are_chained_by_hash(tmp_path: Path) -> None:
    """Each names the bytes of the one before; a fence begins a new epoch, and the head follows."""
    store = DirectoryStore(tmp_path)
    planner = planner_on(store)

    written = [planner.fence(RANGES), planner.commit((), "rows"), planner.commit((), "age"), planner.fence(())]

    data = [store.get(LAYOUT.plan(seq)).data for seq in range(4)]
    hashes = [plans.sha256(found) for found in data]
    assert [plans.decode(found, "k").seq for found in data] == [plan.seq for plan in written] == [0, 1, 2, 3]
    assert [plan.previous_sha256 for plan in stored(store)] == ["", *hashes[:3]]
    assert [plan.epoch for plan in stored(store)] == [1, 1, 1, 2]
    assert [plan.cut for plan in stored(store)] == ["fence", "rows", "age", "fence"]
    assert len({plan.nonce for plan in stored(store)}) == 4
    assert planner.head == Head(3, hashes[3], 2)


@pytest.mark.parametrize(
    "turns",
    [
        [lost_reply],
        [retried_inside],
        [raising(StoreUnavailable("503")), lost_reply],
        [lost_reply, raising(StoreUnavailable("503"))],
        [raising(Conflict("409")), raising(Conflict("409"))],
        [raising(PreconditionFailed("412 of nothing"))],
    ],
    ids=["lost reply", "client retried", "lost second", "lost then down", "conflicts", "refused without a cause"],
)
def test_trouble_costs_no_plan_and_makes_none_twice(tmp_path: Path, turns: list[Callable[[Put], Put]]) -> None:
    """Whatever is heard of the write: one plan in the slot, our own, and the next one follows on it."""
    store = TroubledStore(tmp_path, *turns)
    planner = planner_on(store)

    first, second = planner.fence(RANGES), planner.commit((), "rows")

    assert [plan.nonce for plan in stored(store)] == [first.nonce, second.nonce]
    assert second.previous_sha256 == plans.sha256(store.get(LAYOUT.plan(0)).data)
    assert store.turns == []


@pytest.mark.parametrize("turns", [[], [raising(StoreUnavailable("503"))], [raising(Conflict("409"))]])
def test_anothers_plan_fences_us(tmp_path: Path, turns: list[Callable[[Put], Put]]) -> None:
    """The message names both epochs, the other's plan is left as it is, and our head does not move."""
    store = TroubledStore(tmp_path)
    zombie = planner_on(store)
    zombie.fence(())
    other = planner_on(store, zombie.head, name="other")
    other.fence(RANGES)
    store.turns += turns
    head = zombie.head

    with pytest.raises(Fenced, match=r"plan 1 of lineage main .*\(epoch 2, ours is 1\)"):
        zombie.commit((), "rows")

    assert zombie.head == head
    assert [plan.nonce for plan in stored(store)] == ["n0", "other0"]


def test_two_that_fence_cannot_both_win(tmp_path: Path) -> None:
    """Of two that take over from the same head, the slower one is told, though its epoch is the same."""
    store = DirectoryStore(tmp_path)
    planner_on(store, name="a").fence(())

    with pytest.raises(Fenced, match=r"epoch 1, ours is 1"):
        planner_on(store, name="b").fence(())


def test_garbage_in_the_slot_is_named(tmp_path: Path) -> None:
    """What is no plan is neither ours nor another writer's: refused by its key, and not written over."""
    store = DirectoryStore(tmp_path)
    store.put(LAYOUT.plan(0), b"?")

    with pytest.raises(StoreRefused, match=LAYOUT.plan(0)):
        planner_on(store).fence(())
    assert store.get(LAYOUT.plan(0)).data == b"?"


def test_giving_up_leaves_the_head(tmp_path: Path) -> None:
    """Told to stop while the store is down: the trouble is raised, and nothing counts as planned."""
    store = TroubledStore(tmp_path, *[raising(StoreUnavailable("down"))] * 9)
    planner = planner_on(store, tries=3)

    with pytest.raises(StoreUnavailable, match="down"):
        planner.fence(RANGES)
    assert planner.head == START
    assert store.puts == 3


class SlowStore(DirectoryStore):
    """A put takes a minute, in which another writer's collector removes the plans `gone`."""

    def __init__(self, root: Path, clock: FakeClock, *gone: int) -> None:
        super().__init__(root)
        self.clock, self.gone = clock, gone

    def put(self, key: str, *args: Any, **options: Any) -> str:
        self.clock.advance(60.0)
        for seq in self.gone:
            self.delete(LAYOUT.plan(seq))
        return super().put(key, *args, **options)


def test_late_plan_is_taken_back(tmp_path: Path) -> None:
    """A plan that arrived so late that its slot had been filled and emptied again is removed by who wrote it."""
    clock = FakeClock()
    planner = slow_planner(SlowStore(tmp_path, clock, 0), clock)

    with pytest.raises(Fenced, match="collected"):
        planner.commit((), "rows")
    assert stored(DirectoryStore(tmp_path)) == []


def test_plan_that_was_gone_on_from_stays(tmp_path: Path) -> None:
    """The reply was late, not the plan: another writer took it up, went on, and collected what was before it."""
    clock = FakeClock()
    store = SlowStore(tmp_path, clock, 0)
    planner = slow_planner(store, clock)
    ours = planner._slots.store.put

    def taken_up(key: str, *args: Any, **options: Any) -> str:
        etag = ours(key, *args, **options)
        head = Head(1, plans.sha256(DirectoryStore(tmp_path).get(LAYOUT.plan(1)).data), 1)
        planner_on(DirectoryStore(tmp_path), head, name="other").fence(RANGES)
        return etag

    store.put = taken_up  # type: ignore[method-assign]
    with pytest.raises(Fenced, match="collected"):
        planner.commit((), "rows")
    assert [plan.seq for plan in stored(DirectoryStore(tmp_path))] == [1, 2]


def test_late_plan_that_follows_stays(tmp_path: Path) -> None:
    """However long it took: where the plan before is still there, nobody came in between."""
    clock = FakeClock()
    planner = slow_planner(SlowStore(tmp_path, clock), clock)
    planner.commit((), "rows")

    assert [plan.seq for plan in stored(DirectoryStore(tmp_path))] == [0, 1]


def test_idle_sleeper_notices(tmp_path: Path) -> None:
    """The next slot is empty, but one's own newest plan is gone: others went far on meanwhile."""
    store = DirectoryStore(tmp_path)
    planner = planner_on(store)
    planner.fence(RANGES)
    planner.check()
    store.delete(LAYOUT.plan(0))

    with pytest.raises(Fenced, match="collected"):
        planner.check()


def test_first_plan_of_a_sleeper(tmp_path: Path) -> None:
    """Nobody's first plan may come after another's later one."""
    store = DirectoryStore(tmp_path)
    other = planner_on(store, name="other")
    other.fence(RANGES)
    other.commit((), "rows")
    store.delete(LAYOUT.plan(0))

    with pytest.raises(Fenced, match="began the lineage"):
        planner_on(store).check()


def test_slept_between_recovery_and_fence(tmp_path: Path) -> None:
    """What was recovered was long collected when the fence comes: it must not go into the emptied slot."""
    store = DirectoryStore(tmp_path)
    first = planner_on(store)
    first.fence(RANGES)
    store.delete(LAYOUT.plan(0))
    late = planner_on(store, first.head, name="late", since=SystemClock().monotonic() - 60.0)

    with pytest.raises(Fenced, match="collected"):
        late.fence(RANGES)
    assert list(store.list(LAYOUT.plans)) == []


def test_only_the_own_head_is_level(tmp_path: Path) -> None:
    """A newest plan that is not one's own means that one was replaced."""
    planner = planner_on(DirectoryStore(tmp_path))
    planner.fence(RANGES)
    planner.check_own(planner.head)

    with pytest.raises(Fenced, match="replaced"):
        planner.check_own(Head(1, "ab", 2))


def slow_planner(store: SlowStore, clock: FakeClock) -> Planner:
    planner_on(DirectoryStore(store.root)).fence(RANGES)
    data = DirectoryStore(store.root).get(LAYOUT.plan(0)).data
    patience = Patience(Backoff(0.0, 0.0), lambda _: False, PrometheusMeter())
    return Planner(Slots(store, LAYOUT, "t", clock, patience, lambda: "late"), Head(0, plans.sha256(data), 1))
