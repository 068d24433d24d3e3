"""The circuit breaker: pure decisions first, then a whole service whose tracker breaks and is mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stream import lineage, plans, resume
from stream.batching import CutPolicy
from stream.breaker import Breaker, BreakerPolicy, Weighed, weigh
from stream.cli import app
from stream.errors import ConfigError, Fenced, StoreRefused, StoreUnavailable
from stream.events import Decoded, Reject
from stream.gate import LISTEN_SECONDS, PROBE_SECONDS
from stream.policy import CheckpointPolicy
from stream.service import Doors, Orders, Service
from stream.store.directory import DirectoryStore
from stream.verify.walk import prove
from tests.fakes import InlineExecutor, MemoryStore
from tests.rigs import LAYOUT, RHYTHM, Rig, folded
from tests.tape import Message, Tape

POLICY = BreakerPolicy(share=0.5, messages=100)


def decoded(good: int, bad: int, first: int = 0, partition: int = 0) -> Decoded:
    """`good` clicks, then `bad` rejects."""
    ids = [str(number) for number in range(good)]
    rejects = [Reject(partition, first + good + number, "not_json", "", b"") for number in range(bad)]
    return Decoded(partition, np.arange(first, first + good), ids, ids, ids, np.zeros(good, np.int64), None, rejects)


counts = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(counts, max_size=40), st.integers(1, 150), st.floats(0.0, 1.0))
def test_opens_exactly_when_recent_messages_are_bad(
    batches: list[tuple[int, int]], messages: int, share: float
) -> None:
    """It opens at the first batch with which more than `share` of the least number of whole batches that make up
    `messages` was rejected; never sooner, never for fewer messages; a share of 0 never opens.
    """
    breaker = Breaker(BreakerPolicy(share, messages))
    seen: list[tuple[int, int]] = []
    for good, bad in batches:
        seen.append((good, bad))
        total = rejected = 0
        for each in reversed(seen):
            if total >= messages:
                break
            total, rejected = total + sum(each), rejected + each[1]
        expected = bool(share) and total >= messages and rejected / total > share

        assert breaker.admits([decoded(good, bad)]) == (not expected)
        assert breaker.is_open == expected
        if expected:
            assert breaker.recent == Weighed(total, rejected)
            return


@given(st.lists(counts, max_size=20))
def test_memory_is_bounded(batches: list[tuple[int, int]]) -> None:
    """It remembers no more batches than make up its messages, and always their exact sum."""
    breaker = Breaker(replace(POLICY, share=1.0))
    for good, bad in batches:
        breaker.admits([decoded(good, bad)])

        assert len(breaker._recent) <= POLICY.messages + 1
        assert sum(breaker._recent, Weighed(0, 0)) == breaker.recent


@given(counts, st.integers(0, 120), st.integers(0, 5))
def test_forgiven_messages_do_not_count(count: tuple[int, int], first: int, partition: int) -> None:
    """Only offsets from the forgiven one on are weighed, and only those of the partition it is of."""
    good, bad = count
    found = weigh([decoded(good, bad, partition=partition)], {partition: first, partition + 1: 10**9})

    assert found == Weighed(max(0, good + bad - first), max(0, min(bad, good + bad - first)))


def test_closing_forgives_and_forgets() -> None:
    """After closing, what is known to be bad passes, and does not open it again; what comes after it may."""
    breaker = Breaker(POLICY)
    assert not breaker.admits([decoded(0, 100)])
    breaker.close({0: 500})

    assert breaker.admits([decoded(0, 100, first=100)])
    assert breaker.admits([decoded(0, 100, first=400)])
    assert not breaker.admits([decoded(0, 100, first=500)])


@pytest.mark.parametrize(
    ("good", "bad", "healthy"), [(75, 25, True), (74, 26, False), (10, 0, True), (9, 0, False), (0, 0, False)]
)
def test_probe_wants_enough_and_well_below_the_threshold(good: int, bad: int, healthy: bool) -> None:  # noqa: FBT001
    """A probe that is just below the threshold would open the breaker again at once; a handful says nothing."""
    assert Breaker(POLICY).is_healthy([decoded(good, bad)]) == healthy


def click(number: int) -> bytes:
    return json.dumps(
        {"user_id": f"u{number % 7}", "product_id": f"i{number * number % 30}", "timestamp": 1_600_000_000 + number}
    ).encode()


def broken(number: int) -> bytes:
    """What a tracker sends whose new release names the user otherwise."""
    return json.dumps({"uid": f"u{number % 7}", "product_id": "i1"}).encode()


def traffic(seconds: int, rate: int, is_broken: Callable[[int], bool]) -> list[list[Message]]:
    """`rate` messages a second in two partitions; `is_broken(number of the message)`."""
    rows: list[Message] = [
        (place / rate, broken(place) if is_broken(place) else click(place)) for place in range(seconds * rate)
    ]
    return [rows[0::2], rows[1::2]]


class Watched:
    """A service over a tape, turned second by second."""

    def __init__(
        self, messages: Sequence[Sequence[Message]], store: MemoryStore | None = None, at: float = 0.0, **policy: Any
    ) -> None:
        self.store = store or MemoryStore()
        self.rig = Rig(self.store, [])
        self.clock = self.rig.clock
        self.clock.advance(at)
        self.tape = Tape(self.clock, messages)
        rhythm = replace(
            RHYTHM,
            cut=CutPolicy(rows=400, age_seconds=20.0),
            checkpoint=CheckpointPolicy(batches=20, seconds=1e9, kept=2, grace_seconds=1e9),
            poll_events=400,
            breaker=BreakerPolicy(**{"share": 0.5, "messages": 100, **policy}),
        )
        rig = self.rig
        doors = Doors(self.tape, rig.letters, self.store, rig.learner, rig.clock, rig.meter)
        self.service = Service(doors, Orders(LAYOUT, "clicks", rhythm=rhythm, window=1000), lambda *_: InlineExecutor())
        self.service.open()
        loop = self.service._loop
        assert loop is not None
        self.loop = loop
        self.log: list[tuple[float, bool]] = []

    @property
    def is_open(self) -> bool:
        return self.loop._crew.gate.shut

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, and note when the breaker opens and closes."""
        until = self.clock.ticks + seconds
        while self.clock.ticks < until:
            self.clock.advance(step)
            for _ in range(4):
                self.loop.turn()
            self.service._beat()
            if self.is_open != (self.log[-1][1] if self.log else False):
                self.log.append((self.clock.ticks, self.is_open))

    def finish(self) -> None:
        """Let it learn all that is there."""
        self.tape.over = True
        self.service.run(lambda: self.clock.advance(1.0))
        self.service.close()

    def outcomes(self) -> tuple[int, int]:
        """Trained and rejected, as the verifier counts them; no breach."""
        verdict = prove(self.store, LAYOUT.prefix, LAYOUT.lineage)
        assert verdict.breaches == 0, verdict.first_breach
        return verdict.trained, verdict.rejected


