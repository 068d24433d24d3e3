"""Retrains, promotions, rollbacks, pins and kills in any order: the promises hold after each of them.

Hypothesis chooses the order, and where the process dies. Each run is a new process over the same store and a source
that has grown. Afterwards `headrace verify` must find nothing, each version must be what its first checkpoint and the
plans give, and the one that serves must have learned the newest plan.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from stream import checkpoint, versions
from stream.errors import ConfigError
from stream.versions import Request, Result, RetrainRunning, Serving
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT
from tests.stream.test_retraining import Play, proven


class Killed(BaseException):
    """The process died here."""


class Anyhow(RuleBasedStateMachine):
    """What an operator and a machine can do to a lineage."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.rows = 0
        self.asked = 0
        self.orders = 0
        self.runs = 0
        self.seen: set[str] = set()
        self.overruled: set[str] = set()
        """When versions were chosen to serve: all that were looked at, and those from before the last order."""

    @initialize()
    def begin(self) -> None:
        """Two versions, so that there is something to choose between."""
        self.run(8)
        self.ask()
        self.run(14)
        assert versions.is_complete(self.store, LAYOUT.of_version(2))

    @rule(batches=st.integers(4, 16))
    def run(self, batches: int) -> None:
        """A process that ends in order: all that was published is learned, by the version that was to serve."""
        self.rows += batches * 40
        play = self._play().run()
        proven(self.store)
        status = play.rig.service.learner.status()
        assert play.rig.service.opened is not None
        assert status["seq"] == play.rig.service.figures.seq
        self._check_last_word()

    @rule(batches=st.integers(4, 16), calls=st.integers(1, 500))
    def run_and_die(self, batches: int, calls: int) -> None:
        """A process that dies at some call to the store, before it or after."""
        self.rows += batches * 40
        play = self._play()
        left = calls

        def count(_call: str, _key: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        self._run_until(play, count, after=not calls % 2)

    @rule(record=st.sampled_from(["trained.json", "SERVING.json", "result.json"]), after=st.booleans())
    def die_while_it_is_recorded(self, record: str, *, after: bool) -> None:
        """A process that dies as a retrain comes to its end, and somebody who then lets another version serve."""
        self.ask()
        self.rows += 14 * 40

        def at_record(call: str, key: str) -> None:
            if call == "put" and key.endswith(record):
                raise Killed

        self._run_until(self._play(), at_record, after=after)
        self.roll_back()
        self.run(14)

    @rule()
    def ask(self) -> None:
        self.asked += 1
        with suppress(RetrainRunning):
            versions.ask(self.store, LAYOUT, Request(f"key {self.asked}"))

    @rule()
    def cancel(self) -> None:
        newest = versions.newest(self.store, LAYOUT)
        if newest.open:
            versions.close(self.store, LAYOUT.of_version(newest.number), Result("cancelled", "by hand"))

    @rule(choice=st.integers(0, 10), pin=st.booleans())
    @precondition(lambda self: self.asked)
    def promote(self, choice: int, *, pin: bool) -> None:
        able = [
            number
            for number in versions.numbers(self.store, LAYOUT)
            if any(checkpoint.complete(self.store, LAYOUT.of_version(number)))
        ]
        version = able[choice % len(able)]
        self._change(lambda now: versions.pinned(versions.promoted(now, version, self._order(), "by hand"), pin=pin))

    @rule()
    @precondition(lambda self: self.asked)
    def roll_back(self) -> None:
        with suppress(ConfigError):  # there is none to go back to
            self._change(lambda now: versions.rolled_back(now, self._order(), "by hand"))

    def teardown(self) -> None:
        self.run(4)

    def _order(self) -> str:
        self.orders += 1
        return f"order {self.orders}"

    def _check_last_word(self) -> None:
        """What serves was ordered last, or promoted by a training that began after the last order."""
        serving = versions.read_serving(self.store, LAYOUT).serving
        self.seen.add(serving.since)
        if serving.since and not serving.since.startswith("order"):
            trained = versions.read(self.store, LAYOUT.of_version(serving.version)).trained
            assert trained is not None
            assert trained.against_since not in self.overruled

    def _play(self) -> Play:
        """The next process, on another day, so that no two promotions have one time."""
        self.runs += 1
        play = Play({}, self.store, rows=self.rows)
        play.rig.clock.wall += self.runs * 86_400.0
        return play

    def _run_until(self, play: Play, death: Callable[[str, str], None], *, after: bool) -> None:
        """`death` is asked about each call to the store, before it or after."""
        self.store.trouble, self.store.aftermath = (_nothing, death) if after else (death, _nothing)
        with suppress(Killed):
            play.run()
        self.store.trouble = self.store.aftermath = _nothing
        play.rig.service.close()

    def _change(self, change: Callable[[Serving], Serving]) -> None:
        known = versions.read_serving(self.store, LAYOUT)
        wanted = change(known.serving)
        versions.write_serving(self.store, LAYOUT, wanted, known)
        if wanted.version != known.serving.version:
            self.overruled |= self.seen | {known.serving.since}


def _nothing(_call: str, _key: str) -> None:
    """All is well."""


TestAnyhow = Anyhow.TestCase
TestAnyhow.settings = settings(
    max_examples=5,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # shrinking takes longer than reading the steps
)
