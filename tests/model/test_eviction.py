"""Rows go by worth, everything that pointed at them follows, and nothing but the clicks decides when."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import compact, eviction, snapshot
from model.batch import Batch, Float32, Int32
from model.learner import Learner
from model.parts import embedding
from model.snapshot import digest, dump, load
from model.state import ADMITTED, EVICTED, State
from model.view import ServingView
from tests.model.streams import SMALL, random_batches, run

TIGHT = replace(SMALL, users_max=12, items_max=16, admission_width=4096, own_items=12)
MINUTE = 60_000
USERS, ITEMS = [f"u{number}" for number in range(20)], [f"i{number}" for number in range(40)]
Click = tuple[str, str, int, str]
CLICKS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 90), st.sampled_from("pq")),
    min_size=1,
    max_size=40,
)
STREAMS = st.lists(CLICKS, min_size=2, max_size=8)


def as_batch(
    clicks: list[Click], start: int = 0, user: Callable[[str], str] = str, item: Callable[[str], str] = str
) -> Batch:
    """Clicks in the order of time, `start` minutes later, under other names if asked for."""
    who, what, minutes, kinds = zip(*sorted(clicks, key=lambda click: click[2]), strict=True)
    return Batch.of(
        [user(name) for name in who], [item(name) for name in what], (np.array(minutes) + start) * MINUTE, [*kinds]
    )


def as_batches(stream: list[list[Click]], **names: Any) -> list[Batch]:
    return [as_batch(clicks, 100 * number, **names) for number, clicks in enumerate(stream)]


def reloaded(learner: Learner) -> Learner:
    """Through a snapshot, as after a crash."""
    taken = copy.deepcopy(dump(learner))
    return load(replace(taken, meta=json.loads(json.dumps(taken.meta))))


@settings(max_examples=25, deadline=None)
@given(STREAMS, st.sets(st.integers(0, 8)))
def test_checkpoints_change_nothing(stream: list[list[Click]], places: set[int]) -> None:
    """Wherever the process died and came back from a snapshot: the same state, bit for bit, evictions included."""
    kept, restored = Learner(TIGHT), Learner(TIGHT)
    for number, batch in enumerate(as_batches(stream)):
        run(kept, [batch])
        run(restored, [batch])
        if number in places:
            restored = reloaded(restored)

    assert digest(restored) == digest(kept)


def test_the_streams_of_these_tests_evict() -> None:
    """What is drawn above is enough for both tables to be full several times over."""
    learner = Learner(TIGHT)
    run(learner, random_batches(30, 60, users=20, items=40))

    assert (learner.state.tally[:, EVICTED] > 10).all()
    assert (learner.state.tally[:, ADMITTED] > 2 * np.array([TIGHT.users_max, TIGHT.items_max])).any()


@settings(max_examples=25, deadline=None)
@given(STREAMS, st.permutations(USERS), st.permutations(ITEMS))
def test_other_names_keep_other_rows(stream: list[list[Click]], users: list[str], items: list[str]) -> None:
    """Under permuted names the same rows come and go, under those names."""
    user, item = dict(zip(USERS, users, strict=True)), dict(zip(ITEMS, items, strict=True))
    plain, renamed = Learner(TIGHT), Learner(TIGHT)
    for one, other in zip(
        as_batches(stream), as_batches(stream, user=user.__getitem__, item=item.__getitem__), strict=True
    ):
        assert repr(plain.learn(one)) == repr(renamed.learn(other))

    assert [user[name] for name in plain.users.ids] == renamed.users.ids
    assert [item[name] for name in plain.items.ids] == renamed.items.ids
    for name in plain.users.ids:
        assert [(item[found], score) for found, score in plain.recommend(name, 5)] == renamed.recommend(user[name], 5)


@settings(max_examples=25, deadline=None)
@given(STREAMS)
def test_nothing_dangles(stream: list[list[Click]]) -> None:
    """After every batch each reference points at a row that is there, lists have no gaps, and counts add up."""
    learner = Learner(TIGHT)
    for batch in as_batches(stream):
        learner.learn(batch)
        check_whole(learner.state)
        reloaded(learner)  # refuses what points nowhere


def check_whole(state: State) -> None:
    users, items, chunks = state.users, state.items, state.chunks
    assert len(users) <= state.limits.users.rows
    assert len(items) <= state.limits.items.rows
    for table in (users, items):
        assert table.index == {name: row for row, name in enumerate(table.ids)}
        assert table.strings.tolist() == table.ids
    for rows in (users["clicks"], items["next_items"], state.sessions["members"], chunks["items"]):
        assert (np.sort(rows < 0, axis=1) == (rows < 0)).all() or rows is chunks["items"]
        assert rows.max(initial=-1) < len(items)
    owned = np.zeros(len(users), int)
    for row, head in enumerate(users["own_head"]):
        chunk = head
        while chunk >= 0:
            owned[row] += (chunks["items"][chunk] >= 0).sum()
            chunk = chunks["links"][chunk]
    assert (owned == users["own_size"]).all()
    for which, name in enumerate(("long_count", "short_count")):
        counted = np.bincount(state.ring.filled(which), minlength=len(items))
        assert (counted == items[name]).all()
        assert state.ring.norms[which] == pytest.approx((items[name] ** 0.75).sum(), rel=1e-6, abs=1e-6)
    for name, column in items.columns.items():
        assert column.kept or (items[name] == column.fill).all(), name


def told(state: State) -> dict[str, Any]:
    """All that the state remembers, by id instead of by row."""
    items = [*state.items.ids]
    found: dict[str, Any] = {}
    for row, user in enumerate(state.users.ids):
        line = state.users["clicks"][row]
        found[f"{user} clicks"] = [
            (items[item], int(kind)) for item, kind in zip(line, state.users["kinds"][row], strict=True) if item >= 0
        ]
        found[f"{user} owns"] = []
        chunk = state.users["own_head"][row]
        while chunk >= 0:
            for place, item in enumerate(state.chunks["items"][chunk]):
                if item >= 0:
                    held = (state.chunks["counts"][chunk, place], state.chunks["minutes"][chunk, place])
                    found[f"{user} owns"].append((items[item], *map(float, held)))
            chunk = state.chunks["links"][chunk]
    for row, name in enumerate(items):
        pairs = zip(state.items["next_items"][row], state.items["next_weights"][row], strict=True)
        found[f"{name} next"] = [(items[item], float(weight)) for item, weight in pairs if item >= 0]
    for slot, members in enumerate(state.sessions["members"]):
        found[f"session {slot}"] = [(items[item],) for item in members if item >= 0]
    for which in range(2):
        ring, first = state.ring.filled(which), int(state.ring.pushed[which])
        full = len(ring) == len(state.ring.rings[which])
        ordered = np.roll(ring, -(first % len(ring))) if full else ring
        found[f"ring {which}"] = [(items[item],) for item in ordered]
    return found


@settings(max_examples=25, deadline=None)
@given(STREAMS, st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_what_stays_is_as_it_was(stream: list[list[Click]], users: set[int], items: set[int]) -> None:
    """By their ids, the rows kept remember what they did, in that order, less the items that are gone."""
    learner = Learner(SMALL)
    for batch in as_batches(stream):
        learner.learn(batch)
    state = learner.state
    before, vectors = told(state), dict(zip(state.items.ids, state.items["vector"].copy(), strict=True))
    kept = [chosen(len(state.users), users), chosen(len(state.items), items)]
    names = [[table.ids[row] for row in rows] for table, rows in zip((state.users, state.items), kept, strict=True)]

    compact.keep(state, *kept)

    check_whole(state)
    assert [state.users.ids, state.items.ids] == names
    alive, after = {*names[0], *names[1]}, told(state)
    expected = {
        name: [entry for entry in entries if entry[0] in alive]
        for name, entries in before.items()
        if name.split()[0] in alive or name.startswith(("session", "ring"))
    }
    assert after == expected
    for name, vector in zip(state.items.ids, state.items["vector"], strict=True):
        np.testing.assert_array_equal(vector, vectors[name])


def chosen(size: int, places: set[int]) -> Int32:
    return np.array(sorted(place for place in places if place < size), np.int32)


def test_a_pause_outlives_the_click_behind_it() -> None:
    """Where the click before a pause goes, the pause stands before the next newer one."""
    learner = Learner(SMALL)
    times = np.array([0, 1, 60, 61]) * MINUTE
    learner.learn(Batch.of(["a"] * 4, ["w", "x", "y", "z"], times))
    assert learner.users["pauses"][0].tolist() == [0, 1, 0]

    keep = [learner.items.index[name] for name in ("w", "x", "z")]
    compact.keep(learner.state, np.array([0], np.int32), np.array(keep, np.int32))

    assert [learner.items.ids[row] for row in learner.users["clicks"][0] if row >= 0] == ["z", "x"]
    assert learner.users["pauses"][0].tolist() == [1, 0, 0]


def test_worth_is_frequency_over_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worth is the sum over a row's clicks of 2^(-age / H), up to one factor, whenever the landmark moved."""
    config = replace(SMALL, users_max=1000, items_max=1000)
    batches = random_batches(12, 30)
    exact: dict[str, float] = {}
    for batch in batches:
        exact = {name: worth * 2.0 ** (-len(batch) / 8000) for name, worth in exact.items()}
        for name in batch.items.tolist():
            exact[name] = exact.get(name, 0.0) + 1.0
    for rescaled in (eviction.RESCALED, 0.02):
        monkeypatch.setattr(eviction, "RESCALED", rescaled)
        learner = Learner(config)
        run(learner, batches)
        assert (learner.state.landmarks > 0).all() == (rescaled < 1.0)

        worth = learner.items["worth"] / learner.items["worth"].max()
        expected = np.array([exact[name] for name in learner.items.ids])
        np.testing.assert_allclose(worth, expected / expected.max(), rtol=1e-9)


