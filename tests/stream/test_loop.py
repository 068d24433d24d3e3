"""The corridor turn by turn: back-pressure, cuts, checkpoints, drains, outages, fences."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from stream import checkpoint, plans
from stream.batching import CutPolicy, PressurePolicy
from stream.clocks import SystemClock
from stream.errors import (
    ConfigError,
    DrainIncomplete,
    Fenced,
    LearnerAway,
    LearnerFailed,
    StoreRefused,
    StoreUnavailable,
)
from stream.events import Plan
from stream.loop import Loop, Rhythm, drain
from stream.policy import CheckpointPolicy
from stream.ports import Clock, ObjectStore
from stream.service import Service
from tests.fakes import FakeClock, MemoryStore
from tests.rigs import LAYOUT, RHYTHM, Rig, clicks, folded

ENDLESS = replace(RHYTHM, cut=CutPolicy(rows=40, age_seconds=1.0))


def stored(store: ObjectStore) -> list[Plan]:
    """All plans, in order."""
    return [plans.decode(store.get(info.key).data, info.key) for info in store.list(LAYOUT.plans)]


def test_cuts_by_age_when_quiet() -> None:
    """A few clicks do not wait for a full batch: they are learned once the oldest of them is old enough."""
    rig = Rig(MemoryStore(), clicks(10), rhythm=ENDLESS)
    rig.source.exhausted = lambda: False  # type: ignore[method-assign]
    rig.service.open()

    def pass_time() -> None:
        rig.clock.advance(0.3)
        if rig.clock.ticks > 3:
            rig.service.stop()

    rig.service.run(pass_time)

    assert [plan.cut for plan in stored(rig.store)] == ["fence", "age"]


def test_pauses_and_resumes_on_pressure() -> None:
    """While the learner is slow the source is paused at the high mark; reading goes on by itself afterwards."""
    store = MemoryStore()
    rhythm = replace(RHYTHM, pressure=PressurePolicy(high_bytes=4000, low_bytes=1000), in_flight=1)
    rig = Rig(store, clicks(400), rhythm=rhythm)
    turns = itertools.count()
    rig.learner.is_awake = lambda: next(turns) % 9 == 0
    buffered, paused = [], []

    def watch() -> None:
        rig.clock.advance(1.1)
        buffered.append(rig.meter.value("headrace_buffered_bytes"))
        paused.append(rig.meter.value("headrace_paused"))

    rig.service.open()
    rig.service.run(watch)

    assert 1.0 in paused
    assert paused[-1] == 0.0
    assert max(buffered) <= 4000 + 25 * 200
    assert rig.state() == folded(store).state_sha256()


def test_waits_out_a_store_outage() -> None:
    """While the store is down nothing is lost and nothing stops; it goes on by itself when the store is back."""
    store = MemoryStore()
    rig = Rig(store, clicks(200))
    rig.service.open()
    down = iter([True] * 3)

    def trouble(call: str, _key: str) -> None:
        if call == "put" and next(down, False):
            raise StoreUnavailable("connection refused")

    store.trouble = trouble
    rig.service.run(lambda: rig.clock.advance(0.01))

    assert rig.meter.value("headrace_store_retries_total") == 3
    assert rig.state() == folded(store).state_sha256()
    assert sum(plans.count(each)[0] for plan in stored(store) for each in plan.ranges) == 200


def test_replaced_writer_stops() -> None:
    """When another process takes the lineage over, the first one stops at its next plan and writes nothing after."""
    store = MemoryStore()
    first, second = Rig(store, clicks(200)), Rig(store, clicks(200))
    first.service.open()
    turns = iter(range(10**6))

    def overtake() -> None:
        if next(turns) == 3:
            second.service.open()

    with pytest.raises(Fenced, match="replaced"):
        first.service.run(overtake)
    written = len(store.objects)
    first.service.close()
    second.service.run()

    assert len(store.objects) > written
    assert [plan.epoch for plan in stored(store)] == sorted(plan.epoch for plan in stored(store))
    assert second.state() == folded(store).state_sha256()


def test_learner_lost_while_opening() -> None:
    """A learner that dies while it is restored is an error with a code of its own."""
    store = MemoryStore()
    Rig(store, clicks(100)).run()
    for key in [key for key in store.objects if "/checkpoint/" in key]:
        del store.objects[key]
    again = Rig(store, clicks(100))
    again.learner.dies_at = 1

    with pytest.raises(LearnerFailed, match="while it was being restored"):
        again.service.open()


def test_idle_writer_notices() -> None:
    """A service without a click to plan finds out as well that another one has taken its lineage over."""
    store = MemoryStore()
    first, second = Rig(store, clicks(40)), Rig(store, clicks(40))
    first.source.exhausted = lambda: False  # type: ignore[method-assign]
    first.service.open()
    turns = itertools.count()

    def pass_time() -> None:
        first.clock.advance(1.0)
        if next(turns) == 10:
            second.service.open()
        assert next(turns) < 1000

    with pytest.raises(Fenced, match="replaced"):
        first.service.run(pass_time)


def test_replayed_plans_are_checkpointed() -> None:
    """What a start replays is owed a checkpoint, though no click comes after it."""
    store = MemoryStore()
    Rig(store, clicks(200)).run()
    for key in [key for key in store.objects if "/checkpoint/" in key]:
        del store.objects[key]
    Rig(store, clicks(200)).run()

    assert len(list(checkpoint.complete(store, LAYOUT))) == 1


def test_overslept_writer_stops() -> None:
    """A writer that slept until its successor had collected what was in its slot does not write there again."""
    store = MemoryStore()
    sleeper, successor = Rig(store, clicks(40 * 200)), Rig(store, clicks(40 * 200), rhythm=_tidy())
    sleeper.service.open()
    successor.run()
    assert LAYOUT.plan(1) not in store.objects
    sleeper.clock.advance(3600)

    with pytest.raises(Fenced, match="slept"):
        sleeper.service.run()
    assert LAYOUT.plan(1) not in store.objects


def test_gives_up_on_deadly_plan() -> None:
    """A plan at which the learner dies again and again stops the service with an error of its own."""
    rig = Rig(MemoryStore(), clicks(100))
    rig.service.open()

    def is_deadly() -> bool:
        rig.learner.dies_at = 2
        return True

    rig.learner.is_awake = is_deadly
    with pytest.raises(LearnerFailed, match="in a row"):
        rig.service.run()


def test_checkpoints_and_collects() -> None:
    """Checkpoints come after so many plans and at the end; only those kept stay, with the plans after the oldest."""
    store = MemoryStore()
    rig = Rig(store, clicks(40 * 300), rhythm=_tidy())
    rig.run()
    kept = [seq for seq, _ in checkpoint.complete(store, LAYOUT)]

    assert len(kept) in (2, 3)
    assert rig.meter.value("headrace_checkpoints_total") > 20
    assert stored(store)[0].seq % 64 == 0
    assert 0 < stored(store)[0].seq <= kept[0]
    assert rig.meter.value("headrace_archived_events_total") > 0
    again = Rig(store, clicks(40 * 300))
    again.service.open()
    assert again.service.opened is not None
    assert again.service.opened.recovered.replayed == 0


def test_damaged_checkpoint_costs_a_replay() -> None:
    """A flipped bit in the newest checkpoint is noticed and counted, and the next older one leads to the same state."""
    store = MemoryStore()
    rig = Rig(store, clicks(400))
    rig.run()
    newest = [key for _, key in checkpoint.complete(store, LAYOUT)][-1]
    part = checkpoint.read_manifest(store, newest).parts[0].key
    data, when = store.objects[part]
    store.objects[part] = (data[:-1] + bytes([data[-1] ^ 1]), when)
    again = Rig(store, clicks(400))
    opened = again.service.open()

    assert opened.recovered.replayed > 0
    assert again.meter.value("headrace_checkpoint_invalid_total") == 1
    assert again.state() == folded(store).state_sha256()


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_refuses_harmed_staging(harm: str) -> None:
    """A staged object that is needed, is not what its plan says, and cannot be made again, stops the start, by name."""
    store = MemoryStore()
    rig = Rig(store, clicks(100), rhythm=replace(RHYTHM, checkpoint=CheckpointPolicy(batches=10**6, seconds=1e9)))
    store.trouble = _no_checkpoint

    def pass_time() -> bool:
        rig.clock.advance(1.0)
        return True

    rig.learner.is_awake = pass_time
    with pytest.raises(DrainIncomplete):
        rig.run()
    store.trouble = lambda *_: None
    staged = next(key for key in store.objects if "/stage/" in key)
    if harm == "missing":
        del store.objects[staged]
    else:
        store.objects[staged] = (b"PAR1 something else PAR1", 0.0)

    with pytest.raises(StoreRefused, match=staged):
        Rig(store, clicks(100, items=29)).service.open()


def test_never_counts_replays_twice() -> None:
    """After a restart the figures begin with what is new; what is replayed is counted as replayed."""
    store = MemoryStore()
    rows = clicks(400)
    Rig(store, rows[:200]).run()
    for key in [key for key in store.objects if "/checkpoint/" in key]:
        del store.objects[key]
    again = Rig(store, rows)
    again.run()

    assert again.meter.value("headrace_events_total", outcome="trained") == 200
    assert again.meter.value("headrace_replayed_plans_total") == 5
    assert again.meter.value("headrace_learned_events_total") == 400


def test_refuses_another_topic() -> None:
    """A lineage that has read one topic is not continued on another, where its offsets mean nothing."""
    store = MemoryStore()
    Rig(store, clicks(100)).run()
    other = Rig(store, clicks(100), topic="other")

    with pytest.raises(ConfigError, match=r"'clicks'.*'other'"):
        other.service.open()


def test_admits_new_partitions() -> None:
    """Partitions added while it runs are read from their beginning, and are in the next plans."""
    clock = FakeClock()
    rig = Rig(MemoryStore(), clicks(200), rhythm=replace(RHYTHM, partitions_seconds=5.0), clock=clock, partitions=3)
    everything = rig.source.partitions
    rig.source.partitions = lambda: [0, 1] if clock.ticks < 3 else everything()  # type: ignore[method-assign]
    rig.source.exhausted = lambda: clock.ticks > 30  # type: ignore[method-assign]
    rig.service.open()
    rig.service.run(lambda: clock.advance(1.0))

    trained: dict[int, int] = {}
    for planned in [each for plan in stored(rig.store) for each in plan.ranges]:
        trained[planned.partition] = trained.get(planned.partition, 0) + plans.count(planned)[0]
    assert trained == dict(rig.source.end())


def test_learner_lost_as_last_checkpoint_begins() -> None:
    """A learner that dies between the last plan and the last checkpoint is brought back, and the drain ends well."""
    rig = Rig(MemoryStore(), clicks(100), rhythm=_rarely())
    loop = _opened(rig.service)
    while not loop.exhausted:
        loop.turn()
    beats = itertools.count()

    def die_once() -> None:
        if next(beats) == 0:
            rig.learner.kill()

    assert drain(loop, rig.clock, rig.clock.monotonic() + 1.0, die_once)
    assert rig.learner.starts == 2
    assert [seq for seq, _ in checkpoint.complete(rig.store, LAYOUT)] == [stored(rig.store)[-1].seq]


def test_live_right_after_a_long_opening() -> None:
    """How long opening took is not held against the loop, which has not had its first turn yet."""
    rig = Rig(MemoryStore(), clicks(10))
    start = rig.learner.start

    def slowly() -> None:
        rig.clock.advance(300.0)
        start()

    rig.learner.start = slowly  # type: ignore[method-assign]
    rig.service.open()

    assert rig.service.health().live


def test_not_ready_while_the_store_is_down() -> None:
    """Readiness says so when a batch waits for the store, and takes it back when the store answers again."""
    rig = Rig(MemoryStore(), clicks(400))
    service = _threaded(rig)
    loop = _opened(service)
    rig.store.trouble = _no_puts  # type: ignore[attr-defined]
    _turn_until(loop, lambda: rig.meter.value("headrace_store_retries_total") > 0)
    ready_at_first = service.health().ready
    rig.clock.advance(11.0)
    loop.turn()
    service._beat()
    during = service.health()
    rig.store.trouble = lambda *_: None  # type: ignore[attr-defined]
    _turn_until(loop, lambda: loop.exhausted)
    after = service.health()
    service.close()

    assert ready_at_first
    assert (during.live, during.ready) == (True, False)
    assert "store" in during.reasons[0]
    assert after.ready


def test_drain_leaves_the_processor_to_others() -> None:
    """While a drain can only wait for the store, it does not turn as fast as it can."""
    rig = Rig(MemoryStore(), clicks(100))
    clock = SystemClock()
    service = _threaded(rig, clock)
    loop = _opened(service)
    rig.store.trouble = _no_puts  # type: ignore[attr-defined]
    loop.turn()
    turns: list[None] = []
    drained = drain(loop, clock, clock.monotonic() + 0.5, lambda: turns.append(None))
    service.close()

    assert not drained
    assert len(turns) <= 101


def test_close_does_not_wait_for_a_revival() -> None:
    """Whatever is left to replay after the learner was lost, closing ends it."""
    rig = Rig(MemoryStore(), clicks(400), rhythm=_rarely())
    service = _threaded(rig)
    loop = _opened(service)
    _turn_until(loop, lambda: rig.meter.value("headrace_learned_seq") >= 3)
    rig.learner.kill()
    asleep = threading.Event()

    def sleep() -> bool:
        time.sleep(0.01)
        asleep.set()
        return False

    rig.learner.is_awake = sleep
    loop.turn()
    assert asleep.wait(10.0)
    closing = threading.Thread(target=service.close, daemon=True)
    closing.start()
    closing.join(5.0)

    assert not closing.is_alive()


def test_counts_a_plan_that_the_revival_learned() -> None:
    """A plan committed as the learner is lost is replayed by the revival, and its rejects are counted all the same."""
    rows = [*clicks(39), b"not json", *clicks(80)[40:]]
    rig = Rig(MemoryStore(), rows, rhythm=_rarely(), partitions=1)
    loop = _opened(rig.service)
    while loop._committing is None:
        loop.turn()
    rig.learner.kill()
    loop._collect_reports(0.0)  # the commit is done and not settled yet
    rig.service.run()

    assert rig.meter.value("headrace_events_total", outcome="trained") == 79
    assert rig.meter.value("headrace_events_total", outcome="rejected") == 1
    assert not rig.service.figures._pending


def test_stops_while_opening() -> None:
    """Asked to stop while it replays, or while the store is down, it stops at once and says that nothing is lost."""
    rig = Rig(MemoryStore(), clicks(400), rhythm=_rarely())
    rig.store.trouble = _no_checkpoint  # type: ignore[attr-defined]
    rig.service.open()
    while not rig.service._loop.exhausted:  # type: ignore[union-attr]
        rig.service._loop.turn()  # type: ignore[union-attr]
    again = Rig(rig.store, clicks(400))
    again.learner.is_awake = lambda: not again.service.stop()  # type: ignore[func-returns-value]
    with pytest.raises(DrainIncomplete, match="opening"):
        again.service.open()

    down = Rig(MemoryStore(), clicks(10))
    down.store.trouble = _no_puts  # type: ignore[attr-defined]
    down.service.stop()
    with pytest.raises(DrainIncomplete, match="opening"):
        down.service.open()


def _threaded(rig: Rig, clock: Clock | None = None) -> Service:
    """The rig's service with threads of its own, as it runs in earnest."""
    return Service(replace(rig.service._doors, clock=clock or rig.clock), rig.service._orders)


