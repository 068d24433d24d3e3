"""Learning that diverges: found before anybody is shown it, tried once more, then the batch is set aside, for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from model import health
from model.batch import Batch, Learned
from model.learner import Learner
from stream import checkpoint
from stream.aside import Asides
from stream.errors import Diverged, LearnerFailed
from stream.events import PlannedBatch
from stream.history import Archive
from stream.host import LearnerHost
from stream.metrics import PrometheusMeter
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff
from stream.recovery import replay
from stream.verify.walk import prove
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT, MODEL, Rig, Row, clicks, folded


def rows() -> list[Row]:
    """Clicks 160 to 199 are plan 5, whose product breaks the model: the fence is plan 0."""
    poison: Row = {"user_id": "u1", "product_id": "poison", "timestamp": 1_600_000_170}
    return [*clicks(170), poison, *clicks(320)[171:]]


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`sick(times)`: so many batches with the product `poison` leave a weight that is no number; the others none."""
    learn, left = Learner.learn, [0]

    def learn_and_break(self: Learner, batch: Batch, rate: float = 1.0) -> Learned:
        learned = learn(self, batch, rate)
        if "poison" in batch.items.tolist() and left[0]:
            left[0] -= 1
            row = self.items.index["poison"]
            self.items["vector"][row, 0] = np.nan
        return learned

    def say(times: int) -> None:
        left[0] = times

    monkeypatch.setattr(Learner, "learn", learn_and_break)
    return say


def test_poisoned_batch_is_set_aside(sick: Callable[[int], None]) -> None:
    """The stream goes on, everything else is learned, the record says why, and every click still has one outcome."""
    sick(99)
    store = MemoryStore()
    rig = Rig(store, rows(), partitions=1)
    rig.run()
    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage)
    record = msgspec.json.decode(store.get(LAYOUT.aside(5)).data)

    assert (record["seq"], "vector is nan" in record["reason"]) == (5, True)
    assert rig.meter.value("headrace_batches_set_aside_total") == 1
    assert rig.meter.value("headrace_events_total", outcome="aside") == 40
    assert rig.meter.value("headrace_events_total", outcome="trained") == 280
    assert (verdict.first_breach, verdict.trained, verdict.aside) == (None, 320, 40)
    assert rig.state() == folded_without(store, 5).state_sha256()


def test_next_process_comes_to_the_same_decision(sick: Callable[[int], None]) -> None:
    """Without a checkpoint behind the poison, a restart meets it again, and sets it aside again, by itself."""
    sick(99)
    store = MemoryStore()
    first = Rig(store, rows(), partitions=1)
    first.run()
    for _, key in list(checkpoint.complete(store, LAYOUT)):
        store.delete(key)
    store.delete(LAYOUT.aside(5))
    second = Rig(store, rows(), partitions=1)
    second.run()

    assert store.get(LAYOUT.aside(5)).data
    assert second.learner.starts == 3
    assert second.state() == folded_without(store, 5).state_sha256()


def test_once_is_no_reason(sick: Callable[[int], None]) -> None:
    """What diverges once and not again, from a state restored anew, was this machine's fault: nothing is set aside."""
    sick(1)
    store = MemoryStore()
    rig = Rig(store, rows(), partitions=1)
    rig.run()

    assert list(store.list(LAYOUT.asides)) == []
    assert rig.meter.value("headrace_events_total", outcome="trained") == 320
    assert rig.meter.value("headrace_learner_restarts_total") == 1
    assert rig.state() == folded(store).state_sha256()


def test_suspicion_ends_with_success() -> None:
    """Diverged, learned well, and diverged again: two faults of this machine, and still no reason."""
    store = MemoryStore()
    asides = Asides(store, LAYOUT, Patience(Backoff(0.0, 0.0), lambda _: False, PrometheusMeter()), PrometheusMeter())
    asides.diverged(Diverged(5, "nan"))
    asides.learned(5)
    asides.diverged(Diverged(5, "nan"))
    assert asides.reasons == {}

    asides.diverged(Diverged(5, "nan"))
    assert asides.reasons == {5: "nan"}


