"""The slow, obvious versions: float64, loops and dictionaries, written from the formulas and not from the kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FLOOR = -12.5


def popularity_features(log_counts: Array, totals: Array) -> Array:
    """[items, P]: log share, floored, counted from the floor."""
    return np.asarray(np.maximum(log_counts - totals, FLOOR) - FLOOR)


def context_vector(model: Mapping[str, Array], clicked: Array, kinds: Array, user: int, known_users: int) -> Array:
    """H of one click."""
    h = model["user"][user].copy() if user < known_users else np.zeros(model["output"].shape[1])
    for k, item in enumerate(clicked):
        if item >= 0:
            h += model["positions"][k] * model["priorities"][kinds[k]] * model["input"][item]
    return h


def score(model: Mapping[str, Array], h: Array, clicked: Array, item: int) -> float:
    """The score of one candidate: scale * h . out + bias + popularity + repeats."""
    counters = model["features"].shape[1]
    weights = model["weights"]
    value = weights[0] * (h @ model["output"][item]) + model["bias"][item]
    value += weights[1 : 1 + counters] @ model["features"][item]
    value += sum(weights[1 + counters + k] for k, other in enumerate(clicked) if other == item)
    return float(value)


def block_loss(model: Mapping[str, Array], block: Any, negatives: Sequence[int], correction: Sequence[float]) -> float:
    """Sum over the block of weight * cross-entropy; own candidates uncorrected, negatives that are own left out."""
    total = 0.0
    for b in range(len(block.targets)):
        h = context_vector(model, block.clicked[b], block.kinds[b], int(block.users[b]), block.known_users)
        own = dict.fromkeys([int(block.targets[b]), *(int(i) for i in block.clicked[b] if i >= 0)])
        logits = [score(model, h, block.clicked[b], item) for item in own]
        logits += [
            score(model, h, block.clicked[b], item) - shift
            for item, shift in zip(negatives, correction, strict=True)
            if item not in own
        ]
        top = max(logits)
        total += float(block.weights[b]) * (math.log(sum(math.exp(x - top) for x in logits)) + top - logits[0])
    return total


def slope(model: dict[str, Array], name: str, place: tuple[int, ...], loss: Any, step: float = 1e-5) -> float:
    """Central finite difference of `loss()` along one number of the model."""
    kept = model[name][place]
    model[name][place] = kept + step
    high = loss()
    model[name][place] = kept - step
    low = loss()
    model[name][place] = kept
    return float((high - low) / (2 * step))


def rank(scores: Sequence[float], target: int) -> float:
    """1 + better ones + half of the others that tie."""
    others = [value for item, value in enumerate(scores) if item != target]
    return 1 + sum(value > scores[target] for value in others) + sum(value == scores[target] for value in others) / 2


def decayed_counts(clicks: Sequence[tuple[int, float]], half_life: float, now: float) -> dict[int, float]:
    """Clicks (item, time) counted with weights that halve every `half_life`, read at `now`."""
    counts: dict[int, float] = {}
    for item, time in clicks:
        counts[item] = counts.get(item, 0.0) + 0.5 ** ((now - time) / half_life)
    return counts


def contexts(clicks: Sequence[tuple[str, str]], length: int, start: int) -> list[list[str | None]]:
    """For each click (user, item) from `start` on: the user's items before it, newest first, padded with None; items
    that only occur from `start` on are None as well.
    """
    known = {item for _, item in clicks[:start]}
    rows: list[list[str | None]] = []
    for place in range(start, len(clicks)):
        before = [item for user, item in clicks[:place] if user == clicks[place][0]][::-1][:length]
        masked: list[str | None] = [item if item in known else None for item in before]
        rows.append(masked + [None] * (length - len(before)))
    return rows
