"""A full retrain, promotion and rollback, turn by turn: the stream loses nothing, repeats nothing, and never waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from stream import checkpoint, versions
from stream.drifting import DriftPolicy
from stream.errors import Diverged, Fenced, LearnerLost, StoreRefused, StoreUnavailable
from stream.events import LearnReport, PlannedBatch
from stream.history import Archive
from stream.host import LearnerHost
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff, CheckpointPolicy
from stream.recovery import replay
from stream.retraining import Progress, RetrainPolicy
from stream.verify.verdict import Options
from stream.verify.walk import prove
from stream.versions import Duel, Request, Result, Serving, Trained, Version
from tests.fakes import FakeClock, InlineLearner, MemoryStore
from tests.rigs import LAYOUT, MODEL, RHYTHM, Rig, clicks, folded

SECOND = LAYOUT.of_version(2)
RHYTHM_KEEPING = replace(RHYTHM, checkpoint=CheckpointPolicy(batches=3, seconds=1e9, kept=2, grace_seconds=0.0))
Act = Callable[["Play"], object]


@dataclass
class Play:
    """A service that runs over `rows` clicks; `acts` happen at their turns, a second apart."""

    acts: dict[int, Act] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    rows: int = 1200
    turns: int = 0
    rig: Rig = field(init=False)

    def __post_init__(self) -> None:
        version = versions.read_serving(self.store, LAYOUT).serving.version
        self.rig = Rig(self.store, clicks(self.rows), rhythm=RHYTHM_KEEPING, version=version, trains=True)

    def run(self) -> Play:
        self.rig.run(self._turn)
        return self

    def _turn(self) -> None:
        self.turns += 1
        self.rig.clock.advance(1.0)
        act = self.acts.get(self.turns)
        if act is not None:
            act(self)

    @property
    def serving(self) -> int:
        return int(self.rig.meter.value("headrace_model_version"))


def ask(play: Play) -> Version:
    return versions.ask(play.store, LAYOUT, Request("key", "why"))


def roll_back(play: Play) -> None:
    known = versions.read_serving(play.store, LAYOUT)
    versions.write_serving(play.store, LAYOUT, versions.rolled_back(known.serving, "now", "by hand"), known)


def serve(version: int, *, pinned: bool = False) -> Act:
    def act(play: Play) -> None:
        known = versions.read_serving(play.store, LAYOUT)
        serving = versions.promoted(known.serving, version, "now", "by hand")
        versions.write_serving(play.store, LAYOUT, versions.pinned(serving, pin=pinned), known)

    return act


def proven(store: MemoryStore) -> None:
    """The store keeps its promises; and every version's every checkpoint is what its first one and the plans give."""
    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage, Options(1000))
    assert verdict.first_breach is None
    for number in versions.numbers(store, LAYOUT):
        layout = LAYOUT.of_version(number)
        found = list(checkpoint.complete(store, layout))
        for (_, before), (seq, key) in pairwise(found):
            assert level(store, layout, before, seq).state_sha256() == level(store, layout, key, seq).state_sha256()


def level(store: MemoryStore, layout: Layout, key: str, seq: int) -> LearnerHost:
    """A version from one of its checkpoints up to plan `seq`."""
    rig = Rig(store, [], version=layout.version)
    host = LearnerHost(replace(rig.config, layout=layout))
    at = host.restore(key)
    patience = Patience(Backoff(), lambda _: True, PrometheusMeter())
    for planned in replay(
        Archive(store, layout, patience, PrometheusMeter()), Head(at.seq, at.plan_sha256, at.epoch), at.next_offsets
    ):
        if planned.plan.seq <= seq:
            host.apply(planned)
    return host


def test_a_retrained_version_takes_over() -> None:
    """Asked for, trained on all that is stored, no worse on new clicks: it serves, and goes on learning the stream."""
    play = Play({12: ask}).run()
    found = versions.read(play.store, SECOND)

    assert play.serving == 2
    assert versions.read_serving(play.store, LAYOUT).serving.before == (1,)
    assert found.result is not None
    assert found.result.outcome == "promoted"
    assert found.trained is not None
    assert found.trained.first_seq == 0
    assert found.trained.duel.clicks >= 10
    assert play.rig.service.learner.status()["seq"] == play.rig.service.figures.seq > 25
    assert play.rig.meter.value("headrace_retrain_last_outcome", outcome="promoted") == 1
    assert play.rig.meter.value("headrace_retrain_running") == 0
    assert play.rig.service.recommend("u1", 3).version == 2
    assert play.rig.service.learner.status()["config"] == MODEL.to_dict()
    assert prove(play.store, LAYOUT.prefix, LAYOUT.lineage, Options(1000)).orphans == 0
    proven(play.store)


