"""Every number that decides how the model learns, in one frozen object that travels inside each snapshot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _priorities() -> dict[str, float]:
    return {"purchase": 1.0, "cart": 0.6, "view": 0.3}


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Settings of the learner. Raises `ValueError` naming the field and the value when one cannot work.

    `dim`: length of a vector. `sequence_length`: how many of a user's last clicks are looked at. `learning_rate`:
    AdaGrad step of vectors; `priority_rate`: of position and type priorities. `negatives`: most shared negatives
    per block; `block`: clicks per mini-batch. `type_priorities`: where each event type starts (case does not
    matter; below zero: it takes back, see `Learner`), others at `default_type_priority`; event types beyond
    `type_limit` share one row. `half_lives_hours`: of the popularity counters; `baseline_half_life`: which of them
    is the yardstick. `accumulator_start`, `accumulator_decay`: of AdaGrad's sums of squares. `ridge`,
    `fisher_decay`, `weight_step_clicks`: of the natural-gradient step of the global weights. `long_ring`,
    `short_ring`: how many recent targets negatives are drawn from. `gate_rate`, `gate_start`: AdaGrad step of the
    gates' rows, and where its sums of squares start. `own_items`: most distinct items remembered per user;
    `transitions`: per item, what follows it. `sessions`: how many of the last sessions are kept (a power of two);
    `item_sessions`: how many of them an item knows. `search_clicks`, `search_least`: neighbours are searched for
    every training click up to so many, then with falling probability, never below the least; `search_reach`: so
    many further clicks of the user read the same search. `score_share`: cost of scoring as a share of the cost of
    learning (0: no scoring); `score_fraction`: score this fraction of all clicks instead, whatever it costs.

    `users_max`, `items_max`: most rows of the two tables; `memory_bytes`: what the learner may take, which lowers both
    where full tables would need more (0: no budget; see `limits`). `admit_clicks`: from a certain fill on, an id gets a
    row once it was clicked so often; `admission_width`: counters per row of the sketch that remembers those without one
    (a power of two). `batch_clicks`: a longer batch is learned as several.
    """

    dim: int = 64
    sequence_length: int = 10
    learning_rate: float = 0.2
    negatives: int = 128
    block: int = 128
    seed: int = 0
    type_priorities: Mapping[str, float] = field(default_factory=_priorities)
    default_type_priority: float = 0.3
    type_limit: int = 1000
    priority_rate: float = 0.01
    half_lives_hours: tuple[float, ...] = (1.0, 24.0, 168.0)
    baseline_half_life: int = 1
    accumulator_start: float = 0.1
    accumulator_decay: float = 0.9995
    ridge: float = 10.0
    fisher_decay: float = 0.99
    weight_step_clicks: int = 500
    long_ring: int = 200_000
    short_ring: int = 500
    gate_rate: float = 0.02
    gate_start: float = 1.0
    own_items: int = 256
    transitions: int = 20
    sessions: int = 131_072
    item_sessions: int = 50
    search_clicks: int = 20_000
    search_least: float = 0.12
    search_reach: int = 4
    score_share: float = 0.1
    score_fraction: float | None = None
    users_max: int = 5_000_000
    items_max: int = 2_000_000
    memory_bytes: int = 0
    admit_clicks: int = 2
    admission_width: int = 1 << 20
    batch_clicks: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "type_priorities", dict(self.type_priorities))
        object.__setattr__(self, "half_lives_hours", tuple(float(hours) for hours in self.half_lives_hours))
        for name, (low, high) in _WHOLE.items():
            self._check_whole(name, low, high)
        for name, (least, most) in _REAL.items():
            _check_real(name, getattr(self, name), least, most)
        self._check_priorities()
        self._check_half_lives()
        for name in ("sessions", "admission_width"):
            if (value := getattr(self, name)) & (value - 1):
                raise ValueError(f"{name}={value!r}: must be a power of two")
        if self.score_fraction is not None:
            _check_real("score_fraction", self.score_fraction, 0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can carry; `from_dict` reads them back."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return plain | {"type_priorities": dict(self.type_priorities), "half_lives_hours": list(self.half_lives_hours)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LearnerConfig:
        """The config that `to_dict` wrote. Raises `ValueError` for an unknown field, or a value that cannot work."""
        unknown = sorted(set(values) - {item.name for item in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown learner setting {unknown[0]!r}: remove it, or upgrade Headrace")
        return cls(**values)

    def _check_whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {high}")

    def _check_priorities(self) -> None:
        if len(self.type_priorities) >= self.type_limit:
            raise ValueError(f"type_priorities names {len(self.type_priorities)} types: type_limit={self.type_limit}")
        for name, value in self.type_priorities.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"type_priorities[{name!r}]: the event type must be a non-empty string")
            _check_real(f"type_priorities[{name!r}]", value, -1e3, 1e3)

    def _check_half_lives(self) -> None:
        if not 0 <= self.baseline_half_life < len(self.half_lives_hours):
            raise ValueError(
                f"baseline_half_life={self.baseline_half_life!r}: must point into half_lives_hours="
                f"{self.half_lives_hours!r}, counting from 0"
            )
        for index, hours in enumerate(self.half_lives_hours):
            _check_real(f"half_lives_hours[{index}]", hours, 1e-3, 1e6)


_WHOLE = {
    "dim": (1, 4096),
    "sequence_length": (1, 1000),
    "negatives": (1, 65_536),
    "block": (1, 65_536),
    "seed": (0, 2**63 - 1),
    "type_limit": (1, 1_000_000),
    "baseline_half_life": (0, 1000),
    "weight_step_clicks": (1, 2**31 - 1),
    "long_ring": (1, 2**30),
    "short_ring": (1, 2**30),
    "own_items": (1, 65_536),
    "transitions": (1, 1000),
    "sessions": (1, 2**30),
    "item_sessions": (1, 1000),
    "search_clicks": (0, 2**62),
    "search_reach": (0, 1000),
    "users_max": (8, 2**30),
    "items_max": (8, 2**30),
    "memory_bytes": (0, 2**62),
    "admit_clicks": (1, 255),
    "admission_width": (16, 2**28),
    "batch_clicks": (1, 2**30),
}
_REAL = {
    "learning_rate": (0.0, 1e3),
    "default_type_priority": (0.0, 1e3),
    "priority_rate": (0.0, 1e3),
    "accumulator_start": (1e-9, 1e9),
    "accumulator_decay": (0.0, 1.0),
    "ridge": (1e-9, 1e9),
    "fisher_decay": (0.0, 1.0),
    "score_share": (0.0, 1e3),
    "gate_rate": (0.0, 1e3),
    "gate_start": (1e-9, 1e9),
    "search_least": (0.0, 1.0),
}


def _check_real(name: str, value: Any, low: float, high: float) -> None:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be a number from {low:g} to {high:g}")
