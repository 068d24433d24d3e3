"""One block of clicks, from contexts to moved rows. The order of the steps is what makes the gradients exact:
all of them are taken before the first row moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import kernels
from model.batch import Float32, Float64, Int32
from model.losses import softmax_gradient
from model.parts import embedding
from model.parts.mixing import Mixing
from model.sampling import DRAWS_PER_NEGATIVE, draw_negatives, mask_own, own_candidates
from model.state import State
from model.table import touch


@dataclass(frozen=True, slots=True)
class Block:
    """B clicks to train on. `clicked`, `kinds` int32 [B, K] are their contexts, `targets`, `users` int32 [B],
    `weights` float32 [B]. Items and users from `known_items` and `known_users` on are not in a finished batch yet.
    """

    clicked: Int32
    kinds: Int32
    targets: Int32
    users: Int32
    weights: Float32
    known_items: int
    known_users: int

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(slots=True)
class Gradients:
    """What `backward` found, and what it was found from: rows of negatives, own candidates and their gradients."""

    rows: Int32
    own: Int32
    own_gradients: Float32
    hx: Float32
    dhx: Float32
    drows: Float32
    dweights: Float64
    dpositions: Float64
    dpriorities: Float64
    loss: Float64


class Trainer:
    """Trains blocks on a state. Holds only buffers: nothing here outlives a block."""

    def __init__(self, state: State) -> None:
        config = state.config
        self._state = state
        self._rows = np.empty(config.negatives, np.int32)
        self._correction = np.empty(config.negatives, np.float32)
        self._extended = np.empty((config.negatives, config.dim + len(config.half_lives_hours) + 1), np.float32)
        self._totals = np.zeros(1)
        self._touched = {"users": np.zeros(1, np.int32), "items": np.zeros(1, np.int32)}

    def train(self, block: Block, rate: float) -> Float64:
        """Learn a block, steps times `rate`; the loss of each click in nats is answered, float64 [B]."""
        gradients = self.backward(block, self.negatives(block))
        self._move_rows(block, gradients, rate)
        self._move_weights(gradients, rate)
        return gradients.loss

    def negatives(self, block: Block) -> Int32:
        """Draw the block's shared negatives, int32 [<= negatives]; their corrections stay in the buffer."""
        state, items = self._state, self._state.items
        known = block.known_items
        uniforms = state.learn_random.random(2 * DRAWS_PER_NEGATIVE * state.config.negatives)
        slots = items["slot"][:known]
        count = draw_negatives(
            uniforms,
            state.ring.mixture(),
            state.ring.filled(0),
            state.ring.filled(1),
            items["long_count"],
            items["short_count"],
            state.ring.norms,
            slots,
            self._rows,
            self._correction,
        )
        slots[self._rows[:count]] = -1
        return self._rows[:count]

    def backward(self, block: Block, rows: Int32) -> Gradients:
        """Loss and all gradients of a block with the negatives `rows` (corrections in the buffer); nothing moves."""
        state, items = self._state, self._state.items
        scale, popularity, repeats = Mixing.split(state.mixing.values, state.mixing.counters)
        h = self._combine(block)
        hx = _with_weights(h, scale, popularity)
        extended = self._extend(rows)
        own, logits, features = self._own(block, hx, repeats)
        shared: Float32 = hx @ extended.T
        slots = items["slot"]
        slots[rows] = np.arange(len(rows), dtype=np.int32)
        mask_own(own, slots, shared)
        slots[rows] = -1
        loss = softmax_gradient(logits, shared, block.weights)
        dhx: Float32 = shared @ extended
        drows: Float32 = shared.T @ hx
        dweights = np.empty((len(block), len(state.mixing.values)))
        kernels.own_backward(own, block.clicked, logits, features, items["vector"], h, block.known_items, dhx, dweights)
        dpositions, dpriorities = self._priority_gradients(block, dhx, scale)
        return Gradients(rows, own, logits, hx, dhx, drows, dweights, dpositions, dpriorities, loss)

    def touch(self, table: str, rows: Int32) -> None:
        """Note rows of "users" or "items" that a serving view must copy."""
        columns = self._state.users if table == "users" else self._state.items
        touch(rows.ravel(), columns["touched"], columns["touched_order"], self._touched[table])

    def take_touched(self, table: str) -> Int32:
        """The rows noted since the last call, int32, in the order of their first touch."""
        columns, count = (self._state.users if table == "users" else self._state.items), self._touched[table]
        rows: Int32 = columns["touched_order"][: count[0]].copy()
        columns["touched"][rows] = 0
        count[0] = 0
        return rows

    def _combine(self, block: Block) -> Float32:
        state = self._state
        h = np.empty((len(block), state.config.dim), np.float32)
        kernels.combine(
            block.clicked,
            block.kinds,
            block.users,
            state.positions,
            state.types["priority"],
            state.items["input"],
            state.users["vector"],
            block.known_users,
            h,
        )
        return h

    def _extend(self, rows: Int32) -> Float32:
        state, items = self._state, self._state.items
        extended = self._extended[: len(rows)]
        kernels.extend(
            rows, items["vector"], items["bias"], items["log_counts"], state.totals, self._correction, extended
        )
        return extended

    def _own(self, block: Block, hx: Float32, repeats: Float32) -> tuple[Int32, Float32, Float32]:
        """Own candidates [B, C], their logits [B, C] and popularity features [B, C, P]."""
        state, items = self._state, self._state.items
        own = np.empty((len(block), block.clicked.shape[1] + 1), np.int32)
        own_candidates(block.targets, block.clicked, own)
        logits = np.empty(own.shape, np.float32)
        features = np.zeros((*own.shape, len(state.totals)), np.float32)
        kernels.own_logits(
            own,
            block.clicked,
            hx,
            items["vector"],
            items["bias"],
            items["log_counts"],
            state.totals,
            repeats,
            features,
            logits,
        )
        return own, logits, features

    def _priority_gradients(self, block: Block, dhx: Float32, scale: float) -> tuple[Float64, Float64]:
        state = self._state
        dpositions, dpriorities = np.zeros(len(state.positions)), np.zeros(len(state.types))
        kernels.priority_gradients(
            block.clicked,
            block.kinds,
            state.positions,
            state.types["priority"],
            state.items["input"],
            dhx,
            np.float32(scale),
            dpositions,
            dpriorities,
        )
        return dpositions, dpriorities

    def _move_rows(self, block: Block, found: Gradients, rate: float) -> None:
        state, items, users = self._state, self._state.items, self._state.users
        config = state.config
        steps = np.array([rate * config.learning_rate, config.accumulator_start, config.accumulator_decay], np.float32)
        kernels.update_outputs(
            found.rows,
            found.drows,
            found.own,
            found.own_gradients,
            found.hx,
            items["vector"],
            items["vector_sum"],
            items["bias"],
            items["bias_sum"],
            steps,
            rate * config.bias_rate,
        )
        kernels.update_inputs(
            block.clicked,
            block.kinds,
            block.users,
            block.known_users,
            state.positions,
            state.types["priority"],
            found.dhx,
            np.float32(state.mixing.values[0]),
            items["input"],
            items["input_sum"],
            users["vector"],
            users["vector_sum"],
            steps,
        )
        self.touch("items", found.rows)
        self.touch("items", found.own)

    def _move_weights(self, found: Gradients, rate: float) -> None:
        state, config = self._state, self._state.config
        step = rate * config.priority_rate
        embedding.descend(state.positions, state.position_sums, found.dpositions, step, config)
        types = state.types
        embedding.descend(types["priority"], types["priority_sum"], found.dpriorities, step, config)
        state.mixing.learn(found.dweights, config, rate)


def _with_weights(h: Float32, scale: float, popularity: Float32) -> Float32:
    """Rows hx [B, X] = [scale * h | popularity weights | 1]: its product with an extended row is a logit."""
    hx = np.empty((len(h), h.shape[1] + len(popularity) + 1), np.float32)
    np.multiply(h, np.float32(scale), out=hx[:, : h.shape[1]])
    hx[:, h.shape[1] : -1] = popularity
    hx[:, -1] = 1.0
    return hx