def test_each_event_counts_once_whoever_serves() -> None:
    """Figures go on: what the new version caught up with was counted when the old one learned it."""
    play = Play({12: ask, 30: roll_back}).run()

    assert play.rig.meter.value("headrace_events_total", outcome="trained") == 1200


def test_rollback_is_as_if_nothing_had_happened() -> None:
    """Back to the version that served before: it has learned every plan, bit for bit as without the detour."""
    play = Play({12: ask, 30: roll_back}).run()

    assert play.serving == 1
    assert play.rig.state() == folded(play.store).state_sha256()
    proven(play.store)


def test_there_and_back_and_there_again() -> None:
    """Versions may come and go; each is brought level by the plans that it missed."""
    play = Play({12: ask, 26: roll_back, 36: serve(2), 46: serve(1), 56: serve(2)}, rows=1700).run()

    assert play.serving == 2
    assert versions.read_serving(play.store, LAYOUT).serving.before == (1, 2, 1)
    proven(play.store)


def test_plans_that_were_collected_are_caught_up_with_from_the_archive() -> None:
    """A version stands still while another serves for long: what it missed was archived meanwhile."""
    play = Play({12: ask, 230: roll_back}, rows=6200).run()

    assert LAYOUT.plan(20) not in play.store.objects
    assert play.serving == 1
    assert play.rig.state() == folded(play.store).state_sha256()
    proven(play.store)


def test_plans_that_poison_the_model_do_not_keep_a_version_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of those that it missed, each found by diverging twice: it is level all the same, and at the first go."""
    apply = LearnerHost.apply

    def poisoned(host: LearnerHost, planned: PlannedBatch) -> LearnReport:
        if planned.plan.seq in {34, 35, 37, 40} and not planned.aside:
            raise Diverged(planned.plan.seq, "poisoned by the test")
        return apply(host, planned)

    monkeypatch.setattr(LearnerHost, "apply", poisoned)
    play = Play({12: ask, 26: roll_back, 80: serve(2)}, rows=2800).run()
    aside = [int(info.key[-25:-5]) for info in play.store.list(SECOND.asides)]

    assert play.serving == 2
    assert aside == [34, 35, 37, 40]
    assert play.rig.meter.value("headrace_version_failures_total") == 0


def test_a_worse_version_is_kept_and_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is recorded either way; by hand it can be promoted all the same."""
    monkeypatch.setattr(RetrainPolicy, "judge", lambda _self, _duel: (False, "worse"))
    play = Play({12: ask, 30: serve(2)}).run()
    found = versions.read(play.store, SECOND)

    assert found.result is not None
    assert (found.result.outcome, found.result.why) == ("kept", "worse")
    assert found.trained is not None
    assert play.serving == 2
    proven(play.store)


def test_a_pinned_version_is_not_replaced() -> None:
    """Pinned means pinned: the new version waits."""
    play = Play({5: serve(1, pinned=True), 12: ask}).run()
    found = versions.read(play.store, SECOND)

    assert play.serving == 1
    assert found.result is not None
    assert found.result.outcome == "kept"
    assert "version 1 is pinned" in found.result.why


def test_a_version_that_was_compared_with_another_one_is_kept() -> None:
    """Somebody rolled back while it was trained: what it was measured against does not serve any more."""

    def ask_slowly(play: Play) -> None:
        poll = play.rig.trainer.poll
        play.rig.trainer.poll = lambda: poll() if play.turns > 50 else Progress()  # type: ignore[method-assign]
        versions.ask(play.store, LAYOUT, Request("another"))

    play = Play({12: ask, 30: ask_slowly, 40: roll_back}, rows=1700).run()
    found = versions.read(play.store, LAYOUT.of_version(3))

    assert play.serving == 1
    assert found.trained is not None
    assert found.trained.against == 2
    assert found.result is not None
    assert "version 1 serves by now, it was compared with 2" in found.result.why


