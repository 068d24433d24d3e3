"""Test-then-learn: which clicks are scored, what may be known of each, and the rank that a contender gives it.

The protocol, for every contender alike. The stream runs in time order, in batches. A click's context is its user's
last ten clicks, those of the same batch included, less the items that are not yet in a finished batch. All items of
finished batches are ranked; an unseen target is a miss (rank infinity); ties are averaged. Scored is a seeded random
fraction of the clicks whose user clicked before, after the first `warmup` share of the stream. Each batch is ranked
on the state before it, then learned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.streams import Stream
from model.batch import Float64, Int32, Int64

CONTEXT_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Exam:
    """What all contenders sit: a stream, its batch size, and the places of the scored clicks, int64 ascending.

    `previous` int64 [n]: the place of the click before by the same user, -1 for none.
    """

    stream: Stream
    batch: int
    chosen: Int64
    previous: Int64

    def batches(self) -> Iterator[tuple[slice, Int64]]:
        """Each batch's place in the stream, and which of the stream's clicks are scored in it."""
        for start in range(0, len(self.stream), self.batch):
            stop = min(start + self.batch, len(self.stream))
            first, last = np.searchsorted(self.chosen, (start, stop))
            yield slice(start, stop), self.chosen[first:last]

    def known_items(self, start: int) -> int:
        """How many items the batches before `start` have; they are the rows below this number."""
        return int(self.stream.item_rows[:start].max(initial=-1)) + 1

    def context(self, place: int, known_items: int) -> Int32:
        """Item rows of the context of the click at `place`, newest first; up to ten, items may repeat."""
        found, before = [], int(self.previous[place])
        for _ in range(CONTEXT_LENGTH):
            if before < 0:
                break
            found.append(self.stream.item_rows[before])
            before = int(self.previous[before])
        context = np.array(found, np.int32)
        return context[context < known_items]

    def repeats(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the target of each scored click is in its context, bool [scored]."""
        found = []
        for batch, chosen in self.batches():
            known = self.known_items(batch.start)
            found += [bool(self.stream.item_rows[place] in self.context(place, known)) for place in chosen.tolist()]
        return np.array(found, np.bool_)


def set_exam(stream: Stream, batch: int = 500, fraction: float = 0.2, warmup: float = 0.1, seed: int = 0) -> Exam:
    """Draw the scored clicks; the same ones whatever the batch size."""
    previous = _previous(stream.user_rows)
    drawn = np.random.default_rng(seed).random(len(stream)) < fraction
    drawn[: int(len(stream) * warmup)] = False
    return Exam(stream, batch, np.flatnonzero(drawn & (previous >= 0)).astype(np.int64), previous)


def _previous(users: Int32) -> Int64:
    order = np.argsort(users, kind="stable")
    same = users[order][1:] == users[order][:-1]
    previous = np.full(len(users), -1, np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


class Contender(Protocol):
    """What sits an exam."""

    def ranks(self, batch: slice, chosen: Int64) -> Float64:
        """The ranks of the targets of the clicks at `chosen`, all of them in `batch`; infinity for a miss."""
        ...

    def learn(self, batch: slice) -> None:
        """Count the batch in: from now on it is finished."""
        ...


@dataclass(frozen=True, slots=True)
class Sat:
    """An exam's outcome: the ranks of `exam.chosen`, and what the two verbs cost.

    Seconds are the processor's, which other work on the machine disturbs least.
    """

    ranks: Float64
    learn_seconds: float
    score_seconds: float


def sit(contender: Contender, exam: Exam) -> Sat:
    """Lead `contender` through the stream."""
    ranks: list[Float64] = [np.empty(0)]
    scoring = learning = 0.0
    for batch, chosen in exam.batches():
        began = time.process_time()
        if len(chosen):
            ranks.append(contender.ranks(batch, chosen))
        scored = time.process_time()
        contender.learn(batch)
        scoring, learning = scoring + scored - began, learning + time.process_time() - scored
    return Sat(np.concatenate(ranks), learning, scoring)


def rank_of(scores: Float64, target: int) -> float:
    """1 + the scores above the target's + half of the others that tie with it; infinity for one without a score."""
    if target >= len(scores):
        return float("inf")
    mark = scores[target]
    above, equal = np.count_nonzero(scores > mark), np.count_nonzero(scores == mark)
    return 1.0 + above + (equal - 1) / 2.0