def test_the_least_worth_go_first() -> None:
    """At the mark, rows go until four fifths of the cap are left: those clicked least and longest ago."""
    learner = Learner(replace(SMALL, users_max=100, items_max=100, admit_clicks=1))
    often = [f"often{number}" for number in range(20)]
    for number in range(96):
        learner.learn(Batch.of(["u"] * 2, [often[number % 20], f"once{number:02}"], [number * MINUTE] * 2))
        if learner.state.tally[1, EVICTED]:
            break

    assert len(learner.items) == 80
    assert set(often) <= set(learner.items.ids)
    ones = sorted(name for name in learner.items.ids if name.startswith("once"))
    assert ones == [f"once{place:02}" for place in range(number - 59, number + 1)]


def test_a_checkpoint_keeps_its_ids() -> None:
    """Ids that a snapshot shows stay as they were while the learner goes on and evicts: they are written later."""
    learner = Learner(TIGHT)
    batches = random_batches(30, 60, users=20, items=40)
    run(learner, batches[:10])
    ids = dump(learner).ids
    before = {name: strings.tolist() for name, strings in ids.items()}

    run(learner, batches[10:])

    assert learner.items.ids != before["items"]
    assert {name: strings.tolist() for name, strings in ids.items()} == before


def test_the_view_follows() -> None:
    """After an eviction the serving view answers like the learner, whoever is gone."""
    learner, view = Learner(TIGHT), ServingView()
    for batch in random_batches(30, 60, users=20, items=40):
        run(learner, [batch])
        view.publish(learner)
        for user in (*learner.users.ids, "u1", "nobody"):
            assert view.recommend(user, 9) == learner.recommend(user, 9)
            assert view.explain(user, "i1") == learner.explain(user, "i1")
    assert learner.state.tally[:, EVICTED].all()


