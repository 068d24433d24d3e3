"""Small click streams with known properties."""

from __future__ import annotations

import numpy as np

from model.batch import Batch, Learned, Scores
from model.config import LearnerConfig
from model.learner import Learner

SECOND = 1000
SMALL = LearnerConfig(
    dim=6,
    sequence_length=3,
    negatives=8,
    block=16,
    long_ring=50,
    short_ring=10,
    half_lives_hours=(1.0, 24.0),
    weight_step_clicks=100,
)


def random_batches(count: int, size: int, seed: int = 0, users: int = 7, items: int = 12) -> list[Batch]:
    """`count` batches of `size` clicks, items by a skewed distribution that widens, so that new ids keep coming."""
    random = np.random.default_rng(seed)
    made, now = [], 0
    for number in range(count):
        times = now + np.sort(random.integers(0, 3_600_000, size))
        now = int(times[-1]) if size else now
        who = [f"u{k}" for k in random.integers(0, users + number, size)]
        what = [f"i{int(k)}" for k in (items + 3 * number) * random.random(size) ** 2]
        kinds = [("view", "cart", "purchase", "odd")[k] for k in random.integers(0, 4, size)]
        made.append(Batch.of(who, what, times, kinds))
    return made


def cycle_batches(count: int, size: int, items: int, seed: int = 0) -> list[Batch]:
    """Users who walk through a fixed cycle of items from a random start: the last item tells the next one."""
    random = np.random.default_rng(seed)
    place = random.integers(0, items, 20)
    made = []
    for number in range(count):
        users = random.integers(0, 20, size)
        what = []
        for user in users:
            place[user] = (place[user] + 1) % items
            what.append(f"i{place[user]}")
        made.append(Batch.of([f"u{k}" for k in users], what, np.arange(size) * SECOND + number * size * SECOND))
    return made


def run(learner: Learner, batches: list[Batch]) -> list[tuple[Scores, Learned]]:
    """Test, then learn, batch after batch."""
    return [(learner.score(batch), learner.learn(batch)) for batch in batches]
