"""One block of clicks, from contexts to moved rows. The order of the steps is what makes the gradients exact:
all of them are taken before the first row moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import candidates, kernels
from model.batch import Float32, Float64, Int32
from model.candidates import DRAWN, Found, Items, Seen
from model.losses import softmax_gradient
from model.parts import embedding, neighbours
from model.parts.history import Contexts
from model.parts.mixing import context_weights
from model.parts.neighbours import Near
from model.parts.popularity import long_counter
from model.parts.transitions import Transitions
from model.sampling import DRAWS_PER_NEGATIVE, draw_negatives
from model.state import State


@dataclass(frozen=True, slots=True)
class Block:
    """B clicks to train on: their contexts, `opened` int32 [B, GATES], `targets` int32 [B], `weights` float32 [B].

    Items from `known_items` on are not in a finished batch yet. `near_rows` int32 [B]: the search in `near` that a
    click reads, or -1.
    """

    contexts: Contexts
    opened: Int32
    targets: Int32
    weights: Float32
    near: Near
    near_rows: Int32
    known_items: int

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, stop: int) -> Block:
        """The clicks from `start` to `stop`, as views."""
        cut = slice(start, stop)
        return Block(
            self.contexts.part(cut),
            self.opened[cut],
            self.targets[cut],
            self.weights[cut],
            self.near,
            self.near_rows[cut],
            self.known_items,
        )


@dataclass(slots=True)
class Gradients:
    """What `backward` found, and what it was found from: rows of negatives, own candidates and their gradients."""

    rows: Int32
    own: Int32
    own_gradients: Float32
    hx: Float32
    dhx: Float32
    scales: Float32
    drows: Float32
    searched: Float32
    dweights: Float32
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
        self._extended = np.empty((config.negatives, config.dim + state.mixing.layout.by_item + 1), np.float32)
        self._similarity = np.zeros(config.sessions, np.float32)
        room = candidates.room(config.sequence_length)
        self._found = Found.empty(config.block, room, state.mixing.layout.features)

    def train(self, block: Block, rate: float) -> Float64:
        """Learn a block, steps times `rate`; the loss of each click in nats is answered, float64 [B]."""
        gradients = self.backward(block, self.negatives(block))
        self._move_rows(block, gradients, rate)
        self._move_weights(block, gradients, rate)
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
        layout = state.mixing.layout
        now = float(block.contexts.times[0])
        searched = (block.near_rows >= 0).astype(np.float32)
        weights = context_weights(layout, state.mixing.values, state.mixing.gates, block.opened, searched)
        scales = np.ascontiguousarray(weights[:, 0])
        h = self._combine(block)
        hx = _with_weights(h, weights, layout.by_item)
        extended = self._extend(rows, now)
        slots = items["slot"]
        slots[rows] = np.arange(len(rows), dtype=np.int32)
        found = self._walk(block, now, rows)
        logits = np.empty(found.items.shape, np.float32)
        shared: Float32 = hx @ extended.T
        kernels.own_logits(
            found.items,
            found.columns,
            found.features,
            weights,
            hx,
            items["vector"],
            slots,
            logits,
            shared,
        )
        slots[rows] = -1
        loss = softmax_gradient(logits, shared, block.weights)
        dhx: Float32 = shared @ extended
        drows: Float32 = shared.T @ hx
        dweights = np.empty_like(weights)
        kernels.own_backward(
            found.items,
            found.columns,
            logits,
            shared,
            found.features,
            items["vector"],
            h,
            block.known_items,
            dhx,
            dweights,
        )
        dpositions, dpriorities = self._priority_gradients(block, dhx, scales)
        return Gradients(
            rows, found.items, logits, hx, dhx, scales, drows, searched, dweights, dpositions, dpriorities, loss
        )

    def _walk(self, block: Block, now: float, rows: Int32) -> Found:
        state, contexts = self._state, block.contexts
        found = self._found.part(len(block))
        read, marks = state.readable(), state.items["mark"]
        marks[rows] = np.arange(DRAWN, DRAWN + len(rows), dtype=np.int32)
        candidates.walk(
            Seen(contexts.items, contexts.fresh, contexts.users, contexts.times),
            block.targets,
            now,
            Transitions.of(state.items),
            read.own_items(),
            block.near,
            block.near_rows,
            Items(
                state.items["log_counts"],
                state.totals,
                state.items["first_ms"],
                long_counter(state.config.half_lives_hours),
            ),
            marks,
            found,
        )
        marks[rows] = -1
        return found

    def search(self, contexts: Contexts) -> Near:
        """The neighbours of some contexts, on the state as it is."""
        near = Near.empty(len(contexts))
        neighbours.search(
            contexts.items,
            contexts.stale,
            contexts.users,
            self._state.readable().neighbour_sessions(),
            self._similarity,
            self._state.items["near"],
            neighbours.SIMILAR_TRAINED,
            near,
        )
        return near

    def _combine(self, block: Block) -> Float32:
        state = self._state
        h = np.empty((len(block), state.config.dim), np.float32)
        kernels.combine(
            block.contexts.items,
            block.contexts.kinds,
            state.positions,
            state.types["priority"],
            state.items["input"],
            h,
        )
        return h

    def _extend(self, rows: Int32, now: float) -> Float32:
        state, items = self._state, self._state.items
        extended = self._extended[: len(rows)]
        kernels.extend(
            rows,
            items["vector"],
            items["log_counts"],
            state.totals,
            items["first_ms"],
            now,
            self._correction,
            extended,
        )
        return extended

    def _priority_gradients(self, block: Block, dhx: Float32, scales: Float32) -> tuple[Float64, Float64]:
        state = self._state
        dpositions, dpriorities = np.zeros(len(state.positions)), np.zeros(len(state.types))
        kernels.priority_gradients(
            block.contexts.items,
            block.contexts.kinds,
            state.positions,
            state.types["priority"],
            state.items["input"],
            dhx,
            scales,
            dpositions,
            dpriorities,
        )
        return dpositions, dpriorities

    def _move_rows(self, block: Block, found: Gradients, rate: float) -> None:
        state, items, config = self._state, self._state.items, self._state.config
        steps = np.array([rate * config.learning_rate, config.accumulator_start, config.accumulator_decay], np.float32)
        kernels.update_outputs(
            found.rows,
            found.drows,
            found.own,
            found.own_gradients,
            found.hx,
            items["vector"],
            items["vector_sum"],
            steps,
        )
        kernels.update_inputs(
            block.contexts.items,
            block.contexts.kinds,
            state.positions,
            state.types["priority"],
            found.dhx,
            found.scales,
            items["input"],
            items["input_sum"],
            steps,
        )
        items.learned.add(found.rows)
        items.learned.add(found.own)
        items.learned.add(block.contexts.items)

    def _move_weights(self, block: Block, found: Gradients, rate: float) -> None:
        state, config = self._state, self._state.config
        step = rate * config.priority_rate
        start, decay, types = config.accumulator_start, config.accumulator_decay, state.types
        embedding.descend(state.positions, state.position_sums, found.dpositions, step, start, decay)
        embedding.descend(types["priority"], types["priority_sum"], found.dpriorities, step, start, decay)
        state.mixing.learn(found.dweights, block.opened, found.searched, config, rate)


def _with_weights(h: Float32, weights: Float32, by_item: int) -> Float32:
    """Rows hx [B, X] = [scale * h | weights of the features by item | 1]: its product with an extended row is a logit
    without the features that depend on the context.
    """
    hx = np.empty((len(h), h.shape[1] + by_item + 1), np.float32)
    np.multiply(h, weights[:, :1], out=hx[:, : h.shape[1]])
    hx[:, h.shape[1] : -1] = weights[:, 1 : 1 + by_item]
    hx[:, -1] = 1.0
    return hx
