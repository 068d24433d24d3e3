"""A model that learns nothing but the order: its state is a hash over all that it was given. Cheap, and as strict.

Thirty-nine of forty seeds run on it, in the place of the recommender; the rest on the recommender itself. What the
simulation is about, the host around the model included, is the product's own code on both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

import model.snapshot
import stream.host
import stream.modelfiles
from model.batch import Batch, Learned, Scores
from model.config import LearnerConfig

POISON = "poison"
"""A product at which this model diverges, every time."""


class Cosmic:
    """Where divergence comes from that no plan explains."""

    def __init__(self) -> None:
        self.ray: Callable[[], bool] = lambda: False
        self.struck: set[bytes] = set()
        """States in which it struck last: not twice in a row, since twice in a row is how poison is known."""

    def strikes(self, state: bytes) -> bool:
        """Whether learning that leads to `state` goes wrong this time."""
        if state in self.struck:
            self.struck.discard(state)
        elif self.ray():
            self.struck.add(state)
        return state in self.struck


cosmic = Cosmic()


class Chain:
    """In the place of `model.learner.Learner`."""

    def __init__(self, config: LearnerConfig) -> None:
        self.config = config
        self.state = bytes(32)
        self.clicks = 0
        self.sick = False

    def score(self, batch: Batch) -> Scores:
        return Scores(0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def learn(self, batch: Batch) -> Learned:
        known = repr([batch.users.tolist(), batch.items.tolist(), batch.types.tolist(), batch.times.tolist()])
        self.state = hashlib.sha256(self.state + known.encode()).digest()
        self.clicks += len(batch)
        self.sick = POISON in batch.items.tolist() or cosmic.strikes(self.state)
        return Learned(len(batch), math.nan, 0, 0)

    def rows(self) -> dict[str, int]:
        return {"users": self.clicks, "items": self.clicks}

    def quality(self) -> dict[str, float]:
        return {"loss": math.nan}

    def occupancy(self) -> dict[str, dict[str, int]]:
        return {}

    def drift(self) -> dict[str, float]:
        return {}


class _Snapshots:
    """In the place of the module `model.snapshot`."""

    Snapshot = model.snapshot.Snapshot

    @staticmethod
    def dump(chain: Chain) -> model.snapshot.Snapshot:
        state = {"chain": np.frombuffer(chain.state, np.uint8), "clicks": np.array([chain.clicks])}
        return model.snapshot.Snapshot({"weights": state}, {}, {"config": chain.config.to_dict()})

    @staticmethod
    def load(snapshot: model.snapshot.Snapshot) -> Chain:
        chain = Chain(LearnerConfig.from_dict(snapshot.meta["config"]))
        chain.state = snapshot.parts["weights"]["chain"].tobytes()
        chain.clicks = int(snapshot.parts["weights"]["clicks"][0])
        return chain

    @staticmethod
    def digest(chain: Chain) -> str:
        return f"{chain.state.hex()} {chain.clicks}"


class _Health:
    """In the place of the module `model.health`."""

    @staticmethod
    def ailment(chain: Chain, _learned: Learned) -> str | None:
        return "poisoned" if chain.sick else None


class _NoView:
    """In the place of `model.view.ServingView`: nobody asks for recommendations."""

    def publish(self, _model: Any) -> None:
        """Nothing is shown."""


@contextmanager
def chain_model(*, real: bool) -> Iterator[None]:
    """Let hosts that are made meanwhile hold a `Chain`, unless `real`."""
    host = {"Learner": Chain, "snapshot": _Snapshots, "health": _Health, "ServingView": _NoView, "NoView": _NoView}
    places: list[tuple[Any, str, Any]] = [(stream.host, name, value) for name, value in host.items()]
    places.append((stream.modelfiles, "snapshot", _Snapshots))
    with ExitStack() as patched:
        for where, name, value in [] if real else places:
            patched.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        yield
