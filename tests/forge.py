"""A real lineage in memory, and a forger that alters it so skilfully that only one rule is left broken."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stream import lineage
from stream.batching import CutPolicy
from stream.events import RawChunk
from stream.policy import CheckpointPolicy
from stream.ports import ObjectStore
from stream.replay.source import ReplaySource
from stream.service import Doors, Orders, Service
from tests.fakes import InlineExecutor, MemoryStore
from tests.rigs import LAYOUT, RHYTHM, Rig, Row, clicks

Document = dict[str, Any]
KEEP_ALL = CheckpointPolicy(batches=3, seconds=1e9, kept=1000, grace_seconds=1e9)


class Compacted(ReplaySource):
    """A replay that never delivers every ninth offset, as a compacted topic would not."""

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        return [_thinned(chunk) for chunk in super().poll(max_events, timeout_seconds)]


def events(count: int) -> list[Row]:
    """Clicks of which every third has an event_id, some are repeated, and some are no clicks at all."""
    rows = [dict(row) if isinstance(row, dict) else row for row in clicks(count)]
    for place in range(0, count, 3):
        row = rows[place]
        assert isinstance(row, dict)
        row["event_id"] = f"e{place - 6 if place % 30 == 12 else place}"
    for place in range(7, count, 25):
        rows[place] = b"no click"
    return rows


def grow(store: ObjectStore, count: int, rows: int = 20, checkpoint: CheckpointPolicy = KEEP_ALL) -> None:
    """Let the real service run over `count` events, to the end, with a new epoch each time."""
    rig = Rig(store, events(count))
    source = Compacted(rig.rows, partitions=2, clock=rig.clock)
    doors = Doors(source, rig.letters, store, rig.learner, rig.clock, rig.meter)
    rhythm = replace(RHYTHM, cut=CutPolicy(rows=rows), checkpoint=checkpoint)
    rig.service = Service(doors, Orders(LAYOUT, "clicks", rhythm=rhythm, window=1000), lambda *_: InlineExecutor())
    lineage.resolve(store, LAYOUT.prefix, LAYOUT.lineage)
    rig.run()
    rig.service.close()


class Forge:
    """Edits what lies in a store, and hashes anew whatever stands for what it edited."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def keys(self, part: str) -> list[str]:
        """The keys of one folder of the lineage, ascending."""
        return [info.key for info in self.store.list(f"{LAYOUT.root}/{part}/")]

    def read(self, key: str) -> Document:
        return dict(json.loads(self.store.get(key).data))

    def write(self, key: str, document: Document) -> None:
        self.store.put(key, json.dumps(document).encode())

    def plan(self, seq: int, edit: Callable[[Document], object], *, rechain: bool = True) -> str:
        """Edit a plan; `rechain`: so that everything after it agrees with it."""
        key = LAYOUT.plan(seq)
        document = self.read(key)
        edit(document["plan"])
        self.write(key, document)
        if rechain:
            self.rechain()
        return key

    def rechain(self) -> None:
        """Make each plan name the one before by its hash, and each MANIFEST its plan."""
        manifests = {self.read(key)["seq"]: key for key in self.keys("checkpoint") if key.endswith("MANIFEST.json")}
        before: str | None = None
        for key in self.keys("plan"):
            document = self.read(key)
            document["plan"]["previous_sha256"] = before if before is not None else document["plan"]["previous_sha256"]
            self.write(key, document)
            before = digest(self.store.get(key).data)
            if (manifest := manifests.get(int(key[-25:-5]))) is not None:
                self.write(manifest, self.read(manifest) | {"plan_sha256": before})

    def manifest(self, key: str, edit: Callable[[Document], object]) -> str:
        document = self.read(key)
        edit(document)
        self.write(key, document)
        return key

    def manifests(self) -> list[str]:
        return [key for key in self.keys("checkpoint") if key.endswith("MANIFEST.json")]

    def find(self, wanted: Callable[[Document], object]) -> tuple[int, int]:
        """The first plan without a checkpoint, and the range in it, that is as wanted; not the lineage's last plan."""
        taken = {self.read(key)["seq"] for key in self.manifests()}
        for key in self.keys("plan")[2:-1]:
            plan = self.read(key)["plan"]
            for at, planned in enumerate(plan["ranges"]):
                if plan["seq"] not in taken and wanted(planned):
                    return int(plan["seq"]), at
        raise AssertionError("no such range in the lineage")

    def range(self, wanted: Callable[[Document], object], edit: Callable[[Document], object]) -> str:
        """Edit the first range that is as wanted, chain anew and count anew."""
        seq, at = self.find(wanted)
        key = self.plan(seq, lambda plan: edit(plan["ranges"][at]))
        self.recount()
        return key

    def staged(self, wanted: Callable[[Document], object], edit: Callable[[pa.Table], pa.Table], **counts: int) -> str:
        """Edit the clicks of such a range, hash anew, and add `counts` to the numbers of the range."""
        seq, at = self.find(wanted)
        planned = self.read(LAYOUT.plan(seq))["plan"]["ranges"][at]
        table = edit(pq.read_table(io.BytesIO(self.store.get(planned["staged"]["key"]).data)))
        return self.restage(seq, at, parquet(table), rows=table.num_rows, **counts)

    def restage(self, seq: int, at: int, data: bytes, **counts: int) -> str:
        """Put other bytes where a range's clicks lie, and let its plan say so."""

        def edit(plan: Document) -> None:
            planned = plan["ranges"][at]
            self.store.delete(planned["staged"]["key"])
            planned["staged"] |= {"sha256": digest(data), "size": len(data)}
            planned["staged"]["rows"] = counts.pop("rows", planned["staged"]["rows"])
            for name, count in counts.items():
                planned[name] += count
            key = LAYOUT.stage(plan["topic"], planned["partition"], planned["start"], planned["end"])
            planned["staged"]["key"] = key
            self.store.put(key, data)

        return self.plan(seq, edit)

    def shift(self, by: int) -> str:
        """Let a range that begins with an absent offset begin `by` offsets later, and tell nobody."""
        seq, at = self.find(lambda planned: planned["staged"] and planned["absent"] and planned["start"] % 9 == 0)
        planned = self.read(LAYOUT.plan(seq))["plan"]["ranges"][at]
        data = self.store.get(planned["staged"]["key"]).data
        return self.restage(seq, at, data, start=by, absent=-by)

    def recount(self) -> None:
        """Make each MANIFEST count what the plans up to its own say."""
        totals = dict.fromkeys(("trained", "rejected", "duplicates"), 0)
        manifests = {self.read(key)["seq"]: key for key in self.manifests()}
        for key in self.keys("plan"):
            plan = self.read(key)["plan"]
            for planned in plan["ranges"]:
                totals["trained"] += planned["staged"]["rows"] if planned["staged"] else 0
                totals["rejected"] += sum(end - start for runs in planned["rejected"].values() for start, end in runs)
                totals["duplicates"] += sum(end - start for start, end in planned["duplicates"])
            if plan["seq"] in manifests:
                document = self.read(manifests[plan["seq"]])
                self.write(manifests[plan["seq"]], document | {"totals": dict(totals)})


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flipped(data: bytes, at: int | None = None) -> bytes:
    """The same with one bit turned over."""
    place = len(data) // 2 if at is None else at
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _thinned(chunk: RawChunk) -> RawChunk:
    keep = [place for place, offset in enumerate(chunk.offsets.tolist()) if offset % 9 or place == len(chunk) - 1]
    values = [chunk.values[place] for place in keep]
    return RawChunk(chunk.partition, chunk.offsets[keep], chunk.timestamps[keep], values, None, chunk.arrived)
