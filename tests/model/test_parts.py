"""The parts of the score, each against its slow version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import resolve
from model.batch import Batch
from model.config import LearnerConfig
from model.kernels import NEVER
from model.learner import Learner
from model.losses import softmax_gradient
from model.parts import embedding, gates, history, neighbours, own_items, popularity, transitions
from model.parts.history import Contexts, Histories
from model.parts.mixing import Mixing, context_weights
from model.parts.neighbours import SIMILAR, Near, Sessions
from model.parts.own_items import OwnItems
from model.parts.transitions import Transitions
from model.table import Columns, Table
from tests.model import naive
from tests.model.streams import SMALL, random_batches, run

HOUR = 3_600_000


def test_popularity_is_a_decayed_share() -> None:
    """Log shares equal those of counts that halve every half-life, in whatever order the clicks come."""
    random = np.random.default_rng(3)
    clicks = [(int(random.integers(0, 5)), float(random.integers(0, 50 * HOUR))) for _ in range(60)]
    half_lives = (1.0, 24.0)
    log_counts, totals = np.full((6, 2), NEVER), np.full(2, NEVER)
    items, times = (np.array(column) for column in zip(*clicks, strict=True))

    popularity.count_clicks(items.astype(np.int32), times, popularity.growth_rates(half_lives), log_counts, totals)

    for p, hours in enumerate(half_lives):
        counts = naive.decayed_counts(clicks, hours * HOUR, 50 * HOUR)
        expected = {item: np.log(count / sum(counts.values())) for item, count in counts.items()}
        found = log_counts[:, p] - totals[p]
        assert {item: found[item] for item in expected} == pytest.approx(expected, abs=1e-6)
    assert (log_counts[5] == NEVER).all()


def test_one_absurd_time_does_not_count_for_all() -> None:
    """A click dated a century ahead leaves the other items' shares as they would be without it."""
    times = np.arange(100, dtype=np.int64) * 60_000
    times[50] = 100 * 365 * 24 * HOUR

    steady = popularity.steady_times(times)

    assert steady.max() < 4 * HOUR
    np.testing.assert_array_equal(np.delete(steady, 50), np.delete(times, 50))


def test_contexts_are_the_last_clicks() -> None:
    """Contexts equal the naive ones: newest first, the same batch included, holes where an item is not yet known."""
    batches = random_batches(4, 30)
    learner = Learner(SMALL)
    run(learner, batches[:3])
    clicks = [pair for batch in batches for pair in zip(batch.users.tolist(), batch.items.tolist(), strict=True)]
    rows = resolve.find(learner.state, batches[3])
    asked = learner._contexts(rows, popularity.steady_times(batches[3].times), len(learner.items))

    found = [[learner.items.ids[item] if item >= 0 else None for item in row] for row in asked.items.tolist()]
    assert found == naive.contexts(clicks, SMALL.sequence_length, 90)
    assert any(None in row[:-1] and row[-1] is not None for row in found)
    users = batches[3].users.tolist()
    assert asked.fresh.tolist() == [users[:place].count(user) for place, user in enumerate(users)]
    assert asked.fresh.max() > SMALL.sequence_length


def test_softmax_gradient_is_the_formula() -> None:
    """Gradients are weight * (probability - target), losses the negative log probability; masked ones stay out."""
    own = np.array([[1.0, -np.inf], [0.5, 2.0]], np.float32)
    shared = np.array([[0.0, 3.0], [-np.inf, 80.0]], np.float32)
    weights = np.array([1.0, 0.5], np.float32)
    logits = np.concatenate([own, shared], axis=1).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    expected_loss = -np.log(expected[:, 0])
    expected[:, 0] -= 1.0

    loss = softmax_gradient(own, shared, weights)

    np.testing.assert_allclose(np.concatenate([own, shared], axis=1), expected * weights[:, None], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)