def test_a_context_is_put_back_over_evictions() -> None:
    """A copy of the memory taken before rows went is put back by ids: what is gone since is left out."""
    learner, batches = Learner(TIGHT), random_batches(30, 60, users=20, items=40)
    run(learner, batches[:10])
    kept, before = learner.context(), told(learner.state)
    run(learner, batches[10:])
    assert learner.state.tally[:, EVICTED].all()

    learner.reset_context(kept)

    check_whole(learner.state)
    alive = {*learner.users.ids, *learner.items.ids}
    survived = [name for name in before if name.split()[0] in alive and before[name]]
    assert len(survived) > 5
    after = told(learner.state)
    for name in survived:
        assert after[name] == [entry for entry in before[name] if entry[0] in alive], name
    run(learner, batches[:5])
    check_whole(learner.state)


def test_later_items_begin_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are used again, first vectors are not: they are those of as many items as ever came."""
    drawn: list[tuple[int, int]] = []
    real = embedding.first_vectors

    def noted(start: int, stop: int, dim: int, seed: int) -> Float32:
        drawn.append((start, stop))
        return real(start, stop, dim, seed)

    monkeypatch.setattr(embedding, "first_vectors", noted)
    learner = Learner(TIGHT)
    run(learner, random_batches(30, 60, users=20, items=40))

    spans = drawn[::2]
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == learner.state.tally[1, ADMITTED] > TIGHT.items_max


def test_compiled_equals_plain() -> None:
    """Each kernel of the compaction does the same as plain Python."""
    learner = Learner(SMALL)
    run(learner, random_batches(8, 60))
    numbers = np.cumsum(np.arange(len(learner.items)) % 3 > 0).astype(np.int32) - 1
    numbers[np.arange(len(learner.items)) % 3 == 0] = -1
    plain = reloaded(learner)
    kernels = [name for name in vars(compact) if name.startswith(("_close", "_pack"))]
    assert len(kernels) == 4

    compact.renumber(learner.state, numbers)
    with pytest.MonkeyPatch.context() as patch:
        for name in kernels:
            patch.setattr(compact, name, getattr(getattr(compact, name), "py_func", getattr(compact, name)))
        compact.renumber(plain.state, numbers)

    assert digest(plain) == digest(learner)


def test_the_format_before_is_refused_by_name() -> None:
    """A snapshot without worth and admission says which format it has."""
    taken = dump(Learner(SMALL))

    with pytest.raises(ValueError, match="format 3"):
        snapshot.load(replace(taken, meta=taken.meta | {"format": 3}))
