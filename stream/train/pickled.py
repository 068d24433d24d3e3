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
import numpy.typing as npt

from model import ranking
from model.learner import Learner

LAYOUT = 1
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
    prior, popular = ranking.priors(read)
    scale, _, repeats = read_mixing(learner)
    users, items, types = learner.users, learner.items, learner.state.types
    recent = np.where(users["clicks"] >= 0, types["priority"][users["kinds"]], np.float32(0.0))
    return {
        "layout": LAYOUT,
        "user_embeddings": users["vector"],
        "item_embeddings": items["vector"],
        "item_input_embeddings": items["input"],
        "item_bias": items["bias"],
        "item_prior": prior,
        "item_popularity": popular,
        "embedding_scale": scale,
        "repeat_weights": repeats,
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


def read_mixing(learner: Learner) -> tuple[float, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The served global weights: of the embeddings' score, of popularity [P], of repeats [K]."""
    state = learner.state
    return state.mixing.split(state.mixing.served, len(state.totals))


def _float(value: Any) -> Any:
    """JSON has no NaN: what came back as None is one."""
    if isinstance(value, list):
        return [_float(each) for each in value]
    return math.nan if value is None else float(value)