def _opened(service: Service) -> Loop:
    service.open()
    assert service._loop is not None
    return service._loop


def _turn_until(loop: Loop, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < deadline
        loop.turn()
        time.sleep(0.001)


def _rarely() -> Rhythm:
    """A rhythm that checkpoints only at the end."""
    return replace(RHYTHM, checkpoint=CheckpointPolicy(batches=10**6, seconds=1e9))


def _no_puts(call: str, _key: str) -> None:
    if call == "put":
        raise StoreUnavailable("connection refused")


def _tidy() -> Rhythm:
    """A rhythm that checkpoints often and collects at once."""
    return replace(RHYTHM, checkpoint=CheckpointPolicy(batches=10, seconds=1e9, kept=2, grace_seconds=0.0))


def _no_checkpoint(call: str, key: str) -> None:
    if call == "put" and "/checkpoint/" in key:
        raise StoreUnavailable("no room")


def test_waits_for_a_cluster_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's cluster dies with it and returns: the service tries until it is there, and nothing is lost."""
    monkeypatch.setattr("stream.loop._AWAY_SECONDS", 0.0)
    store = MemoryStore()
    rig = Rig(store, clicks(200), rhythm=replace(RHYTHM, cluster_seconds=1e9))
    rig.learner.dies_at = 3
    tries, start = iter(range(5)), rig.learner.start

    def away() -> None:
        if rig.learner.starts and next(tries, None) is not None:
            raise LearnerAway("nothing listens there")
        start()

    rig.learner.start = away  # type: ignore[method-assign]
    rig.run()

    assert next(tries, None) is None
    assert rig.learner.starts == 2
    assert rig.state() == folded(store).state_sha256()


def test_a_cluster_that_stays_away_ends_the_service() -> None:
    """After its time is up the service ends, with the code for a learner that cannot be started."""
    rig = Rig(MemoryStore(), clicks(200), rhythm=replace(RHYTHM, cluster_seconds=-1.0))
    rig.learner.dies_at = 3
    start = rig.learner.start

    def away() -> None:
        if rig.learner.starts:
            raise LearnerAway("nothing listens there")
        start()

    rig.learner.start = away  # type: ignore[method-assign]
    with pytest.raises(LearnerFailed, match="nothing listens"):
        rig.run()