def test_natural_steps_find_the_optimum() -> None:
    """On a logistic regression with badly scaled features the steps arrive at the weights that made the data."""
    config = LearnerConfig(
        sequence_length=2, half_lives_hours=(1.0,), baseline_half_life=0, gate_rate=0.0, weight_step_clicks=128
    )
    random, mixing = np.random.default_rng(5), Mixing(config)
    width, used = 1 + mixing.layout.features, np.array([0, 1, 3, 4])
    truth, sizes = np.array([0.05, -4.0, 1.0, -3.0]), np.array([20.0, 0.5, 1.0, 0.3])
    opened, searched = np.zeros((128, gates.GATES), np.int32), np.zeros(128, np.float32)
    for _ in range(600):
        features = np.zeros((128, width), np.float32)
        features[:, used] = random.normal(size=(128, 4)) * sizes
        happened = random.random(128) < 1.0 / (1.0 + np.exp(-features[:, used] @ truth))
        guess = 1.0 / (1.0 + np.exp(-features @ mixing.values[:width]))
        mixing.learn((guess - happened)[:, None].astype(np.float32) * features, opened, searched, config, 1.0)

    np.testing.assert_allclose(mixing.values[used] * sizes, truth * sizes, atol=0.12)
    np.testing.assert_allclose(mixing.served, mixing.values, atol=0.1)


def test_every_weight_has_a_name() -> None:
    """Names follow the layout: as many as weights, each its own, and the parts begin where the layout says."""
    layout = Mixing(LearnerConfig()).layout
    names = layout.names()

    assert len(names) == len(set(names)) == 1 + layout.features
    found = {names[1 + place] for place in (layout.age, layout.repeat, layout.follows, layout.own, layout.near)}
    assert found == {"age", "repeat_0", "follows_0", "own", "near_lift"}


def test_gates_learn_what_differs() -> None:
    """A weight that has another sign behind each of two gates is learned by the gates' rows, each its own."""
    config = LearnerConfig(sequence_length=2, half_lives_hours=(1.0,), baseline_half_life=0, gate_rate=0.1)
    random, mixing = np.random.default_rng(5), Mixing(config)
    width, searched = 1 + mixing.layout.features, np.zeros(128, np.float32)
    for _ in range(300):
        side = random.integers(0, 2, 128)
        opened = np.repeat(side[:, None] * 7, gates.GATES, axis=1).astype(np.int32)
        features = np.zeros((128, width), np.float32)
        features[:, 1] = random.normal(size=128)
        weights = context_weights(mixing.layout, mixing.values, mixing.gates, opened, searched)
        happened = random.random(128) < 1.0 / (1.0 + np.exp(-features[:, 1] * np.where(side, 2.0, -2.0)))
        guess = 1.0 / (1.0 + np.exp(-(features * weights).sum(axis=1)))
        mixing.learn((guess - happened)[:, None].astype(np.float32) * features, opened, searched, config, 1.0)

    both = np.repeat([[0], [7]], gates.GATES, axis=1).astype(np.int32)
    served = context_weights(mixing.layout, mixing.served, mixing.gates_served, both, searched[:2])
    np.testing.assert_allclose(served[:, 1], [-2.0, 2.0], atol=0.3)


def test_gates_move_by_adagrad() -> None:
    """Each open weight moves by rate * summed gradient / sqrt(start + sum of squares); the closed ones stay."""
    random = np.random.default_rng(2)
    opened = random.integers(0, gates.VALUES - 2, (9, gates.GATES)).astype(np.int32)
    slopes = random.normal(size=(9, 4)).astype(np.float32)
    weights, sums = (random.random((gates.VALUES, 4)).astype(np.float32) for _ in range(2))
    expected, squares = weights.astype(np.float64), sums.astype(np.float64)
    totals = np.zeros_like(expected)
    for b, g in np.ndindex(opened.shape):
        totals[opened[b, g]] += slopes[b]
        squares[opened[b, g]] += slopes[b].astype(np.float64) ** 2
    expected -= 0.1 * totals / np.sqrt(1.5 + squares)

    gates.descend(opened, slopes, weights, sums, 0.1, 1.5)

    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    np.testing.assert_allclose(sums, squares, rtol=1e-5)


def test_first_steps_of_the_weights_come_early() -> None:
    """The global weights step after 50 clicks, then after 100, 150, ... more, up to the configured number."""
    config = LearnerConfig(weight_step_clicks=120)
    mixing, steps = Mixing(config), []
    found = np.ones((25, 1 + mixing.layout.features), np.float32)
    opened, searched = np.zeros((25, gates.GATES), np.int32), np.ones(25, np.float32)
    for _ in range(20):
        mixing.learn(found, opened, searched, config, 1.0)
        steps.append(int(mixing.steps[0]))

    assert [steps.index(number) for number in (1, 2, 3, 4)] == [1, 5, 10, 15]