def test_an_hour_of_which_half_is_poison() -> None:
    """Item 22: it opens within seconds of the broken release, commits nothing meanwhile, and closes by itself once the
    tracker is mended. Every offset is accounted for, and the model is the one that the clicks alone make.
    """
    watched = Watched(traffic(3600, 5, lambda place: 900 * 5 <= place < 2700 * 5))
    watched.pass_time(1200)
    learned = len(list(watched.store.list(LAYOUT.plans)))
    watched.pass_time(1200)
    during = watched.service.health()
    gauge = [watched.rig.meter.value("headrace_breaker_open")]
    assert len(list(watched.store.list(LAYOUT.plans))) == learned  # nothing was committed
    watched.pass_time(1200)
    gauge.append(watched.rig.meter.value("headrace_breaker_open"))
    watched.finish()

    (opened, _), (closed, _) = watched.log
    assert gauge == [1.0, 0.0]
    assert 900 < opened < 960
    assert 2700 < closed < 2700 + 100 + 2 * PROBE_SECONDS
    assert not during.ready
    assert during.live
    assert "circuit breaker is open" in during.reasons[0]
    assert watched.outcomes() == (9000, 9000)
    assert len(watched.rig.letters.letters) == 9000
    assert watched.rig.meter.value("headrace_breaker_openings_total") == 1
    assert watched.rig.meter.value("headrace_events_total", outcome="rejected") == 9000


def test_nothing_is_kept_in_memory_while_it_is_open() -> None:
    """Back-pressure is the source's: whatever arrives meanwhile, the buffer is empty and little is read."""
    watched = Watched(traffic(600, 20, lambda place: place >= 200))
    watched.pass_time(300)
    before = watched.tape.delivered
    watched.pass_time(300)

    assert watched.is_open
    assert watched.loop._batcher.bytes == 0
    assert watched.tape.delivered - before <= (300 / PROBE_SECONDS + 1) * 100
    assert watched.loop.idle


def test_few_bad_messages_do_not_open_it() -> None:
    """Up to the threshold it stays closed, and so it does for a small stream that is nothing but bad."""
    many = Watched(traffic(300, 5, lambda place: place % 5 in {1, 2}))
    small = Watched(traffic(19, 5, lambda _: True))
    for watched in (many, small):
        watched.pass_time(300)
        watched.finish()

    assert many.log == small.log == []
    assert many.outcomes() == (900, 600)
    assert small.outcomes() == (0, 95)


def test_share_of_nothing_turns_it_off() -> None:
    """A share of 0 sets every bad message aside, however many."""
    watched = Watched(traffic(300, 5, lambda _: True), share=0.0)
    watched.pass_time(300)
    watched.finish()

    assert watched.log == []
    assert watched.outcomes() == (0, 1500)


