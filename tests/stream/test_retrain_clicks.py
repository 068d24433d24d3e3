"""What a retrain learns from: every stored click in plan order, any stretch of it, as often as wanted."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from model import snapshot
from model.batch import Batch, Learned
from model.learner import Learner
from stream import versions
from stream.batching import CutPolicy
from stream.collector import Collector
from stream.errors import ConfigError, Diverged, LearnerFailed
from stream.events import LearnReport, PlannedBatch
from stream.history import Archive
from stream.host import LearnerHost
from stream.metrics import PrometheusMeter
from stream.patience import Patience
from stream.policy import Backoff, CheckpointPolicy
from stream.retrain.clicks import Span, StoredClicks, require, scan
from stream.retrain.training import Task, Training
from stream.train import fit
from stream.versions import Request
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT, MODEL, RHYTHM, Rig, clicks

ROWS = 900
FINE = replace(RHYTHM, cut=CutPolicy(rows=6), checkpoint=CheckpointPolicy(10, 1e9, 2, 1e9))


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    """150 plans of six clicks, the first 128 archived."""
    store = MemoryStore()
    Rig(store, clicks(ROWS), rhythm=FINE).run()
    for _ in range(2):
        Collector(store, LAYOUT, CheckpointPolicy(kept=1, grace_seconds=0)).collect()
    assert LAYOUT.plan(127) not in store.objects
    return store


def archive(store: MemoryStore) -> Archive:
    return Archive(store, LAYOUT, Patience(Backoff(), lambda _: True, PrometheusMeter()), PrometheusMeter())


def found(store: MemoryStore, span: Span) -> StoredClicks:
    return scan(archive(store), span, lambda _seq: None)


def times(batches: list[Batch]) -> list[int]:
    return [time // 1000 - 1_600_000_000 for batch in batches for time in batch.times.tolist()]


def test_every_click_once_in_order(store: MemoryStore) -> None:
    """Out of the archive and of staging, in batches of the size that was asked for, the last one smaller."""
    whole = found(store, Span(10_000))
    batches = list(whole.batches(70))

    assert (len(whole), whole.first_seq, whole.oldest_ms) == (ROWS, 0, 1_600_000_000_000)
    assert sorted(times(batches)) == list(range(ROWS))
    assert [len(batch) for batch in batches] == [70] * 12 + [60]
    assert times(list(whole.batches(70))) == times(batches)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 383), (383, 384), (384, 900), (500, 777), (899, 900), (7, 7)])
def test_any_stretch(store: MemoryStore, start: int, stop: int) -> None:
    """As a slice of the whole, whichever plans it begins and ends in."""
    whole = found(store, Span(10_000))

    assert times(list(whole.batches(50, start, stop))) == times(list(whole.batches(50)))[start:stop]


def test_only_what_is_wanted(store: MemoryStore) -> None:
    """Up to a plan, without those set aside, from a time on."""
    ordered = times(list(found(store, Span(10_000)).batches(50)))
    assert times(list(found(store, Span(20)).batches(50))) == ordered[: 20 * 6]
    without = times(list(found(store, Span(20, without={1, 5})).batches(50)))
    assert without == ordered[6:24] + ordered[30 : 20 * 6]
    since = times(list(found(store, Span(10_000, since_ms=1_600_000_400_000)).batches(50)))
    assert since == [time for time in ordered if time >= 400]


def test_nothing_left_is_said(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="not one click"):
        require(found(store, Span(10_000, since_ms=4_000_000_000_000)))
    assert list(found(store, Span(-1)).batches(10)) == []


def test_history_that_begins_late_is_learned_and_said(store: MemoryStore) -> None:
    """The first archives have expired: what is left is learned, and the record says from where on."""
    short = store.copy()
    short.delete(LAYOUT.archived_plans(0, 63))
    short.delete(LAYOUT.archive(0, 63))
    versions.ask(short, LAYOUT, Request("a"))

    trained = training(short).run()

    assert trained.first_seq == 64
    assert "history begins with plan 64" in " ".join(trained.notes)
    assert trained.clicks <= ROWS - 63 * 6


def test_older_clicks_are_learned_first(store: MemoryStore) -> None:
    """The batch contract's object of all clicks: those from before the stream began, and no others."""
    older = store.copy()
    rows = [{"user_id": "u1", "product_id": f"i{place}", "timestamp": 1_599_999_900 + place} for place in range(300)]
    older.put("data/clickstream.json", "\n".join(map(json.dumps, rows)).encode())
    versions.ask(older, LAYOUT, Request("a"))

    with_older, without = training(older, "data/clickstream.json").run(), training(store.copy()).run()

    assert with_older.clicks == without.clicks + 100
    assert with_older.notes == ("100 older clicks of data/clickstream.json were learned first",)
    assert training(store.copy(), "data/clickstream.json").run().notes == ()