def test_gates_open_by_what_is_known() -> None:
    """Each gate stands at the value of its context: since when, how long, how repetitive, which run, which type."""
    items = np.array([[4, 4, 5, -1], [-1, -1, -1, -1], [1, 2, 3, 4], [-1, 6, 6, -1]], np.int32)
    gaps = np.array([5 * 60_000.0, np.nan, 40 * 60_000.0, 0.0])
    asked = Contexts(
        np.array([0, 9, 1, 2], np.int32),
        items,
        np.array([[2, 0, 0, 0], [0] * 4, [30, 1, 1, 1], [1] * 4], np.int32),
        np.zeros((4, 4), np.uint8),
        np.array([0, 0, 2, 0], np.int32),
        np.zeros(4),
        gaps,
    )

    opened = gates.open_gates(asked, np.array([0.0, 0.25, 0.9], np.float32)) - gates._STARTS

    assert opened[:, 0].tolist() == [2, 6, 8, 0]
    assert opened[:, 1].tolist() == [2, 0, 3, 2]
    assert opened[:, 2].tolist() == [0, 0, 3, 5]
    assert opened[:, 3].tolist() == [2, 0, 1, 0]
    assert opened[:, 4].tolist() == [2, 0, 7, 1]


def test_pauses_end_sessions() -> None:
    """What lies before a gap of more than half an hour is stale, in the batch and in the stored history alike."""
    users = Table(history.user_columns(4))
    users.append(["a"])
    times = np.array([0.0, 10.0, 50.0, 60.0]) * 60_000.0
    zeros = np.zeros(4, np.int32)
    history.remember(zeros, np.arange(4, dtype=np.int32), zeros, times, Histories.of(users))
    asked = history.contexts(
        zeros[:2], zeros[:2], zeros[:2] + 9, zeros[:2], np.array([70.0, 200.0]) * 60_000.0, Histories.of(users), 4, 10
    )

    assert asked.items.tolist() == [[3, 2, 1, 0], [9, 3, 2, 1]]
    assert asked.stale.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert asked.fresh.tolist() == [0, 1]
    assert asked.gaps.tolist() == [600_000.0, 140 * 60_000.0]


def test_transitions_are_faded_counts() -> None:
    """A row's weights are those of a dictionary that halves every week, strongest first, both ways counted."""
    random = np.random.default_rng(2)
    clicked = random.integers(0, 6, 50).astype(np.int32)
    times = np.sort(random.uniform(0, 40 * 24 * HOUR, 50))
    items = Table(transitions.item_columns(8))
    items.append([f"i{k}" for k in range(6)])
    before = np.full((50, 4), -1, np.int32)
    for place in range(1, 50):
        before[place, : min(place, 4)] = clicked[max(place - 4, 0) : place][::-1]

    transitions.count_in(clicked, before, times, Transitions.of(items))

    for row in range(6):
        expected: dict[int, float] = {}
        for place in range(50):
            for lag, weight in enumerate((1.0, 0.7, 0.5)):
                other = int(before[place, lag])
                if other < 0 or other == clicked[place]:
                    continue
                faded = weight * 0.5 ** ((items["next_ms"][row] - times[place]) / (7 * 24 * HOUR))
                if other == row:
                    expected[int(clicked[place])] = expected.get(int(clicked[place]), 0.0) + faded
                elif clicked[place] == row:
                    expected[other] = expected.get(other, 0.0) + faded / 2
        held = {
            int(item): float(w) for item, w in zip(items["next_items"][row], items["next_weights"][row], strict=True)
        }
        held.pop(-1, None)
        assert held == pytest.approx(expected, rel=1e-4)
        assert items["next_total"][row] == pytest.approx(sum(expected.values()), rel=1e-4)
        assert (np.diff(items["next_weights"][row]) <= 0).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=120), st.integers(1, 20))
