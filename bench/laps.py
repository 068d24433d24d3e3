"""Where learning spends its time: the learner's steps, wrapped for as long as somebody measures.

A step's time is its own: what it spends in other steps of the list counts there. A wrapper costs well under a
microsecond, and there are some twenty calls to a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from model import kernels, learner, resolve, training
from model.learner import Learner
from model.parts import age, gates, history, neighbours, own_items, transitions
from model.parts.history import Contexts
from model.parts.mixing import Mixing
from model.sampling import TargetRing
from model.table import Touched
from model.training import Trainer

STEPS: tuple[tuple[str, Any, str], ...] = (
    ("ids", resolve, "grow"),
    ("contexts", Learner, "_contexts"),
    ("steady times", learner, "steady_times"),
    ("takes", Contexts, "take"),
    ("gates", learner, "open_gates"),
    ("search", Trainer, "search"),
    ("negatives", Trainer, "negatives"),
    ("context weights", training, "context_weights"),
    ("combine", Trainer, "_combine"),
    ("extend", Trainer, "_extend"),
    ("walk", Trainer, "_walk"),
    ("own logits", kernels, "own_logits"),
    ("softmax", training, "softmax_gradient"),
    ("own backward", kernels, "own_backward"),
    ("priority gradients", Trainer, "_priority_gradients"),
    ("products", Trainer, "backward"),
    ("move negatives and own", kernels, "update_outputs"),
    ("move contexts and users", kernels, "update_inputs"),
    ("moves, rest", Trainer, "_move_rows"),
    ("weights: gates", gates, "descend"),
    ("weights: step", Mixing, "_step"),
    ("weights, rest", Trainer, "_move_weights"),
    ("touch", Touched, "add"),
    ("count in: transitions", transitions, "count_in"),
    ("count in: sessions", neighbours, "count_in"),
    ("count in: own items", own_items, "count_in"),
    ("count in: histories", history, "remember"),
    ("count in: ages", age, "count_in"),
    ("count in: popularity", learner, "count_clicks"),
    ("count in: target rings", TargetRing, "push"),
    ("count in, rest", Learner, "_count_in"),
    ("note", Learner, "_note_learned"),
    ("rest", Learner, "learn"),
)
"""Name, whose attribute, which. `products`: what `backward` does itself, mostly its three matrix products."""


class Laps:
    """Seconds of wall-clock time by step."""

    def __init__(self) -> None:
        self.seconds = {name: 0.0 for name, _, _ in STEPS}
        self._inner = [0.0]

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            since = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - since
                self.seconds[name] += taken - self._inner.pop()
                self._inner[-1] += taken

        return timed

    def per_event(self, events: int) -> dict[str, float]:
        """Microseconds per event by step, the dearest first."""
        ordered = sorted(self.seconds.items(), key=lambda pair: -pair[1])
        return {name: round(seconds / max(events, 1) * 1e6, 3) for name, seconds in ordered}


@contextmanager
def measured() -> Iterator[Laps]:
    """All learners of this process are timed inside. Their kernels must have been compiled before."""
    laps, plain = Laps(), [getattr(owner, attribute) for _, owner, attribute in STEPS]
    for (name, owner, attribute), function in zip(STEPS, plain, strict=True):
        setattr(owner, attribute, laps.wrapped(name, function))
    try:
        yield laps
    finally:
        for (_, owner, attribute), function in zip(STEPS, plain, strict=True):
            setattr(owner, attribute, function)