def test_a_rollback_from_a_version_without_a_result_stands() -> None:
    """The service dies when the new version serves and its result is not written yet; somebody goes back at once. The
    next process finds the retrain open, and the version that it was compared with serving: it promotes nothing.
    """
    store = MemoryStore()

    def die(call: str, key: str) -> None:
        if call == "put" and key == SECOND.record("result"):
            store.trouble = lambda _call, _key: None
            raise KeyboardInterrupt

    store.trouble = die
    first = Play({12: ask}, store, rows=1700)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    first.rig.service.close()
    assert versions.read_serving(store, LAYOUT).serving.version == 2
    assert versions.read(store, SECOND).open
    roll_back(first)

    second = Play({}, store, rows=2400).run()
    result = versions.read(store, SECOND).result

    assert second.serving == 1
    assert result is not None
    assert result.outcome == "kept"
    assert "version 1 was chosen to serve at now, after training had begun (by hand): it stays" in result.why


def test_who_changes_the_version_meanwhile_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the write somebody pins: If-Match refuses, and the new version is kept."""
    write = versions.write_serving
    done: list[int] = []

    def overtaken(store: Any, layout: Layout, serving: Serving, known: versions.Known) -> None:
        if not done:
            done.append(1)
            write(store, layout, Serving(1, (), pinned=True), known)
        write(store, layout, serving, known)

    monkeypatch.setattr(versions, "write_serving", overtaken)
    play = Play({12: ask}).run()
    found = versions.read(play.store, SECOND)

    assert play.serving == 1
    assert found.result is not None
    assert "somebody else said" in found.result.why


def test_a_training_that_dies_is_begun_again() -> None:
    def ask_and_kill(play: Play) -> None:
        play.rig.trainer.dies = 2
        ask(play)

    play = Play({12: ask_and_kill}).run()

    assert play.serving == 2
    assert versions.read(play.store, SECOND).attempts == 3


def at_the_record(play: Play, act: Callable[[int], None]) -> None:
    """Ask; `act` happens between the new version's first checkpoint and its record, told for which time."""
    done: list[int] = []

    def trouble(call: str, key: str) -> None:
        if (call, key) == ("put", SECOND.record("trained")):
            done.append(1)
            act(len(done))

    play.store.trouble = trouble
    ask(play)


def test_what_an_attempt_left_behind_is_no_checkpoint_of_the_version() -> None:
    """It died between its checkpoint and its record. The next attempt has more history: another model, which must not
    find an older one of another training beside it.
    """
    store, there = MemoryStore(), []

    def die(time: int) -> None:
        there.append([seq for seq, _ in checkpoint.complete(store, SECOND)])
        if time == 1:
            raise LearnerLost("killed by the test")

    play = Play({12: lambda play: at_the_record(play, die)}, store).run()
    found = versions.read(play.store, SECOND)

    assert found.attempts == 2
    assert found.trained is not None
    assert there[0] != there[1] == [found.trained.seq]
    assert play.serving == 2
    proven(play.store)


def test_of_two_trainings_of_one_version_one_counts() -> None:
    """Another process, which trained it too, was faster by a moment: its record stands, and our checkpoint goes."""
    play = Play()
    other = Trained(3, 1, 100, 1, 1, 0, 1.0, Duel(), ("by another process",))

    def note(time: int) -> None:
        if time == 1:
            versions.note_trained(play.store, SECOND, other)

    play.acts[12] = lambda play: at_the_record(play, note)

    play.run()

    assert versions.read(play.store, SECOND).trained == other
    assert list(checkpoint.complete(play.store, SECOND)) == []


def test_an_orderly_end_is_no_failed_attempt() -> None:
    """Upgrades in the middle of a training, however many: it begins anew in the next process, and is not given up."""
    play = Play({12: ask_slowly}, rows=1200).run()
    for rows in (1600, 2000, 2400):
        play.rig.service.close()
        assert versions.read(play.store, SECOND).attempts == 0
        play = Play({1: slow}, play.store, rows=rows).run()
        assert versions.read(play.store, SECOND).open
    play.rig.service.close()

    assert Play({}, play.store, rows=2800).run().serving == 2