def test_own_items_are_counted(clicks: list[tuple[int, int]], limit: int) -> None:
    """Counts, times and rates of return are those of dictionaries in which the longest unclicked item makes room."""
    users, items = Table(own_items.user_columns()), Table(own_items.item_columns())
    users.append(["a", "b", "c"])
    items.append([f"i{k}" for k in range(41)])
    chunks = Columns(own_items.chunk_columns())
    held: list[dict[int, tuple[float, int]]] = [{}, {}, {}]
    returns = dict.fromkeys(range(41), 0)
    for minute, (user, item) in enumerate(clicks):
        mine = held[user]
        returns[item] += item in mine
        if item not in mine and len(mine) == limit:
            del mine[min(mine, key=lambda other: mine[other][1])]
        mine[item] = (mine.get(item, (0.0, 0))[0] + 1.0, minute)
    for start in range(0, len(clicks), 50):
        who, what = (np.array(column, np.int32) for column in zip(*clicks[start : start + 50], strict=True))
        times = np.asarray((start + np.arange(len(who))) * 60_000.0, np.float64)
        own_items.count_in(who, what, times, users, chunks, items, limit)

    own = OwnItems(
        users["own_head"],
        *(chunks[n] for n in ("items", "counts", "minutes", "links")),
        *(items[n] for n in ("returns", "clicks")),
    )
    for user in range(3):
        _, chain = own_items.chains(own.heads[user : user + 1], own.links)
        found = {
            int(own.items[chunk, place]): (float(own.counts[chunk, place]), int(own.minutes[chunk, place]))
            for chunk in chain
            for place in range(own_items.CHUNK)
            if own.items[chunk, place] >= 0
        }
        assert found == held[user]
        assert users["own_size"][user] == len(held[user])
        assert len(chain) == -(-len(found) // own_items.CHUNK)
    assert {item: items["returns"][item] for item in returns} == returns


def test_neighbours_are_session_knn() -> None:
    """A search finds the shares of plain session kNN: sessions cut at pauses and at 24 items, its own left out."""
    random = np.random.default_rng(4)
    clicks = [(int(random.integers(0, 4)), int(25 * random.random() ** 2), minute * 5) for minute in range(400)]
    users, items = Table(neighbours.user_columns()), Table(neighbours.item_columns(200))
    users.append([f"u{k}" for k in range(4)])
    items.append([f"i{k}" for k in range(25)])
    kept, begun, ring = Columns(neighbours.ring_columns()), np.zeros(1, np.int64), 256
    sessions: list[list[int]] = []
    current: dict[int, int] = {}
    last: dict[int, int] = {}
    recent: dict[int, list[int]] = {}
    for user, item, minute in clicks:
        if user not in current or minute - last[user] > 30 or len(sessions[current[user]]) == neighbours.MEMBERS:
            current[user] = len(sessions)
            sessions.append([])
        if item not in sessions[current[user]]:
            sessions[current[user]].append(item)
            recent.setdefault(item, []).append(current[user])
        last[user] = minute
    neighbours.make_room(kept, len(clicks), ring)
    who, what, minutes = (np.array(column) for column in zip(*clicks, strict=True))
    whole = Sessions.of(kept, users, items, begun, ring)
    users_in = who.astype(np.int32)
    neighbours.count_in(users_in, users_in, what.astype(np.int32), minutes * 60_000.0, np.full(4, NEVER), kept, whole)
    clicked, stale = np.array([[3, 1, 3, -1]], np.int32), np.array([[0, 0, 1, 1]], np.uint8)
    near = Near.empty(1)
    neighbours.search(
        clicked,
        stale,
        np.array([2], np.int32),
        Sessions.of(kept, users, items, begun, ring),
        np.zeros(ring, np.float32),
        np.zeros(25, np.float32),
        SIMILAR,
        near,
    )

    for numbers in recent.values():
        if current[2] in numbers:
            numbers.remove(current[2])
    shares, mass = naive.neighbour_shares(sessions, recent, [3, 1], [False, False])
    found = {int(item): float(share) for item, share in zip(near.items[0], near.shares[0], strict=True) if item >= 0}
    assert len(kept) == len(sessions) == begun[0]
    assert found == pytest.approx(shares, rel=1e-4)
    assert near.mass[0] == pytest.approx(mass, rel=1e-4)
    assert (np.diff(near.shares[0][: neighbours.LEADING]) <= 0).all()
    assert near.shares[0][neighbours.LEADING - 1] == near.shares[0][neighbours.LEADING - 1 : len(found)].max()


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=200))
@example([2] * 50 + [3] * 20 + [2] * 50 + [5] * 10)
@example([7] * 300)
@example(list(range(1, 300)))
def test_a_search_keeps_the_heaviest(weights: list[int]) -> None:
    """Of what was found the heaviest are kept, of equally heavy ones the first met; the first five are in order."""
    count = len(weights)
    ordered = sorted(range(count), key=lambda place: (-weights[place], place))[: neighbours.FOUND]
    items, shares = np.full(neighbours.FOUND, -1, np.int32), np.zeros(neighbours.FOUND, np.float32)
    found, scratch = np.arange(count, dtype=np.int32) + 7, np.empty(count + 1, np.int32)

    neighbours._keep(found, np.array(weights, np.float32), np.float32(2.0), scratch, items, shares)

    kept = items[: len(ordered)] - 7
    assert (items[len(ordered) :] == -1).all()
    assert sorted(kept.tolist()) == sorted(ordered)
    assert kept[: neighbours.LEADING].tolist() == ordered[: neighbours.LEADING]
    assert shares[: len(ordered)].tolist() == [weights[place] / 2.0 for place in kept]


