"""The serving view shows whole batches only, and what it shows is what the learner would say."""

from __future__ import annotations

import threading

import numpy as np

from model.learner import Learner
from model.view import ServingView
from tests.model.streams import SMALL, random_batches, run


def answers(source: Learner | ServingView, users: list[str]) -> list[object]:
    """Everything that a source says about some users."""
    return [(source.recommend(user, 9), source.explain(user, "i1")) for user in users]


def test_view_says_what_the_learner_says() -> None:
    """After every publication, for known and unknown users, the view answers exactly like the learner."""
    learner, view = Learner(SMALL), ServingView()
    assert view.recommend("u1", 5) == view.explain("u1", "i1") == []

    for batch in random_batches(12, 30):
        run(learner, [batch])
        view.publish(learner)

        users = [*learner.users.ids, "nobody"]
        assert answers(view, users) == answers(learner, users)


def test_view_stands_still_between_publications() -> None:
    """What the learner learns is not seen before it is published."""
    learner, view, batches = Learner(SMALL), ServingView(), random_batches(6, 40)
    run(learner, batches[:3])
    view.publish(learner)
    users = list(learner.users.ids)
    before = answers(view, users)

    run(learner, batches[3:])

    assert answers(view, users) == before
    assert answers(learner, users) != before


def test_second_view_and_put_back_memory() -> None:
    """A view that takes turns with another, or a learner whose memory was reset, still shows all."""
    learner, views, batches = Learner(SMALL), (ServingView(), ServingView()), random_batches(6, 40)
    for number, batch in enumerate(batches):
        run(learner, [batch])
        views[number % 2].publish(learner)
        assert answers(views[number % 2], learner.users.ids) == answers(learner, learner.users.ids)

    learner.reset_context(None)
    views[1].publish(learner)

    assert answers(views[1], learner.users.ids) == answers(learner, learner.users.ids)


def test_only_touched_rows_are_copied() -> None:
    """A publication after one click leaves the rows alone that the click did not touch."""
    learner, view = Learner(SMALL), ServingView()
    run(learner, random_batches(6, 40))
    view.publish(learner)
    mine = view._read
    assert mine is not None
    mine.users["last_ms"][:] = 99.0

    run(learner, random_batches(1, 1))
    view.publish(learner)

    assert int((mine.users["last_ms"] != 99.0).sum()) == 1


def test_never_torn() -> None:
    """While batches are published, another thread only ever sees answers of some finished batch."""
    learner, view, batches = Learner(SMALL), ServingView(), random_batches(80, 30)
    run(learner, batches[:2])
    view.publish(learner)
    allowed, seen, stop = [view.recommend("u1", 9)], [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(view.recommend("u1", 9))

    reader = threading.Thread(target=ask)
    reader.start()
    for batch in batches[2:]:
        run(learner, [batch])
        view.publish(learner)
        allowed.append(learner.recommend("u1", 9))
    stop.set()
    reader.join()

    assert len(seen) > 10
    assert all(answer in allowed for answer in seen)
    assert np.unique([str(answer) for answer in seen]).size > 1
