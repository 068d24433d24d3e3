"""The model as other people's programs read it: a pickle of plain Python values and numpy arrays, and nothing else.

It is written, never read: Headrace's own state lies beside it. Whatever numpy made it, any numpy opens it, for the only
names in it are `numpy.ndarray` and `bytearray`. docs/batch.md describes the layout and scores with it in numpy alone.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from model import ranking
from model.batch import Float32
from model.learner import Learner
from model.parts import own_items, transitions
from model.parts.popularity import long_counter
from model.parts.transitions import Transitions
from model.state import Readable

LAYOUT = 3
_PROTOCOL = 4
"""Python 3.4 reads it; 5 would need 3.8."""


class _Pickler(pickle.Pickler):
    """numpy's own way names numpy's private modules, which move: numpy 2's pickles do not open in numpy 1.25."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(np.ascontiguousarray(value).tobytes()))
        return NotImplemented


def write(learner: Learner, metadata: Mapping[str, Any], top_n: int, file: IO[bytes]) -> None:
    """Pickle the model into `file`. The same state and metadata give the same bytes."""
    _Pickler(file, _PROTOCOL).dump(plain(learner, metadata, top_n))


def plain(learner: Learner, metadata: Mapping[str, Any], top_n: int) -> dict[str, Any]:
    """What the pickle holds; arrays have a row per user or item, as `user_to_idx` and `item_to_idx` number them."""
    read = learner.state.readable()
    users, items, types = learner.users, learner.items, learner.state.types
    recent = np.where(users["clicks"] >= 0, types["priority"][users["kinds"]], np.float32(0.0))
    return {
        "layout": LAYOUT,
        "user_embeddings": ranking.embed(read, users["clicks"], users["kinds"]),
        "item_embeddings": items["vector"],
        "item_input_embeddings": items["input"],
        "item_popularity": ranking.popular_shares(read),
        **parts(read),
        "position_priorities": learner.position_priorities,
        "type_priorities": learner.type_priorities,
        "user_recent_items": users["clicks"],
        "user_recent_priorities": recent,
        "user_to_idx": dict(users.index),
        "item_to_idx": dict(items.index),
        "top_n": top_n,
        "sequence_length": learner.config.sequence_length,
        "metadata": {name: _float(value) if name in _LOSSES else value for name, value in metadata.items()},
    }


_LOSSES = ("final_loss", "epoch_losses")


def parts(read: Readable) -> dict[str, Any]:
    """The weighted parts of the score beside the sequence, as they are right after the newest click, without gates and
    without neighbours: m items, n users, K places of the context.
    """
    layout, width = read.layout, 1 + read.layout.features
    weights, now = read.mixing[:width].astype(np.float32), float(read.now_ms[0])
    by_item = ranking.by_item(read, now)
    long = by_item[:, long_counter(read.config.half_lives_hours)]
    follows = weights[1 + layout.follows : 1 + layout.own]
    repeat = weights[1 + layout.repeat : 1 + layout.follows]
    return {
        "embedding_scale": float(weights[0]),
        "item_prior": by_item @ weights[1 : 1 + layout.by_item],
        "repeat_weights": repeat[: layout.length],
        "item_repeat_gain": repeat[-2] * long + repeat[-1] * by_item[:, layout.age],
        "next_items": read.items["next_items"],
        "next_strengths": transitions.strengths(Transitions.of(read.items), now),
        "transition_weights": follows[: transitions.LAGS],
        "item_transition_gain": follows[transitions.LAGS] * long,
        **_own(read, weights[1 + layout.own : 1 + layout.near], long, now),
    }


def _own(read: Readable, weights: Float32, long: Float32, now: float) -> dict[str, Any]:
    """Every user's own items, one after the other: user k has those from own_starts[k] to own_starts[k + 1]."""
    owners, chunks = own_items.chains(read.users["own_head"], read.chunks["links"])
    held = read.chunks["items"][chunks]
    row, place = np.nonzero(held >= 0)
    items, users = held[row, place], owners[row]
    features = own_items.table(read.own_items(), chunks[row], place, items, now, long)
    starts = np.searchsorted(users, np.arange(len(read.users) + 1))
    return {"own_starts": starts, "own_items": items, "own_scores": features @ weights}


def _float(value: Any) -> Any:
    """JSON has no NaN: what came back as None is one."""
    if isinstance(value, list):
        return [_float(each) for each in value]
    return math.nan if value is None else float(value)
