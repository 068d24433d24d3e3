"""All that the learner knows, in one object: tables, weights, memory of the stream, meters, random generators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.batch import Float32, Float64, Int64
from model.config import LearnerConfig
from model.drift import Signals
from model.kernels import NEVER
from model.limits import COPIES, ID_OVERHEAD_BYTES, PROCESS_BYTES, RowBytes, limits
from model.parts import age, embedding, history, neighbours, own_items, popularity, transitions
from model.parts.mixing import Layout, Mixing
from model.parts.neighbours import Sessions
from model.parts.own_items import OwnItems
from model.sampling import TargetRing
from model.sketch import DEPTH, Sketch
from model.table import TOUCHED_BYTES, Column, Columns, Table

MEANS = ("loss", "hit_ratio", "mrr", "popular_hit_ratio", "popular_mrr")
ADMITTED, REFUSED, EVICTED = range(3)
"""Columns of `State.tally`."""
LIMITED = ("users", "items")
"""The tables that have a cap, in the order of `State.tally`."""
SCORED_HALF_LIFE = 2_000.0
LEARNED_HALF_LIFE = 20_000.0


class State:
    """The learner's whole state. Everything reachable from here is in a snapshot, but for columns that are not kept.

    `now_ms` float64 [1]: the time of the newest click of a finished batch. Of users and items: `tally` int64 [2, 3] ids
    that got a row, that were refused one (once per batch), rows evicted; `sketches` of the ids without a row;
    `landmarks` int64 [2] where in the count of clicks learned, `clicks` int64 [1], worth is measured from (`eviction`).

    `costs`: bytes per row. Raises `ValueError` when the config's budget of bytes is too small.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self.config = config
        self.costs = row_bytes(config)
        self.limits = limits(config, self.costs)
        self.users = Table(user_columns(config), self.limits.users.rows)
        self.items = Table(item_columns(config), self.limits.items.rows)
        self.types = Table(embedding.type_columns())
        self.chunks = Columns(own_items.chunk_columns())
        self.sessions = Columns(neighbours.ring_columns())
        self.sessions_begun = np.zeros(1, np.int64)
        self.positions = embedding.first_positions(config.sequence_length)
        self.position_sums = np.zeros(config.sequence_length, np.float32)
        self.mixing = Mixing(config)
        self.totals = np.full(len(config.half_lives_hours), NEVER)
        self.now_ms = np.full(1, NEVER)
        self.ring = TargetRing((config.long_ring, config.short_ring))
        self.signals = Signals()
        self.means = np.zeros((len(MEANS), 2))
        self.mean_priority = np.zeros(2)
        self.purse = np.zeros(1)
        self.tally = np.zeros((len(LIMITED), 3), np.int64)
        self.sketches = tuple(Sketch(config.admission_width) for _ in LIMITED)
        self.clicks = np.zeros(1, np.int64)
        self.landmarks = np.zeros(len(LIMITED), np.int64)
        self.learn_random = np.random.Generator(np.random.PCG64(config.seed))
        self.score_random = np.random.Generator(np.random.PCG64([config.seed, 1]))

    def arrays(self) -> dict[str, Float64 | Float32 | Int64]:
        """The arrays of fixed size, by name, as they are (no copies)."""
        return {
            "positions": self.positions,
            "position_sums": self.position_sums,
            "mixing": self.mixing.values,
            "mixing_served": self.mixing.served,
            "fisher": self.mixing.fisher,
            "gradient": self.mixing.gradient,
            "pending": self.mixing.pending,
            "steps": self.mixing.steps,
            "gates": self.mixing.gates,
            "gate_sums": self.mixing.gate_sums,
            "gates_served": self.mixing.gates_served,
            "totals": self.totals,
            "now_ms": self.now_ms,
            "sessions_begun": self.sessions_begun,
            "ring_norms": self.ring.norms,
            "signals": self.signals.moments,
            "means": self.means,
            "mean_priority": self.mean_priority,
            "purse": self.purse,
            "tally": self.tally,
            "clicks": self.clicks,
            "landmarks": self.landmarks,
        }

    def columns(self) -> dict[str, Columns]:
        """All that has rows, by name: the tables of ids, then what hangs on them."""
        return {
            "users": self.users,
            "items": self.items,
            "types": self.types,
            "chunks": self.chunks,
            "sessions": self.sessions,
        }

    def tables(self) -> dict[str, Table]:
        """Those of the above that have ids."""
        return {"users": self.users, "items": self.items, "types": self.types}

    def readable(self) -> Readable:
        """What ranking needs, as it is now."""
        return Readable(
            self.config,
            self.users,
            self.items,
            self.types,
            self.chunks,
            self.sessions,
            self.sessions_begun,
            self.positions,
            self.mixing.served,
            self.mixing.gates_served,
            self.totals,
            self.now_ms,
        )

    def occupancy(self) -> dict[str, dict[str, int]]:
        """Of users and items: `rows`, `capacity`, and of all times `admitted`, `refused`, `evicted`; of `memory`: bytes
        `used`, by estimate, and the `budget`, 0 for none.
        """
        capacities = (self.limits.users.rows, self.limits.items.rows)
        found = {
            name: {
                "rows": len(self.columns()[name]),
                "capacity": capacity,
                **dict(zip(("admitted", "refused", "evicted"), tally.tolist(), strict=True)),
            }
            for name, capacity, tally in zip(LIMITED, capacities, self.tally, strict=True)
        }
        return found | {"memory": {"used": self.bytes_used(), "budget": self.limits.budget}}

    def bytes_used(self) -> int:
        """What the learner's process takes, by estimate: rows in use with their copies, and what does not grow."""
        costs = self.costs
        rows = len(self.users) * costs.user + len(self.items) * costs.item + len(self.chunks) * costs.chunk
        text = self.users.text_bytes + self.items.text_bytes
        return costs.fixed + COPIES * (rows + text) + ID_OVERHEAD_BYTES * (len(self.users) + len(self.items))

    def add_mean(self, name: str, total: float, weight: float, half_life: float) -> None:
        """Take `weight` more observations that sum to `total` into a decayed mean."""
        row = self.means[MEANS.index(name)]
        row *= 0.5 ** (weight / half_life)
        row += (total, weight)