def test_the_same_history_gives_the_same_model(store: MemoryStore) -> None:
    """Bit for bit: a training that was cut off and begun again is none the wiser."""
    parts = []
    for _ in range(2):
        copy = store.copy()
        training(copy).run()
        keys = [key for key in copy.objects if key.startswith(LAYOUT.of_version(2).checkpoints)]
        parts.append(sorted(key for key in keys if key.endswith(".safetensors")))  # each is named by its hash

    assert parts[0] == parts[1] != []


def test_two_models_at_a_time(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is what a retrain may lack: whichever model waits for its turn lies on the disk."""
    found, before = [], models()
    learn, load = Learner.learn, snapshot.load

    def learning(model: Learner, batch: Batch, rate: float = 1.0) -> Learned:
        found.append(models() - before)
        return learn(model, batch, rate)

    def loading(dumped: snapshot.Snapshot) -> Learner:
        model = load(dumped)
        found.append(models() - before)
        return model

    monkeypatch.setattr(Learner, "learn", learning)
    monkeypatch.setattr(snapshot, "load", loading)
    monkeypatch.setattr(fit, "HELD_CLICKS_MIN", 1)  # so that an epoch has its candidate

    training(store.copy()).run()

    assert max(found) == 2


def reads_back_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LearnerHost, "state_sha256", lambda host: str(id(host)))


def answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "recommend", lambda _model, _user, _top_n: [])


def answers_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "recommend", lambda _model, _user, _top_n: [("i1", math.nan)])


def diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = LearnerHost.apply

    def applying(host: LearnerHost, planned: PlannedBatch) -> LearnReport:
        if host._config.layout.version == 2:
            raise Diverged(planned.plan.seq, "its loss is infinite")
        return apply(host, planned)

    monkeypatch.setattr(LearnerHost, "apply", applying)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (reads_back_otherwise, "reads back as another model than was written"),
        (answers_nothing, r"no finite answer for .*: \[\]"),
        (answers_no_number, "no finite answer for .*nan"),
        (diverges, r"the new model diverged at plan \d+: its loss is infinite"),
    ],
)
def test_a_new_model_that_is_no_good_is_none(
    store: MemoryStore, trouble: Callable[[pytest.MonkeyPatch], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with the reason, and nothing says that the version is complete."""
    copy = store.copy()
    Rig(copy, clicks(ROWS + 60), rhythm=FINE).run()  # so that both have something new to learn
    trouble(monkeypatch)

    with pytest.raises(LearnerFailed, match=why):
        training(copy).run()

    assert not versions.is_complete(copy, LAYOUT.of_version(2))


def models() -> int:
    """How many there are in this process, without those that have learned nothing."""
    gc.collect()
    return sum(isinstance(each, Learner) and len(each.items) > 0 for each in gc.get_objects())


def training(store: MemoryStore, older_key: str = "") -> Training:
    task = Task(store, LAYOUT.of_version(2), 1, Request("a"), MODEL, 1000, 2, 10, 0.0, older_key)
    return Training(task, archive(store))