def test_resumed_by_hand() -> None:
    """`headrace resume` closes it within seconds: what is bad so far is set aside, what comes may open it again."""
    watched = Watched(traffic(600, 5, lambda place: place >= 500))
    resume.say(watched.store, LAYOUT)  # before it opens: of no use to anybody
    watched.pass_time(300)
    assert watched.log == [(watched.log[0][0], True)]
    resume.say(watched.store, LAYOUT)
    said = watched.clock.ticks
    watched.pass_time(LISTEN_SECONDS + 2)

    assert not watched.is_open
    assert watched.log[1][0] <= said + LISTEN_SECONDS + 2
    watched.pass_time(100)
    assert watched.is_open
    assert len(watched.rig.letters.letters) >= 1000 - 400  # all but the batch that it opened on again
    trained, rejected = watched.outcomes()
    assert (trained, rejected) == (500, len(watched.rig.letters.letters))


def test_each_word_of_the_command_is_a_new_one(tmp_path: Path) -> None:
    """`headrace resume` writes what a service listens for; said again, it is another word. No store, no word."""
    store = DirectoryStore(tmp_path / "store")
    lineage.resolve(store, LAYOUT.prefix, LAYOUT.lineage)
    etags = []
    for _ in range(2):
        done = CliRunner().invoke(app, ["resume", "--store", str(tmp_path / "store")], catch_exceptions=False)
        assert done.exit_code == 0
        etags.append(store.head(LAYOUT.resume).etag)

    assert etags[0] != etags[1]
    with pytest.raises(ConfigError, match="there is no folder"):
        CliRunner().invoke(app, ["resume", "--store", str(tmp_path / "none")], catch_exceptions=False)


def test_restarted_while_open() -> None:
    """A stop while it is open ends well and leaves the offsets; the next process finds the bad messages and opens."""
    messages = traffic(600, 5, lambda place: place >= 500)
    first = Watched(messages)
    first.pass_time(300)
    assert first.is_open
    first.service.stop()
    first.service.run()
    first.service.close()
    before = first.outcomes()
    second = Watched(messages, store=first.store, at=300.0)
    second.pass_time(10)

    assert before[0] == 500
    assert before[1] < 200
    assert second.is_open
    assert second.outcomes()[0] == 500


def test_trouble_while_open_is_waited_for() -> None:
    """Neither a broker nor a store that does not answer ends the waiting, and neither loses the word to resume."""
    watched = Watched(traffic(900, 5, lambda place: 500 <= place < 1500))
    watched.pass_time(200)
    assert watched.is_open
    watched.tape.refuses = True

    def down(call: str, key: str) -> None:
        if key == LAYOUT.resume:
            raise StoreUnavailable("connection refused")

    watched.store.trouble = down
    watched.pass_time(300)
    assert watched.is_open
    watched.store.trouble = lambda _call, _key: None
    resume.say(watched.store, LAYOUT)
    watched.pass_time(10)
    assert watched.is_open  # what may be forgiven is not known without the broker
    watched.tape.refuses = False
    watched.pass_time(2 * PROBE_SECONDS)
    assert not watched.is_open
    watched.pass_time(400)
    watched.finish()

    assert watched.outcomes() == (3500, 1000)


def test_backlog_of_old_poison_passes() -> None:
    """Poison of the past, behind which the topic is healthy again, holds nothing up for longer than a probe."""
    watched = Watched(traffic(600, 5, lambda place: 500 <= place < 1500))
    watched.clock.advance(600.0)
    watched.pass_time(PROBE_SECONDS + 10)
    watched.finish()

    assert [state for _, state in watched.log] == [True, False]
    assert watched.outcomes() == (2000, 1000)


def test_replaced_while_open() -> None:
    """A service that waits with an open breaker finds out, too, that another one has taken its lineage over."""
    messages = traffic(600, 5, lambda place: place >= 200)
    first = Watched(messages)
    first.pass_time(200)
    assert first.is_open
    Watched(messages, store=first.store, at=200.0)

    with pytest.raises(Fenced, match="replaced"):
        first.pass_time(60)


def test_the_model_is_the_fold_of_its_plans() -> None:
    """Opening, closing and reading again change nothing of what a clean fold over the plans gives."""
    watched = Watched(traffic(600, 5, lambda place: 500 <= place < 1500))
    watched.pass_time(600)
    watched.tape.over = True
    watched.service.run(lambda: watched.clock.advance(1.0))

    assert watched.rig.state() == folded(watched.store).state_sha256()
    assert sum(plans.count(each)[0] for plan in stored(watched.store) for each in plan.ranges) == 2000


def stored(store: MemoryStore) -> list[Any]:
    return [plans.decode(store.get(info.key).data, info.key) for info in store.list(LAYOUT.plans)]


def test_a_word_that_cannot_be_read_is_no_word() -> None:
    """A store that refuses the look is asked again: the breaker stays open, and the service alive."""
    watched = Watched(traffic(300, 5, lambda place: place >= 200))

    def refused(call: str, key: str) -> None:
        if key == LAYOUT.resume:
            raise StoreRefused("no access")

    watched.store.trouble = refused
    watched.pass_time(200)

    assert watched.is_open
    assert watched.service.health().live