@dataclass(slots=True)
class Readable:
    """The part of the state that ranking reads: the live learner's own, or a view's copy of it.

    `mixing`: served global weights; `gates` float32: the gates' rows; `totals`: log totals of the popularity counters
    [P]; `now_ms`, `begun`: as in the state.
    """

    config: LearnerConfig
    users: Table
    items: Table
    types: Table
    chunks: Columns
    sessions: Columns
    begun: Int64
    positions: Float32
    mixing: Float64
    gates: Float32
    totals: Float64
    now_ms: Float64

    @property
    def layout(self) -> Layout:
        return Layout(len(self.config.half_lives_hours), self.config.sequence_length)

    def own_items(self) -> OwnItems:
        """The users' own items, as views."""
        return OwnItems.of(self.users, self.chunks, self.items)

    def neighbour_sessions(self) -> Sessions:
        """The kept sessions, as views."""
        return Sessions.of(self.sessions, self.users, self.items, self.begun, self.config.sessions)


def user_columns(config: LearnerConfig) -> dict[str, Column]:
    """The columns of the user table, by part."""
    clicks = history.user_columns(config.sequence_length)
    return clicks | own_items.user_columns() | neighbours.user_columns() | worth_column()


def worth_column() -> dict[str, Column]:
    """`worth`: what an eviction goes by, measured from the table's landmark on (`eviction`)."""
    return {"worth": Column(0, np.float64)}


def item_columns(config: LearnerConfig) -> dict[str, Column]:
    """The columns of the item table, by part; `long_count`, `short_count`: how often an item is in the target rings."""
    counts = {"long_count": Column(0, np.int32, memory=True), "short_count": Column(0, np.int32, memory=True)}
    scratch = {
        "slot": Column(0, np.int32, -1, kept=False),
        "mark": Column(0, np.int32, -1, kept=False),
        "near": Column(0, np.float32, kept=False),
    }
    counters = popularity.item_columns(len(config.half_lives_hours)) | age.item_columns() | own_items.item_columns()
    pairs = transitions.item_columns(config.transitions) | neighbours.item_columns(config.item_sessions)
    return embedding.item_columns(config.dim) | counters | pairs | counts | scratch | worth_column()


def row_bytes(config: LearnerConfig) -> RowBytes:
    """What rows cost by their columns, and what does not grow with them: the process, sessions, rings, sketches."""
    sessions = config.sessions * _bytes(neighbours.ring_columns())
    rings = np.dtype(np.int32).itemsize * (config.long_ring + config.short_ring)
    fixed = PROCESS_BYTES + COPIES * sessions + rings + len(LIMITED) * DEPTH * config.admission_width
    return RowBytes(
        _bytes(user_columns(config)), _bytes(item_columns(config)), _bytes(own_items.chunk_columns()), fixed
    )


def _bytes(columns: dict[str, Column]) -> int:
    return sum(column.bytes for column in columns.values()) + 2 * TOUCHED_BYTES