def test_an_end_that_nobody_ordered_is_one() -> None:
    """A service that was killed while a version trained may have been killed by that."""
    play = Play({12: ask_slowly}, rows=1200).run()

    assert versions.read(play.store, SECOND).attempts == 1


def slow(play: Play) -> None:
    """Its trainings do not come to an end."""
    play.rig.trainer.poll = lambda: Progress(0.5, "epoch 1")  # type: ignore[method-assign]


def ask_slowly(play: Play) -> None:
    slow(play)
    ask(play)


@dataclass
class Drifting(Play):
    """A stream whose loss is far from its mean from turn 12 on."""

    policy: DriftPolicy = field(default_factory=lambda: DriftPolicy(4.0, 10.0, 3600.0))

    def __post_init__(self) -> None:
        version = versions.read_serving(self.store, LAYOUT).serving.version
        self.rig = Rig(
            self.store, clicks(self.rows), rhythm=RHYTHM_KEEPING, version=version, trains=True, drift=self.policy
        )
        learned = self.rig.service.figures.learned

        def drifted(report: LearnReport) -> None:
            learned(replace(report, drift={"loss": 7.0 if self.turns > 12 else 0.0}))

        self.rig.service.figures.learned = drifted  # type: ignore[method-assign]


def test_a_drift_that_lasts_asks_for_a_retrain() -> None:
    """It is asked for once, says why and by whom, and is a retrain like any other."""
    play = Drifting().run()
    found = versions.read(play.store, SECOND)

    assert versions.numbers(play.store, LAYOUT) == [1, 2]
    assert found.request is not None
    assert found.request.by == "drift"
    assert found.request.reason.startswith("drift: loss at +7.0 standard deviations")
    assert play.serving == 2
    proven(play.store)


def test_the_pause_is_counted_from_the_last_one_whoever_asked() -> None:
    """By the record in the store, so that a restart does not forget it; after the pause it is asked for again."""
    pause = DriftPolicy(4.0, 10.0, 60.0)
    asked = datetime.fromtimestamp(FakeClock().now(), UTC).isoformat()
    by_hand = {5: lambda play: versions.ask(play.store, LAYOUT, Request("key", asked=asked))}
    once, twice = Drifting(dict(by_hand), rows=1700), Drifting(dict(by_hand), rows=4000, policy=pause)

    assert versions.numbers(once.run().store, LAYOUT) == [1, 2]
    assert len(versions.numbers(twice.run().store, LAYOUT)) > 2


def test_no_retrain_by_drift_that_could_not_serve() -> None:
    """While a version is pinned nothing would take over; and by default nothing is asked for."""
    for play in (Drifting({5: serve(1, pinned=True)}), Drifting(policy=DriftPolicy())):
        assert versions.numbers(play.run().store, LAYOUT) == [1]


def test_a_training_that_always_dies_is_given_up() -> None:
    """Else it would take the machine's memory again and again, for ever."""

    def ask_and_kill(play: Play) -> None:
        play.rig.trainer.dies = 100
        ask(play)

    play = Play({12: ask_and_kill}).run()
    found = versions.read(play.store, SECOND)

    assert play.serving == 1
    assert found.result is not None
    assert found.result.outcome == "failed"
    assert "ended 3 times" in found.result.why
    assert play.rig.meter.value("headrace_retrain_last_outcome", outcome="failed") == 1
    again = Play({}, play.store, rows=1300).run()
    assert again.rig.meter.value("headrace_retrain_last_outcome", outcome="failed") == 1  # a restart is no remedy
    assert versions.ask(play.store, LAYOUT, Request("another")).number == 3


def test_a_training_that_cannot_be_fails_with_its_reason() -> None:
    """--since leaves nothing: that will not pass."""
    request = Request("key", since_ms=4_000_000_000_000)
    play = Play({12: lambda play: versions.ask(play.store, LAYOUT, request)}).run()
    found = versions.read(play.store, SECOND)

    assert found.result is not None
    assert found.result.outcome == "failed"
    assert "not one click to train from" in found.result.why
    assert found.attempts == 1


def test_only_clicks_since_then_are_learned() -> None:
    request = Request("key", since_ms=(1_600_000_000 + 300) * 1000)
    play = Play({30: lambda play: versions.ask(play.store, LAYOUT, request)}).run()
    found = versions.read(play.store, SECOND)

    assert found.trained is not None
    whole = (found.trained.seq + 1) * 40
    assert 0 < found.trained.clicks <= whole - 300


