"""What every peer promises, and the nearest-neighbour kernels against their plain versions."""

from __future__ import annotations

import numpy as np
import pytest

from bench.peers import PEERS
from bench.peers.peer import Clicks, NotInstalled, Peer, Question, grown
from bench.peers.popularity import Popularity
from bench.peers.recent import Recent
from bench.peers.rules import Rules
from bench.peers.sasrec import LENGTH, _padded, _pieces
from bench.peers.sessions import GAP_SECONDS, Neighbours, Sessions, distinct
from model.batch import Int32

VARIANTS = [(name, variant) for name, variants in PEERS.items() for variant in variants]


def clicks(
    users: list[int], items: list[int], seconds: list[float], n_users: int, n_items: int, share_done: float = 0.5
) -> Clicks:
    return Clicks(np.array(users, np.int32), np.array(items, np.int32), np.array(seconds), n_users, n_items, share_done)


def question(user: int, context: list[int], now: float, n_items: int) -> Question:
    return Question(user, np.array(context, np.int32), now, n_items)


def made(name: str, variant: str) -> Peer:
    try:
        return PEERS[name][variant]()
    except NotInstalled as lacking:
        pytest.skip(str(lacking))


def random_clicks(n: int = 200, n_users: int = 9, n_items: int = 20, seed: int = 0) -> Clicks:
    random = np.random.default_rng(seed)
    users, items = random.integers(0, n_users, n), random.integers(0, n_items, n)
    return clicks(users.tolist(), items.tolist(), np.sort(random.random(n) * 50_000).tolist(), n_users, n_items)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_peer_scores_every_known_item(name: str, variant: str) -> None:
    """For a known user and a new one, with a context and without; never nan; and asking changes nothing."""
    peer, seen = made(name, variant), random_clicks()
    peer.learn(seen)
    asked = [question(3, [1, 4, 1], 60_000.0, 20), question(3, [], 60_000.0, 20), question(99, [2], 60_000.0, 20)]
    first, second = ([peer.score(each) for each in asked] for _ in range(2))

    assert [len(scores) for scores in first] == [20, 20, 20]
    assert not np.isnan(first).any()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_peer_takes_new_users_and_items(name: str, variant: str) -> None:
    peer = made(name, variant)
    for stage in (1, 2, 3):
        peer.learn(random_clicks(80, 4 * stage, 10 * stage, seed=stage))

    assert len(peer.score(question(11, [29, 3], 90_000.0, 30))) == 30


def test_growing_keeps_what_was_there() -> None:
    larger = grown(np.array([1, 2], np.int32), 3, -1)

    assert larger.tolist()[:3] == [1, 2, -1]
    assert larger.dtype == np.int32


def test_popularity_halves_after_a_half_life() -> None:
    peer = Popularity(1.0)
    peer.learn(clicks([0, 0, 0], [0, 0, 1], [0.0, 0.0, 3600.0], 1, 2))

    np.testing.assert_allclose(*peer.score(question(0, [], 3600.0, 2)))


def test_recent_items_come_newest_first() -> None:
    peer = Recent()
    peer.learn(clicks([0] * 4, [0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0], 1, 4))
    scores = peer.score(question(0, [1, 0, 1], 4.0, 4))

    assert np.argsort(-scores).tolist() == [1, 0, 3, 2]


def test_rules_weigh_by_distance_and_stop_at_a_gap() -> None:
    peer = Rules()
    peer.learn(clicks([0, 0, 0, 0], [0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0 + GAP_SECONDS], 1, 4))
    scores = peer.score(question(1, [0], 5000.0, 4))

    assert scores[1] == 1.0
    assert scores[2] == 0.5
    assert scores[3] < 0.0


def naive_sessions(seen: Clicks) -> list[tuple[float, list[int]]]:
    """When each session was last added to, and its distinct items, in the order of their first click."""
    found: list[tuple[float, list[int]]] = []
    current: dict[int, int] = {}
    for user, item, now in zip(seen.users.tolist(), seen.items.tolist(), seen.seconds.tolist(), strict=True):
        if user not in current or now - found[current[user]][0] > GAP_SECONDS:
            current[user] = len(found)
            found.append((now, []))
        items = found[current[user]][1]
        found[current[user]] = (now, items if item in items else [*items, item])
    return found


def learned(seen: Clicks) -> Sessions:
    sessions = Sessions()
    sessions.learn(seen)
    return sessions


def found_by(context: Int32, weights: list[float], seen: Clicks) -> Neighbours:
    return learned(seen).neighbours(context, np.array(weights))


def test_neighbours_are_those_of_a_plain_loop() -> None:
    seen, context, weights = random_clicks(), np.array([4, 7, 1], np.int32), [1.0, 0.5, 0.25]
    expected = []
    for session, (now, items) in enumerate(naive_sessions(seen)):
        shared = [place for place, item in enumerate(context.tolist()) if item in items]
        if shared:
            expected.append((-sum(weights[place] for place in shared), -now, session, shared[0]))
    found = found_by(context, weights, seen)

    assert found.sessions.tolist() == [session for _, _, session, _ in sorted(expected)]
    assert found.first.tolist() == [first for _, _, _, first in sorted(expected)]
    np.testing.assert_allclose(found.similarity, [-similarity for similarity, _, _, _ in sorted(expected)])


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_spreading_is_that_of_a_plain_loop(decay: float) -> None:
    seen, context = random_clicks(), np.array([4, 7, 1], np.int32)
    found = found_by(context, [1.0, 0.5, 0.25], seen)
    expected, naive = np.zeros(20), naive_sessions(seen)
    for session, similarity, first in zip(found.sessions, found.similarity, found.first, strict=True):
        items = naive[session][1]
        for place, item in enumerate(items):
            expected[item] += similarity * np.exp(-decay * abs(place - items.index(context[first])))

    np.testing.assert_allclose(learned(seen).spread(found, 20, context[found.first], decay), expected)


def test_distinct_keeps_the_newest_place() -> None:
    assert distinct(np.array([5, 2, 5, 9, 2], np.int32)).tolist() == [5, 2, 9]


@pytest.mark.parametrize(("clicks_of_user", "new"), [(1, 1), (2, 1), (7, 7), (25, 3), (25, 25), (40, 13)])
def test_pieces_hold_each_new_click_once_as_a_target(clicks_of_user: int, new: int) -> None:
    """A user's first click has none before it, so it is no target; tokens stand one place before their targets."""
    history = list(range(100, 100 + clicks_of_user))
    pieces = _pieces(history, new)
    tokens, targets = _padded(pieces)
    wanted = [item + 1 for item in history[max(clicks_of_user - new, 1) :]]

    assert tokens.shape == targets.shape == (len(pieces), LENGTH)
    assert sorted(targets[targets > 0].tolist()) == wanted
    np.testing.assert_array_equal(tokens[targets > 0], targets[targets > 0] - 1)
