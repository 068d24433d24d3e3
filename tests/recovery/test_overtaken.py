"""A process that recovers while another one goes on, checkpoints and collects: it begins again from there."""

from __future__ import annotations

import pytest

from stream import checkpoint
from stream.errors import StoreRefused
from stream.history import Archive
from stream.naming import seq_of
from stream.patience import Patience
from stream.policy import Backoff
from stream.recovery import Recovered, Replaying, recover
from tests.fakes import InlineLearner, MemoryStore
from tests.rigs import LAYOUT, Rig, clicks


def test_begins_again_when_overtaken() -> None:
    """The plans that it was about to read are gone, and a newer checkpoint stands for them."""
    store = MemoryStore()
    Rig(store, clicks(400), partitions=1).run()
    newest, _ = list(checkpoint.complete(store, LAYOUT))[-1]
    hidden = {key: store.objects.pop(key) for key in list(store.objects) if key.startswith(LAYOUT.checkpoint(newest))}

    def overtake(call: str, key: str) -> None:
        if call.startswith("get") and key.startswith(LAYOUT.plans) and hidden:
            store.objects.update(hidden)
            hidden.clear()
            for plan in [each for each in store.objects if each.startswith(LAYOUT.plans)]:
                if (seq_of(plan) or 0) <= newest:
                    del store.objects[plan]

    store.trouble = overtake
    recovered = recovering(store)

    assert (recovered.checkpoint_seq, recovered.head.seq) == (newest, newest)


def test_a_hole_stays_a_hole() -> None:
    """Where no newer checkpoint came, a missing plan is refused by name."""
    store = MemoryStore()
    Rig(store, clicks(400), partitions=1).run()
    for key in [each for each in store.objects if each.startswith(LAYOUT.checkpoints)]:
        del store.objects[key]
    del store.objects[LAYOUT.plan(3)]

    with pytest.raises(StoreRefused, match="plan 3 of lineage main is missing"):
        recovering(store)


def test_an_empty_model_comes_back() -> None:
    """A checkpoint from before the first click, as a short-lived service leaves it, can be restored."""
    store = MemoryStore()
    rig = Rig(store, [b"no click"] * 45, partitions=1)
    rig.run()

    assert list(checkpoint.complete(store, LAYOUT))
    assert recovering(store).checkpoint_seq >= 0


def recovering(store: MemoryStore) -> Recovered:
    rig = Rig(store, [])
    learner = InlineLearner(rig.config)
    learner.start()
    archive = Archive(store, LAYOUT, Patience(Backoff(), lambda _: True, rig.meter), rig.meter)
    return recover(archive, learner, Replaying(4, lambda _: None, {}))