@pytest.mark.parametrize(
    ("drawn", "reach", "wanted", "rows"),
    [
        ([1, 1, 1, 1, 0], 4, [0, 2], [0, 0, 1, 1, 1]),
        ([1, 0, 0, 0, 1], 2, [0, 4], [0, 0, 0, -1, 1]),
        ([1, 1, 0, 0, 0], 0, [0, 1], [0, 1, -1, -1, -1]),
    ],
)
def test_clicks_read_the_last_search(drawn: list[int], reach: int, wanted: list[int], rows: list[int]) -> None:
    """A click reads its user's last search up to `reach` clicks on, the one right after it even when drawn itself."""
    previous = np.arange(-1, 4, dtype=np.int32)

    places, read = neighbours.sources(np.array(drawn, np.uint8), previous, reach)

    assert places.tolist() == wanted
    assert read.tolist() == rows


def test_neighbours_of_popular_items_are_the_most_similar() -> None:
    """Past SIMILAR sessions only those of the highest steps of similarity speak; a ring that is full forgets."""
    users, items = Table(neighbours.user_columns()), Table(neighbours.item_columns(600))
    users.append([f"u{k}" for k in range(1000)])
    items.append(["all", "half", "with half", "without"])
    kept, begun, ring = Columns(neighbours.ring_columns()), np.zeros(1, np.int64), 512
    who = np.repeat(np.arange(1000), 2).astype(np.int32)
    what = np.array([[0, 3], [0, 2]] * 500, np.int32).ravel()
    odd = np.arange(1, 1000, 2, dtype=np.int32)
    who, what = np.append(who, odd[250:]), np.append(what, np.ones(250, np.int32))
    neighbours.make_room(kept, len(who), ring)
    whole = Sessions.of(kept, users, items, begun, ring)
    times = np.zeros(len(who))
    neighbours.count_in(who, who, what, times, np.zeros(1000), kept, whole)
    near = Near.empty(1)
    neighbours.search(
        np.array([[1, 0]], np.int32),
        np.zeros((1, 2), np.uint8),
        np.array([2000], np.int32),
        Sessions.of(kept, users, items, begun, ring),
        np.zeros(ring, np.float32),
        np.zeros(4, np.float32),
        SIMILAR,
        near,
    )

    found = {int(item): float(share) for item, share in zip(near.items[0], near.shares[0], strict=True) if item >= 0}
    assert len(kept) == ring
    assert found == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})


def test_first_vectors_depend_on_the_row_alone() -> None:
    """Rows made in one go or in two have the same first values, other seeds give others, and none look alike."""
    whole = embedding.first_vectors(0, 100, 8, 3)

    np.testing.assert_array_equal(whole[40:], embedding.first_vectors(40, 100, 8, 3))
    assert not np.array_equal(whole, embedding.first_vectors(0, 100, 8, 4))
    assert whole.std() == pytest.approx(embedding.SPREAD, rel=0.1)
    assert np.abs(np.asarray(np.corrcoef(whole))[~np.eye(100, dtype=bool)]).mean() < 0.4


def test_event_types_start_where_configured() -> None:
    """Priorities come from the config whatever the case, others get the default; past the limit they share a row."""
    config = LearnerConfig(dim=4, type_priorities={"purchase": 1.0}, default_type_priority=0.2, type_limit=3)
    learner = Learner(config)

    learner.learn(Batch.of(["a"] * 3, ["x"] * 3, [0, 1, 2], ["PURCHASE", "wave", "nod"]))

    assert learner.type_priorities == {"purchase": 1.0, "PURCHASE": 1.0}
    assert learner.rows()["types"] == 3
    assert learner.users["kinds"][0, :3].tolist() == [0, 0, 2]