def test_a_training_can_be_cancelled() -> None:
    """Somebody closes it in the store: the process is ended, nothing is promoted, another may be asked for."""

    def cancel(play: Play) -> None:
        versions.close(play.store, SECOND, Result("cancelled", "by hand"))

    def ask_slowly(play: Play) -> None:
        play.rig.trainer.poll = lambda: Progress(0.5, "epoch 1")  # type: ignore[method-assign]
        ask(play)

    play = Play({12: ask_slowly, 30: cancel}).run()

    assert play.serving == 1
    assert play.rig.service.keeper is not None
    assert not play.rig.service.keeper.busy
    assert play.rig.meter.value("headrace_retrain_last_outcome", outcome="cancelled") == 1
    assert versions.ask(play.store, LAYOUT, Request("another")).number == 3


def test_cancelled_at_the_last_moment_it_does_not_serve() -> None:
    """Somebody closes it while its last checkpoint is written: what they said stands."""

    def ask_and_cancel(play: Play) -> None:
        trainer, poll = play.rig.trainer, play.rig.trainer.poll

        def cancelled() -> Any:
            versions.close(play.store, SECOND, Result("cancelled", "by hand"))
            return poll()

        trainer.poll = cancelled  # type: ignore[method-assign]
        ask(play)

    play = Play({12: ask_and_cancel}).run()

    assert play.serving == 1
    assert play.rig.meter.value("headrace_retrain_last_outcome", outcome="cancelled") == 1
    assert versions.read_serving(play.store, LAYOUT).serving == Serving()


def test_a_bug_in_a_training_is_not_the_streams() -> None:
    """Whatever goes wrong beside the stream, the stream goes on; the record says what it was."""

    def ask_for_trouble(play: Play) -> None:
        def poll() -> Any:
            raise ZeroDivisionError("nobody has thought of it")

        play.rig.trainer.poll = poll  # type: ignore[method-assign]
        ask(play)

    play = Play({12: ask_for_trouble}).run()
    found = versions.read(play.store, SECOND)

    assert found.result is not None
    assert found.result.outcome == "failed"
    assert "nobody has thought of it" in found.result.why
    assert play.rig.meter.value("headrace_events_total", outcome="trained") == 1200


def test_a_bug_in_a_version_is_not_the_streams() -> None:
    """The same for one that is brought level."""
    play = Play({12: ask}, rows=1600)

    def learners(_layout: Layout) -> InlineLearner:
        raise ZeroDivisionError("nobody has thought of it")

    object.__setattr__(play.rig.service._doors, "learners", learners)
    play.run()

    assert play.serving == 1
    assert play.rig.meter.value("headrace_version_failures_total") >= 1
    assert play.rig.meter.value("headrace_events_total", outcome="trained") == 1600


@pytest.mark.parametrize("call", range(8))
def test_a_service_killed_while_it_retrains_goes_on(call: int) -> None:
    """At whichever call to the store about the versions it dies: the next process ends what was begun, once."""
    store, seen = MemoryStore(), 0

    def trouble(name: str, key: str) -> None:
        nonlocal seen
        if "/version/" in key or key.endswith("SERVING.json"):
            seen += (name == "put") * 3 + 1
            if seen > 2 + call * 7:
                store.trouble = lambda _name, _key: None
                raise KeyboardInterrupt

    def ask_and_arm(play: Play) -> None:
        ask(play)
        store.trouble = trouble

    first = Play({10: ask_and_arm}, store, rows=700)
    try:
        first.run()
    except KeyboardInterrupt:
        first.rig.service.close()
    second = Play({}, store, rows=1500).run()
    found = versions.read(store, SECOND)

    assert found.result is not None
    assert (found.result.outcome, second.serving) == ("promoted", 2)
    proven(store)


def test_a_version_that_cannot_be_brought_level_leaves_the_live_one() -> None:
    """Its learner does not start: the stream goes on, the alarm counts, and it is tried again later."""
    play = Play({12: ask}, rows=3000)
    another, begun = play.rig.service._doors.learners, []
    assert another is not None

    class Stillborn(InlineLearner):
        def start(self) -> None:
            begun.append(self)
            raise LearnerLost("no CPU")

    def learners(layout: Layout) -> InlineLearner:
        if len(begun) < 5:
            return Stillborn(replace(play.rig.config, layout=layout))
        return another(layout)  # type: ignore[return-value]

    object.__setattr__(play.rig.service._doors, "learners", learners)
    play.run()

    assert play.rig.meter.value("headrace_version_failures_total") == 1
    assert play.serving == 2
    assert play.rig.service.learner.status()["seq"] == play.rig.service.figures.seq


