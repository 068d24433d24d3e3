"""What a peer is: something that learns batches of clicks, and scores all items for one question."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bench.protocol import Exam, rank_of
from model.batch import Float64, Int32, Int64

FAR = 1e12
"""Further than any two scores or popularities are apart."""
Number = TypeVar("Number", bound=np.number[Any])


class NotInstalled(Exception):
    """A peer's library is not here; the message says what to install."""


def library(name: str, extra: str = "peers") -> Any:
    """The module `name` of a library that only a peer needs. Raises `NotInstalled` when it is not here."""
    try:
        return import_module(name)
    except ImportError as error:
        raise NotInstalled(f"no module {error.name}: pip install '.[{extra}]'") from None


@dataclass(frozen=True, slots=True)
class Clicks:
    """A batch: rows of users and items, int32 [n], and times in seconds, float64 [n] ascending.

    `n_users`, `n_items`: rows that there are once this batch is learned. `share_done`: how much of the stream has
    passed then, for those that fit anew now and then.
    """

    users: Int32
    items: Int32
    seconds: Float64
    n_users: int
    n_items: int
    share_done: float


@dataclass(frozen=True, slots=True)
class Question:
    """What is known of a click before it comes: its user, its time in seconds, the context, newest first.

    `context` int32 holds known items only, may repeat them, and may be empty. `n_items`: items of finished batches.
    """

    user: int
    context: Int32
    now: float
    n_items: int


class Peer(Protocol):
    """A recommender beside the product. Rows are numbered by first appearance, so tables grow at their end."""

    def learn(self, clicks: Clicks) -> None: ...

    def score(self, question: Question) -> Float64:
        """A score for each item row below `question.n_items`; called between batches, changes nothing."""
        ...


class PeerContender:
    """A peer as a contender: it is asked for the scored clicks only, so its scoring costs only what they need."""

    def __init__(self, peer: Peer, exam: Exam) -> None:
        self._peer = peer
        self._exam = exam
        self._n_users = self._n_items = 0

    def ranks(self, batch: slice, chosen: Int64) -> Float64:
        return np.array([self._rank(place) for place in chosen.tolist()])

    def learn(self, batch: slice) -> None:
        stream = self._exam.stream
        users, items = stream.user_rows[batch], stream.item_rows[batch]
        self._n_users = max(self._n_users, int(users.max(initial=-1)) + 1)
        self._n_items = max(self._n_items, int(items.max(initial=-1)) + 1)
        seconds, share_done = stream.times[batch] / 1000, batch.stop / len(stream)
        self._peer.learn(Clicks(users, items, seconds, self._n_users, self._n_items, share_done))

    def _rank(self, place: int) -> float:
        stream, target = self._exam.stream, int(self._exam.stream.item_rows[place])
        if target >= self._n_items:
            return float("inf")
        context = self._exam.context(place, self._n_items)
        question = Question(int(stream.user_rows[place]), context, stream.times[place] / 1000, self._n_items)
        return rank_of(self._peer.score(question), target)


def grown(array: npt.NDArray[Number], length: int, fill: float = 0.0) -> npt.NDArray[Number]:
    """`array`, or a copy of at least `length` rows, doubled so that growth is cheap; new rows hold `fill`."""
    if length <= len(array):
        return array
    larger = np.full((max(length, 2 * len(array)), *array.shape[1:]), fill, array.dtype)
    larger[: len(array)] = array
    return larger


def beneath(scores: Float64, popular: Float64) -> Float64:
    """`scores` of the first items, all others by `popular`; those scored 0 too, all of them beneath the rest."""
    below = popular - FAR
    below[: len(scores)] = np.where(scores == 0.0, below[: len(scores)], scores)
    return below
