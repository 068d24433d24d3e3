"""The learner: scores a batch on the state before it, learns from it, then counts it in. One thread owns it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from model import admission, compact, eviction, memory, ranking, resolve
from model.batch import Batch, Float32, Float64, Int32, Int64, Learned, Scores, UInt8
from model.config import LearnerConfig
from model.evaluation import affordable, learn_cost, summarize
from model.memory import Context
from model.parts import age, embedding, history, neighbours, own_items, transitions
from model.parts.gates import open_gates
from model.parts.history import Contexts, Histories
from model.parts.popularity import count_clicks, growth_rates, mean_shift, steady_times
from model.resolve import Rows
from model.state import LEARNED_HALF_LIFE, MEANS, SCORED_HALF_LIFE, State
from model.table import Table
from model.training import Block, Trainer

NOTHING_SCORED = Scores(0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Learner:
    """The priority-aware sequence recommender. `score` and `learn` raise `ValueError` for columns that do not fit.

    The same batches in the same order give the same state, bit for bit, on one machine with one BLAS thread.
    A click of a type with a negative priority takes back (`cancel`, `unlike`): it stands in its user's context with
    that priority, but is no target, and counts neither for its item nor for what is clicked together.
    `view` is the serving view that was published to last: it alone knows which rows it lacks.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self.config = config
        self.state = State(config)
        self.trainer = Trainer(self.state)
        self.view: object = None
        self._rates = growth_rates(config.half_lives_hours)
        resolve.add_types(self.state, [embedding.OTHER_TYPE, *config.type_priorities])

    @property
    def users(self) -> Table:
        return self.state.users

    @property
    def items(self) -> Table:
        return self.state.items

    @property
    def position_priorities(self) -> Float32:
        """How much the k-th last click counts, float32 [K]."""
        return self.state.positions

    @property
    def type_priorities(self) -> dict[str, float]:
        """How much a click of each event type counts in a context, as learned so far."""
        types = self.state.types
        return {name: float(value) for name, value in zip(types.ids, types["priority"], strict=True) if name}

    @property
    def weights(self) -> dict[str, float]:
        """How much each feature counts in every context, as served; gates add to that, context by context."""
        names = self.state.mixing.layout.names()
        return dict(zip(names, self.state.mixing.served[: len(names)].tolist(), strict=True))

    def score(self, batch: Batch) -> Scores:
        """Rank a random sample of the batch's clicks on the state before the batch; no row is added for anyone.

        Of a batch longer than `config.batch_clicks` only the first so many can be in the sample.

        Its size is what `config.score_share` of the cost of learning pays for; what is left over is carried forward.
        """
        resolve.check(batch)
        batch = batch.take(slice(self.config.batch_clicks))
        count = self._draw_count(len(batch))
        if not count or not len(self.items):
            return NOTHING_SCORED
        rows = resolve.find(self.state, batch)
        contexts = self._contexts(rows, steady_times(batch.times), len(self.items))
        ready = np.flatnonzero(contexts.following & self._wanted(rows))
        chosen = np.sort(self.state.score_random.choice(ready, min(count, len(ready)), replace=False))
        return self._note_scores(*self._ranks(rows, contexts, chosen))

    def ready(self, batch: Batch) -> Int64:
        """Places in the batch, int64 ascending, of the clicks that follow on another one of their user, in this batch
        or before. Where that click's item is of no finished batch, the context can be empty all the same.
        """
        resolve.check(batch)
        contexts = self._contexts(resolve.find(self.state, batch), steady_times(batch.times), len(self.items))
        return np.asarray(np.flatnonzero(contexts.following), np.int64)

    def ranks(self, batch: Batch, chosen: Int64) -> Float64:
        """Rank of the item of each click `chosen`, float64 [chosen]; inf for an item of no finished batch.

        Read on the state before the batch. Changes nothing, the quality that `score` keeps included.
        """
        resolve.check(batch)
        if not len(self.items):
            return np.full(len(chosen), np.inf)
        rows = resolve.find(self.state, batch)
        return self._ranks(rows, self._contexts(rows, steady_times(batch.times), len(self.items)), chosen)[0]

    def learn(self, batch: Batch, learning_rate_scale: float = 1.0) -> Learned:
        """Give new ids their rows, learn the clicks that have a context, then count the whole batch in.

        A batch longer than `config.batch_clicks` is learned as several. Where a table is nearly full, not every id gets
        a row (`admission`), and afterwards some rows may be gone (`eviction`).
        Steps are the configured ones times `learning_rate_scale`; `ValueError` when that is negative or not finite.
        """
        resolve.check(batch)
        if not (math.isfinite(learning_rate_scale) and learning_rate_scale >= 0.0):
            raise ValueError(f"learning_rate_scale={learning_rate_scale!r}: must be a finite number, 0 or more")
        size = self.config.batch_clicks
        parts = [batch.take(slice(start, start + size)) for start in range(0, len(batch), size)] or [batch]
        learned = [self._learn(part, learning_rate_scale) for part in parts]
        return learned[0] if len(learned) == 1 else _together(learned)

    def _learn(self, whole: Batch, learning_rate_scale: float) -> Learned:
        batch = admission.sift(self.state, whole)
        known_users, known_items = len(self.users), len(self.items)
        rows = resolve.grow(self.state, batch)
        times = steady_times(batch.times)
        contexts = self._contexts(rows, times, len(self.items))
        losses = self._train(rows, contexts.hiding(known_items), known_items, learning_rate_scale)
        loss = float(losses.mean()) if len(losses) else math.nan
        self._note_learned(rows, known_items, loss, len(losses))
        self._count_in(rows, contexts)
        new_users, new_items = len(self.users) - known_users, len(self.items) - known_items
        if eviction.relieve(self.state):
            self.view = None  # rows have moved: it must take everything anew
        return Learned(len(whole), loss, new_users, new_items, len(whole) - len(batch))

    def recommend(self, user_id: str, top_n: int) -> list[tuple[str, float]]:
        """The user's best `top_n` items with their scores, best first; by popularity for unknown users."""
        return ranking.recommend(self.state.readable(), user_id, top_n)

    def explain(self, user_id: str, item_id: str) -> list[tuple[str, float]]:
        """What the user's past clicks add to the item's score, by the item clicked, largest first."""
        return ranking.explain(self.state.readable(), user_id, item_id)

    def explain_score(self, user_id: str, item_id: str) -> ranking.Explanation | None:
        """The item's score for the user, taken apart; None for an unknown item, or a user without history."""
        return ranking.explain_score(self.state.readable(), user_id, item_id)

    def rows(self) -> dict[str, int]:
        """Table sizes; types include the row that event types without one of their own share."""
        return {"users": len(self.users), "items": len(self.items), "types": len(self.state.types)}

    def occupancy(self) -> dict[str, dict[str, int]]:
        """How full the tables are and what became of ids, see `State.occupancy`."""
        return self.state.occupancy()

    def quality(self) -> dict[str, float]:
        """Decayed means over clicks learned (`loss`) and scored (the others); nan before there are any."""
        return {
            name: float(total / weight) if weight else math.nan
            for name, (total, weight) in zip(MEANS, self.state.means, strict=True)
        }

    def drift(self) -> dict[str, float]:
        """By signal, how far a short window is from a long one, in standard deviations."""
        return self.state.signals.scores()

    def context(self) -> Context:
        """A copy of what is memory of the stream rather than weights: histories, popularity, recent targets."""
        return memory.recall(self.state)

    def reset_context(self, context: Context | None) -> None:
        """Put such a copy back (None: as if nothing had been clicked yet). Ids and weights stay as they are.

        Raises `ValueError` when the context has more rows than this learner.
        """
        if context is None:
            memory.forget(self.state)
        else:
            memory.restore(self.state, context)
        for rows in self.state.columns().values():
            rows.touch_all()

    def _ranks(self, rows: Rows, contexts: Contexts, chosen: Int64) -> tuple[Float64, Float64]:
        """Ranks by the model and by popularity, float64 [chosen] each."""
        return ranking.target_ranks(self.state.readable(), contexts.take(chosen), rows.items[chosen])

    def _draw_count(self, clicks: int) -> int:
        """How many clicks to score now; the purse keeps what is left."""
        config, purse = self.config, self.state.purse
        if config.score_fraction is not None:
            purse[0] += config.score_fraction * clicks
            count, cost = int(purse[0]), float(int(purse[0]))
        else:
            purse[0] += config.score_share * learn_cost(clicks, config.dim, config.negatives)
            count, cost = affordable(float(purse[0]), clicks, len(self.items), config.dim)
        # Where a small catalogue lets everything be scored, what is left must not pay for a large one later.
        purse[0] = 0.0 if config.score_fraction is None and count == clicks else purse[0] - cost
        return count

    def _contexts(self, rows: Rows, times: Float64, known_items: int) -> Contexts:
        """The contexts of all clicks of a batch, in which items from `known_items` on are holes."""
        stored = Histories.of(self.users)
        length = self.config.sequence_length
        return history.contexts(rows.who, rows.users, rows.items, rows.types, times, stored, length, known_items)

    def _train(self, rows: Rows, contexts: Contexts, known_items: int, rate: float) -> Float64:
        """Train block after block, in order, on the clicks that have a context; their losses, float64 [trained]."""
        opened = open_gates(contexts, self.users["repeat_share"])
        # Nothing has been finished before the first batch: there is nothing to tell its targets from.
        ready = np.flatnonzero(contexts.following & self._wanted(rows) & (known_items > 0))
        weights = self._weights(rows)
        wanted, near_rows = neighbours.sources(
            self._draw_searches(len(rows)), history.predecessors(rows.who), self.config.search_reach
        )
        near = self.trainer.search(contexts.take(wanted))
        whole = Block(
            contexts.take(ready),
            opened[ready],
            rows.items[ready],
            weights[ready],
            near,
            near_rows[ready],
            known_items,
        )
        size = self.config.block
        losses = [self.trainer.train(whole.part(start, start + size), rate) for start in range(0, len(ready), size)]
        return np.concatenate([np.empty(0), *losses])

    def _draw_searches(self, clicks: int) -> UInt8:
        """For which of a batch's clicks neighbours are searched, uint8 [n]."""
        config, seen = self.config, int(self.state.ring.seen[0])
        chance = max(config.search_least, min(1.0, config.search_clicks / max(seen, 1)))
        return np.asarray(self.state.learn_random.random(clicks) < chance, np.uint8)

    def _weights(self, rows: Rows) -> Float32:
        """By how much each click counts as a target, float32 [n]: its type's priority, one on the stream's average."""
        priorities = np.maximum(self.state.types["start"][rows.types], 0.0)
        mean = self.state.mean_priority
        mean *= 0.5 ** (len(rows) / LEARNED_HALF_LIFE)
        mean += (float(priorities.sum(dtype=np.float64)), len(rows))
        average = mean[0] / mean[1] if mean[0] > 0.0 else 1.0
        return np.asarray(priorities / np.float32(average), np.float32)

    def _wanted(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Whether a click says that the user wants the item, bool [n]; one of a negative priority says the opposite."""
        return np.asarray(self.state.types["start"][rows.types] >= 0.0)

    def _count_in(self, rows: Rows, contexts: Contexts) -> None:
        """The batch is finished: its clicks enter every part's memory of the stream, unwanted items only histories."""
        if not len(rows):
            return
        wanted = self._wanted(rows)
        if wanted.all():
            self._count_wanted(rows, contexts.items, contexts.times)
        elif wanted.any():
            self._count_wanted(rows.take(np.flatnonzero(wanted)), contexts.items[wanted], contexts.times[wanted])
        history.remember(rows.users, rows.items, rows.types, contexts.times, Histories.of(self.users))
        self.state.now_ms[0] = max(float(self.state.now_ms[0]), float(contexts.times.max()))
        self.users.remembered.add(rows.users)
        eviction.credit(self.state, rows.users, rows.items[wanted])

    def _count_wanted(self, rows: Rows, before: Int32, times: Float64) -> None:
        state, items, users, config = self.state, self.items, self.users, self.config
        transitions.count_in(rows.items, before, times, transitions.Transitions.of(items))
        neighbours.make_room(state.sessions, len(rows), config.sessions)
        sessions = state.readable().neighbour_sessions()
        joined = neighbours.count_in(
            rows.who, rows.users, rows.items, times, users["last_ms"], state.sessions, sessions
        )
        chunks = own_items.count_in(rows.users, rows.items, times, users, state.chunks, items, config.own_items)
        age.count_in(rows.items, times, items["first_ms"])
        count_clicks(rows.items, times, self._rates, items["log_counts"], state.totals)
        state.ring.push(rows.items, items["long_count"], items["short_count"])
        state.sessions.remembered.add(joined)
        state.chunks.remembered.add(chunks)
        items.remembered.add(rows.items)
        items.remembered.add(before[:, : transitions.LAGS])

    def _note_scores(self, ranks: Float64, popular: Float64) -> Scores:
        hits, mrr, ndcg = summarize(ranks)
        popular_hits, popular_mrr, _ = summarize(popular)
        for name, total in zip(MEANS[1:], (hits, mrr, popular_hits, popular_mrr), strict=True):
            self.state.add_mean(name, total, len(ranks), SCORED_HALF_LIFE)
        return Scores(len(ranks), hits, mrr, ndcg, popular_hits, popular_mrr)

    def _note_learned(self, rows: Rows, known_items: int, loss: float, trained: int) -> None:
        if not len(rows):
            return
        if trained:
            self.state.add_mean("loss", loss * trained, trained, LEARNED_HALF_LIFE)
        known = rows.items[rows.items < known_items]
        shift = mean_shift(self.items["log_counts"][known], self.state.totals, self.config.baseline_half_life)
        figures = {"loss": loss, "new_item_share": 1.0 - len(known) / len(rows), "popularity_shift": shift}
        self.state.signals.update(figures, len(rows))


def _together(parts: list[Learned]) -> Learned:
    """One report on a batch that was learned in parts; its loss is the mean by clicks."""
    told = [part for part in parts if not math.isnan(part.loss)]
    weight = sum(part.clicks for part in told)
    loss = sum(part.loss * part.clicks for part in told) / weight if weight else math.nan
    clicks, new_users, new_items, withheld = (
        sum(getattr(part, name) for part in parts) for name in ("clicks", "new_users", "new_items", "withheld")
    )
    return Learned(clicks, loss, new_users, new_items, withheld)


def warm_up(config: LearnerConfig) -> None:
    """Load every kernel from the cache on disk, or compile it, on a throw-away learner with the same shapes."""
    learner = Learner(LearnerConfig.from_dict(config.to_dict() | {"score_fraction": 1.0}))
    batch = Batch.of(["a", "a"], ["x", "y"], [0, 1])
    for _ in range(2):
        learner.score(batch)
        learner.learn(batch)
    learner.recommend("a", 1)
    compact.keep(learner.state, np.arange(1, dtype=np.int32), np.arange(2, dtype=np.int32))