def test_another_writer_is_noticed_while_the_stream_is_held() -> None:
    """A version closes the gap and finds a plan that is not ours: this process has been replaced, and stops."""
    store = MemoryStore()
    Play({12: ask}, store, rows=800).run()
    play = Play({3: serve(1)}, store, rows=2000)

    def overtake(learner: InlineLearner) -> InlineLearner:
        Play({}, store, rows=2000).rig.service.open()
        return learner

    another = play.rig.service._doors.learners
    assert another is not None
    object.__setattr__(play.rig.service._doors, "learners", lambda layout: overtake(another(layout)))  # type: ignore[arg-type]

    with pytest.raises(Fenced, match="has been replaced"):
        play.run()


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    """The stream does not stop because nobody can say which version is to serve."""
    play = Play({12: ask})
    down = iter([True] * 6)

    def trouble(call: str, key: str) -> None:
        if key.endswith("SERVING.json") and next(down, False):
            raise StoreUnavailable("connection refused")

    play.store.trouble = trouble
    play.run()

    assert play.serving == 2


def test_a_serving_version_without_a_checkpoint_stops_the_start() -> None:
    """It cannot be made again from the plans alone, as the first one could: the sentence says what can be done."""
    store = MemoryStore()
    Play({12: ask}, store).run()
    for key in [key for key in store.objects if key.startswith(SECOND.checkpoints)]:
        store.delete(key)

    with pytest.raises(StoreRefused, match=r"version 2 of lineage main has no checkpoint .*headrace models rollback"):
        Play({}, store, rows=1300).run()
    roll_back(Play({}, store))
    assert Play({}, store, rows=1300).run().serving == 1


def test_old_versions_are_tidied_away() -> None:
    """The newest three that are complete, the one that serves and the one before it keep their checkpoints; records
    stay for all. Trainings that failed use up none of the three, and what they left goes.
    """
    store = MemoryStore()
    for number in range(2, 10):
        place, failed = LAYOUT.of_version(number), number in {5, 8, 9}
        versions.ask(store, LAYOUT, Request(str(number)))
        store.put(place.manifest(5), b"{}")
        store.put(f"{place.checkpoint(5)}users.0.safetensors", b"x")
        if not failed:
            versions.note_trained(store, place, Trained(5, 1, 1, 1, 1, 0, 1.0, Duel()))
        versions.close(store, place, Result("failed" if failed else "kept", "worse"))
    play = Play({10: serve(1)}, store, rows=1200).run()

    left = [number for number in range(2, 10) if any(f"/{number:06d}/checkpoint" in key for key in play.store.objects)]
    assert left == [4, 6, 7]
    assert list(checkpoint.complete(store, LAYOUT)) != []
    assert versions.numbers(store, LAYOUT) == list(range(1, 10))


DUELS = {
    "better": (Duel(100, 0.11, 0.3, 0.10, 0.3), True),
    "as good": (Duel(100, 0.10, 0.3, 0.10, 0.3), True),
    "within the margin": (Duel(100, 0.0981, 0.3, 0.10, 0.3), True),
    "below it": (Duel(100, 0.0979, 0.3, 0.10, 0.3), False),
    "too few clicks": (Duel(99, 0.5, 0.3, 0.10, 0.3), False),
    "nan": (Duel(100, float("nan"), 0.3, 0.10, 0.3), False),
    "nothing to beat": (Duel(100, 0.0, 0.0, 0.0, 0.0), True),
}


@pytest.mark.parametrize(("duel", "good"), DUELS.values(), ids=DUELS)
def test_what_may_take_over(duel: Duel, good: bool) -> None:  # noqa: FBT001 - a test's parameter
    """No worse than the live one by more than the margin, over enough clicks; the words say both."""
    verdict, why = RetrainPolicy(0.02, 100).judge(duel)

    assert verdict is good
    assert f"{duel.clicks}" in why