def test_poison_upon_poison(sick: Callable[[int], None]) -> None:
    """More poisoned batches in a row than a learner may die in a row: each is set aside, and the stream goes on."""
    sick(10**6)
    store = MemoryStore()
    every = [{**row, "product_id": "poison"} if place % 40 == 7 else row for place, row in enumerate(clicks(240))]  # type: ignore[dict-item]
    rig = Rig(store, [*every, *clicks(400)[240:]], partitions=1)
    rig.run()

    assert len(list(store.list(LAYOUT.asides))) == 6
    assert rig.meter.value("headrace_events_total", outcome="trained") == 160


def test_diverged_state_is_given_up(sick: Callable[[int], None]) -> None:
    """What diverged is neither learned on, nor checkpointed, nor shown; after `restore` the host is as good as new."""
    sick(0)
    store = MemoryStore()
    Rig(store, rows(), partitions=1).run()
    sick(1)
    host = LearnerHost(Rig(store, []).config)
    planned = list(plans_of(store))
    for each in planned[:5]:
        host.apply(each)
    shown = host.recommend("u1", 5)
    with pytest.raises(Diverged, match="plan 5"):
        host.apply(planned[5])

    with pytest.raises(LearnerFailed, match="given up"):
        host.apply(planned[6])
    with pytest.raises(LearnerFailed, match="given up"):
        host.begin_checkpoint()
    assert host.recommend("u1", 5) == shown
    host.restore(None)
    assert not host.apply(planned[0]).already_applied


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("vector", np.nan, "an item's vector is nan"),
        ("input", np.inf, "an item's input is inf"),
        ("vector", -1e7, "an item's vector is -1e"),
        ("positions", np.nan, "positions is nan"),
        ("mixing_served", 1e7, "mixing_served is 1e"),
        ("gates", -np.inf, "gates is -inf"),
        ("priority", np.nan, "priority of an event type is nan"),
    ],
)
def test_ailments_are_named(place: str, value: float, said: str) -> None:
    """Each kind of weight is looked at."""
    model, learned = trained()
    if place in {"vector", "input"}:
        model.items[place][3, 1] = value
    elif place == "priority":
        model.state.types["priority"][0] = value
    else:
        np.ravel(model.state.arrays()[place])[0] = value

    assert said in str(health.ailment(model, learned))


def test_loss_beyond_all_sense() -> None:
    """A loss that no guess can have is an ailment by itself; no loss, in a batch without targets, is none."""
    model, learned = trained()

    assert health.ailment(model, learned) is None
    assert health.ailment(model, Learned(5, float("nan"), 0, 0)) is None
    assert "loss" in str(health.ailment(model, Learned(5, 101.0, 0, 0)))
    assert "loss" in str(health.ailment(model, Learned(5, float("inf"), 0, 0)))


def trained() -> tuple[Learner, Learned]:
    model = Learner(MODEL)
    users = [f"u{place % 3}" for place in range(40)]
    return model, model.learn(Batch.of(users, [f"i{place % 9}" for place in range(40)], list(range(40))))


def plans_of(store: MemoryStore) -> list[PlannedBatch]:
    rig = Rig(store, [])
    patience = Patience(Backoff(), lambda _: True, rig.meter)
    return list(replay(Archive(store, LAYOUT, patience, rig.meter), Head(-1, "", 0), {}))


def folded_without(store: MemoryStore, seq: int) -> LearnerHost:
    """A learner that has applied all plans, that of `seq` set aside."""
    host = LearnerHost(Rig(store, []).config)
    for planned in plans_of(store):
        host.apply(replace(planned, aside="poison" if planned.plan.seq == seq else ""))
    return host
