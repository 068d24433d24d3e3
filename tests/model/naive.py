"""The slow, obvious versions: float64, loops and dictionaries, written from the formulas and not from the kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model import candidates as candidates_module
from model.learner import Learner
from model.parts import age, neighbours, own_items, repeats, transitions
from model.parts.history import Contexts
from model.parts.popularity import long_counter
from model.parts.transitions import Transitions

Array = npt.NDArray[Any]
FLOOR = -12.5


def by_item(learner: Learner, item: int, now: float) -> list[float]:
    """The features that depend on the item alone: log shares counted from the floor, log age in hours."""
    shares = np.maximum(learner.items["log_counts"][item] - learner.state.totals, FLOOR) - FLOOR
    return [*shares.tolist(), age.feature(float(learner.items["first_ms"][item]), now)]


def features(learner: Learner, asked: Contexts, b: int, item: int, near: tuple[dict[int, float], float]) -> list[float]:
    """All features of one candidate, each by its part's own formula. `near`: shares by item, and the mass."""
    now, time, layout = float(asked.times[0]), float(asked.times[b]), learner.state.mixing.layout
    common = by_item(learner, item, now)
    popularity, log_age = common[long_counter(learner.config.half_lives_hours)], common[layout.age]
    clicked = asked.items[b].tolist()
    known = [before for before in clicked if before >= 0][: transitions.LAGS]
    rows, width = Transitions.of(learner.items), learner.config.transitions
    follows = [
        transitions.feature(rows, before, item, time, width if lag == 0 else min(15, width))
        for lag, before in enumerate(known)
    ]
    follows += [0.0] * (transitions.LAGS - len(known))
    log_share = float(learner.items["log_counts"][item, long_counter(learner.config.half_lives_hours)])
    log_share -= float(learner.state.totals[long_counter(learner.config.half_lives_hours)])
    return [
        *common,
        *repeats.features(clicked, int(asked.fresh[b]), item, popularity, log_age),
        *follows,
        follows[0] * popularity,
        *own_items.features(learner.state.readable().own_items(), int(asked.users[b]), item, time, popularity),
        *neighbours.features(near[0].get(item, 0.0), near[1], max(log_share, 4 * FLOOR)),
    ]


def certain(learner: Learner, block: Any, b: int) -> list[int]:
    """The certain candidates of a click: target, context, strongest transitions, neighbours, own items."""
    clicked = [int(item) for item in block.contexts.items[b] if item >= 0]
    found = [int(block.targets[b]), *clicked]
    if clicked:
        found += [
            int(item) for item in learner.items["next_items"][clicked[0], : candidates_module.SURE_NEXT] if item >= 0
        ]
    if block.near_rows[b] >= 0:
        found += [
            int(item) for item in block.near.items[block.near_rows[b], : candidates_module.SURE_NEAR] if item >= 0
        ]
    held = list[int]()
    chunk = learner.users["own_head"][block.contexts.users[b]]
    while chunk >= 0:
        held += [int(item) for item in learner.state.chunks["items"][chunk] if item >= 0]
        chunk = learner.state.chunks["links"][chunk]
    return list(dict.fromkeys(found + [item for item in held if item not in found][: candidates_module.SURE_OWN]))


def near_of(block: Any, b: int) -> tuple[dict[int, float], float]:
    """Shares by item, and the mass, of the search that a click reads."""
    row = block.near_rows[b]
    if row < 0:
        return {}, 0.0
    pairs = zip(block.near.items[row].tolist(), block.near.shares[row].tolist(), strict=True)
    return {item: share for item, share in pairs if item >= 0}, float(block.near.mass[row])


def candidates(
    learner: Learner, block: Any, negatives: Sequence[int], correction: Sequence[float]
) -> list[dict[int, tuple[float, Array]]]:
    """Correction and features of each candidate, click by click: the certain ones, and all the negatives."""
    found = list[dict[int, tuple[float, Array]]]()
    for b in range(len(block)):
        shifts = dict(zip(negatives, correction, strict=True)) | dict.fromkeys(certain(learner, block, b), 0.0)
        found.append(
            {
                item: (shift, np.array(features(learner, block.contexts, b, item, near_of(block, b))))
                for item, shift in shifts.items()
            }
        )
    return found


def context_vector(model: Mapping[str, Array], clicked: Array, kinds: Array) -> Array:
    """H of one click."""
    h = np.zeros(model["output"].shape[1])
    for k, item in enumerate(clicked):
        if item >= 0:
            h += model["positions"][k] * model["priorities"][kinds[k]] * model["input"][item]
    return np.asarray(h)


def weights(model: Mapping[str, Array], places: Array, opened: Array, searched: bool) -> Array:  # noqa: FBT001
    """A context's weights: global, those of its gates, and what a search changes at `places`."""
    size = model["gates"].shape[1]
    total = model["weights"][:size] + model["gates"][opened].sum(axis=0)
    if searched:
        total[places] += model["weights"][size:]
    return np.asarray(total)


def block_loss(
    model: Mapping[str, Array],
    block: Any,
    found: Sequence[Mapping[int, tuple[float, Array]]],
    opened: Array,
    places: Array,
) -> float:
    """Sum over the block of weight * cross-entropy of the target, which comes first, among its candidates."""
    total, asked = 0.0, block.contexts
    for b in range(len(block)):
        mix = weights(model, places, opened[b], bool(block.near_rows[b] >= 0))
        h = context_vector(model, asked.items[b], asked.kinds[b])
        logits = {
            item: mix[0] * (h @ model["output"][item]) + mix[1:] @ values - shift
            for item, (shift, values) in found[b].items()
        }
        top = max(logits.values())
        mass = sum(math.exp(value - top) for value in logits.values())
        total += float(block.weights[b]) * (math.log(mass) + top - logits[int(block.targets[b])])
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


def neighbour_shares(
    sessions: Sequence[Sequence[int]],
    recent: Mapping[int, Sequence[int]],
    clicked: Sequence[int],
    stale: Sequence[bool],
) -> tuple[dict[int, float], float]:
    """Session kNN from the formula: `sessions` by number, `recent` numbers per item, the context newest first.

    Every session that shares an item is looked into (fewer than SIMILAR of them): shares by item, and the mass.
    """
    similarity: dict[int, float] = {}
    seen: list[int] = []
    for item, old in zip(clicked, stale, strict=True):
        if item in seen:
            continue
        idf = math.log(1 + len(sessions) / (sum(item in session for session in sessions) + 1))
        for number in recent.get(item, ()):
            gain = 0.97 ** len(seen) * idf**2 * (0.3 if old else 1.0)
            similarity[number] = similarity.get(number, 0.0) + gain
        seen.append(item)
    total = sum(similarity.values())
    shares: dict[int, float] = {}
    for number, value in similarity.items():
        for item in sessions[number]:
            shares[item] = shares.get(item, 0.0) + value / total
    return shares, math.log1p(total)
