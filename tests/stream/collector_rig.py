"""A lineage with garbage in it, in memory, and what one asks of it before and after a collection."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from stream import checkpoint, plans, staged
from stream.collector import Collected, Collector, tolerant
from stream.events import Decoded, Plan, PlannedRange, StagedObject, Totals
from stream.naming import Layout, seq_of
from stream.policy import CheckpointPolicy
from tests.fakes import FakeClock, MemoryStore

LAYOUT = Layout("pre", "main")
PLANS = 22
NOW = 1000.0
POLICY = CheckpointPolicy(kept=2, grace_seconds=100.0)


def full_lineage(folder: Path) -> MemoryStore:
    """A lineage of 22 plans, a checkpoint after each fifth, all of it written at the time 0."""
    store, part = MemoryStore(FakeClock(0.0)), folder / "model.json"
    for seq in range(PLANS):
        ranges = tuple(stage(store, seq, partition) for partition in range(seq % 3))
        store.put(LAYOUT.plan(seq), plans.encode(Plan("main", seq, 1, "n", "", "rows", 0, "t", ranges)))
        if seq % 5 == 4:
            write_checkpoint(store, seq, part)
    return store


def stage(store: MemoryStore, seq: int, partition: int) -> PlannedRange:
    offsets = np.arange(seq * 10, seq * 10 + 3, dtype=np.int64)
    names = [f"{seq}/{partition}/{offset}" for offset in offsets]
    data = staged.encode(staged.to_table(Decoded(partition, offsets, names, names, names, offsets, None)))
    key = LAYOUT.stage("t", partition, seq * 10, seq * 10 + 10)
    store.put(key, data)
    return PlannedRange(
        partition, seq * 10, seq * 10 + 10, StagedObject(key, staged.digest(data), len(data), 3), absent=7
    )


def write_checkpoint(store: MemoryStore, seq: int, part: Path) -> None:
    part.write_bytes(b"%d" % seq)
    manifest = checkpoint.Manifest(1, "main", seq, 1, "", {}, Totals(), (), {})
    checkpoint.write(store, LAYOUT, manifest, {part.name: part})


def collecting(
    store: MemoryStore, policy: CheckpointPolicy = POLICY, now: float = NOW, *, spare: bool = False
) -> Collected:
    """Collect as at `now` by the store's clock, which the newest MANIFEST tells."""
    manifests = [key for _, key in checkpoint.complete(store, LAYOUT)]
    if manifests:
        store.objects[manifests[-1]] = (store.objects[manifests[-1]][0], now)
    return tolerant(Collector(store, LAYOUT, policy, lambda: spare))


def keys(store: MemoryStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def seqs(store: MemoryStore, prefix: str) -> list[int]:
    return [seq for key in keys(store, prefix) if (seq := seq_of(key)) is not None]


def named(store: MemoryStore) -> list[str]:
    """What the plans that are there staged, in plan order."""
    found = [plans.decode(store.get(key).data, key) for key in keys(store, LAYOUT.plans)]
    return [planned.staged.key for plan in found for planned in plan.ranges if planned.staged]


def clicks(store: MemoryStore, keys: Iterable[str]) -> list[str]:
    return [name for key in keys for name in pq.read_table(io.BytesIO(store.get(key).data))["user_id"].to_pylist()]


def archived(store: MemoryStore) -> list[str]:
    return clicks(store, [key for key in keys(store, LAYOUT.archived) if key.endswith(".parquet")])
