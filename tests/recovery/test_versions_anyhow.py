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
        self.word = ""

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
        play = Play({}, self.store, rows=self.rows).run()
        proven(self.store)
        status = play.rig.service.learner.status()
        assert play.rig.service.opened is not None
        assert status["seq"] == play.rig.service.figures.seq
        self._check_last_word()

    @rule(batches=st.integers(4, 16), calls=st.integers(1, 500))
    def run_and_die(self, batches: int, calls: int) -> None:
        """A process that dies at some call to the store, before it or after."""
        self.rows += batches * 40
        play = Play({}, self.store, rows=self.rows)
        left = calls

        def count(_call: str, _key: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        self.store.trouble, self.store.aftermath = (count, _nothing) if calls % 2 else (_nothing, count)
        with suppress(Killed):
            play.run()
        self.store.trouble = self.store.aftermath = _nothing
        play.rig.service.close()

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
        if not serving.since or serving.since.startswith("order"):
            return
        trained = versions.read(self.store, LAYOUT.of_version(serving.version)).trained
        assert trained is not None
        assert trained.against_since is not None
        before = trained.against_since
        assert before or not self.word, self.word
        assert not before.startswith("order") or before == self.word, (before, self.word)

    def _change(self, change: Callable[[Serving], Serving]) -> None:
        known = versions.read_serving(self.store, LAYOUT)
        wanted = change(known.serving)
        versions.write_serving(self.store, LAYOUT, wanted, known)
        if wanted.version != known.serving.version:
            self.word = wanted.since


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
