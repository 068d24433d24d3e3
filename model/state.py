"""All that the learner knows, in one object: tables, weights, memory of the stream, meters, random generators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.batch import Float32, Float64
from model.config import LearnerConfig
from model.drift import Signals
from model.kernels import NEVER
from model.parts import embedding, history, popularity
from model.parts.mixing import Mixing
from model.sampling import TargetRing
from model.table import Column, Table

MEANS = ("loss", "hit_ratio", "mrr", "popular_hit_ratio", "popular_mrr")
SCORED_HALF_LIFE = 2_000.0
LEARNED_HALF_LIFE = 20_000.0


class State:
    """The learner's whole state. Everything reachable from here is in a snapshot, but for columns that are not kept."""

    def __init__(self, config: LearnerConfig) -> None:
        self.config = config
        self.users = Table(user_columns(config))
        self.items = Table(item_columns(config))
        self.types = Table(embedding.type_columns())
        self.positions = embedding.first_positions(config.sequence_length)
        self.position_sums = np.zeros(config.sequence_length, np.float32)
        self.mixing = Mixing(config)
        self.totals = np.full(len(config.half_lives_hours), NEVER)
        self.ring = TargetRing((config.long_ring, config.short_ring))
        self.signals = Signals()
        self.means = np.zeros((len(MEANS), 2))
        self.mean_priority = np.zeros(2)
        self.purse = np.zeros(1)
        self.learn_random = np.random.Generator(np.random.PCG64(config.seed))
        self.score_random = np.random.Generator(np.random.PCG64([config.seed, 1]))

    def arrays(self) -> dict[str, Float64 | Float32]:
        """The arrays of fixed size, by name, as they are (no copies)."""
        return {
            "positions": self.positions,
            "position_sums": self.position_sums,
            "mixing": self.mixing.values,
            "mixing_served": self.mixing.served,
            "fisher": self.mixing.fisher,
            "gradient": self.mixing.gradient,
            "pending": self.mixing.pending,
            "totals": self.totals,
            "ring_norms": self.ring.norms,
            "signals": self.signals.moments,
            "means": self.means,
            "mean_priority": self.mean_priority,
            "purse": self.purse,
        }

    def readable(self) -> Readable:
        """What ranking needs, as it is now."""
        return Readable(
            self.config, self.users, self.items, self.types, self.positions, self.mixing.served, self.totals
        )

    def add_mean(self, name: str, total: float, weight: float, half_life: float) -> None:
        """Take `weight` more observations that sum to `total` into a decayed mean."""
        row = self.means[MEANS.index(name)]
        row *= 0.5 ** (weight / half_life)
        row += (total, weight)


@dataclass(slots=True)
class Readable:
    """The part of the state that ranking reads: the live learner's own, or a view's copy of it.

    `mixing`: served global weights [1 + P + K]; `totals`: log totals of the popularity counters [P].
    """

    config: LearnerConfig
    users: Table
    items: Table
    types: Table
    positions: Float32
    mixing: Float64
    totals: Float64


def user_columns(config: LearnerConfig) -> dict[str, Column]:
    """The columns of the user table, by part."""
    scratch = {"touched": Column(0, np.uint8, kept=False), "touched_order": Column(0, np.int32, kept=False)}
    return embedding.user_columns(config.dim) | history.user_columns(config.sequence_length) | scratch


def item_columns(config: LearnerConfig) -> dict[str, Column]:
    """The columns of the item table, by part; `long_count`, `short_count`: how often an item is in the target rings."""
    counts = {"long_count": Column(0, np.int32), "short_count": Column(0, np.int32)}
    scratch = {
        "slot": Column(0, np.int32, -1, kept=False),
        "touched": Column(0, np.uint8, kept=False),
        "touched_order": Column(0, np.int32, kept=False),
    }
    counters = popularity.item_columns(len(config.half_lives_hours))
    return embedding.item_columns(config.dim) | counters | counts | scratch
