"""A small batch job for tests: clicks, settings, a store in memory, and what the store holds afterwards."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from typing import Any

from model import snapshot
from stream.ports import ObjectStore
from stream.settings.settings import Settings
from stream.train.job import run
from stream.train.result import TrainResult
from stream.train.state import States
from tests.fakes import FakeClock, MemoryStore

ALL = "data/clickstream.json"
NEW = "data/clickstream_new.json"
MODEL = "models/prio_aware_recommendation_model.pkl"
ARCHIVES = "data/clickstream_archive_"
REJECTS = "data/rejects/"
SMALL = {"model.train_dim": 4, "model.negatives": 8, "model.epochs": 2, "train.incremental_epochs": 2}


def clicks(
    users: range, count: int, start: int = 1_690_000_000, seed: int = 0, items: int = 30
) -> list[dict[str, Any]]:
    """So many clicks, ten seconds apart from `start` on; every user has one at least."""
    pick = random.Random(seed)
    who = [*users, *(pick.choice(users) for _ in range(count - len(users)))]
    return [
        {"user_id": f"u{user}", "product_id": f"p{pick.randrange(items)}", "timestamp": start + 10 * place}
        for place, user in enumerate(who)
    ]


def text(rows: Sequence[dict[str, Any] | str]) -> bytes:
    """Rows as JSON lines; a string stands as it is."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def settings(*, incremental: bool = False, **arguments: object) -> Settings:
    """Small ones; `arguments` with a double underscore for the dot."""
    given = {name.replace("__", "."): value for name, value in arguments.items()}
    return Settings.load({**SMALL, "train.incremental": incremental, **given})


def train(store: ObjectStore, *, incremental: bool = False, **arguments: object) -> TrainResult:
    """One run, at an hour that never changes."""
    return run(settings(incremental=incremental, **arguments), store=store, clock=FakeClock())


def trained_store(count: int = 120) -> MemoryStore:
    """A store with a model from a full training of ten users."""
    store = MemoryStore()
    store.put(ALL, text(clicks(range(10), count)))
    train(store)
    return store


def model_of(store: ObjectStore) -> dict[str, Any]:
    """What a reader gets."""
    model: dict[str, Any] = pickle.loads(store.get(MODEL).data)
    return model


def digest_of(store: ObjectStore) -> str:
    """Of the whole state that the next run would go on with."""
    states = States(store, MODEL)
    newest = states.newest()
    assert newest is not None
    return snapshot.digest(states.load(newest)[0])


def keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def archived(store: ObjectStore) -> bytes:
    """All archives, in order, as one text."""
    return b"".join(store.get(key).data for key in keys(store, ARCHIVES))
