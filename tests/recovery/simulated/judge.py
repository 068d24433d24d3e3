"""Judges a story by what is stored and what was published, with `headrace verify`'s own code and a clean fold.

Everything ever written is known by its SHA-256, so the fold goes over all plans from the first on, whatever has been
collected meanwhile: backwards from the newest plan along the hashes, then forwards through a learner without a break.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from stream import checkpoint, plans, staged, versions
from stream.decode import DecodeRules, decode_chunk
from stream.errors import Diverged, HeadraceError
from stream.events import Plan, PlannedBatch, PlannedRange, RawChunk, StagedObject
from stream.host import HostConfig, LearnerHost
from stream.naming import FIRST_VERSION, Layout, seq_of
from stream.verify.verdict import Options
from stream.verify.walk import verify
from tests.fakes import MemoryStore
from tests.recovery.simulated.ends import Bucket, Log
from tests.recovery.simulated.story import LAYOUT, MODEL, WINDOW, Story


def judge(story: Story) -> list[str]:
    """What is wrong with how a story ended; nothing is as it should be."""
    wrong = list(story.bugs)
    if not story.finished:
        ends = [f"{run.process.name} {run.ended or 'runs'}" for run in story.runs[-4:]]
        wrong.append(f"it did not come to an end by itself: {'; '.join(ends)}")
    store = _calm_store(story.bucket)
    try:
        breaches = verify(store, LAYOUT.prefix, LAYOUT.lineage, Options(WINDOW))
        wrong += [f"verify: {breach}" for breach in breaches if not breach.key.startswith(story.rotten)]
    except HeadraceError as error:
        wrong.append(f"verify: {error}")
    chain = _chain(story.bucket)
    wrong += _outcomes(story, chain)
    if chain and chain[0][0].seq == 0:
        batches = [_planned(story.bucket, plan, sha256) for plan, sha256 in chain]
        for number in versions.numbers(store, LAYOUT):
            try:
                wrong += _version(story, store, LAYOUT.of_version(number), batches)
            except HeadraceError as error:
                wrong.append(f"the plans cannot be folded into version {number}: {error}")
        wrong += _owed(story, store, chain)
    return wrong


def _calm_store(bucket: Bucket) -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(bucket.objects)
    return store


def _chain(bucket: Bucket) -> list[tuple[Plan, str]]:
    """Every plan of the lineage with its SHA-256, oldest first."""
    keys = [key for key in bucket.objects if key.startswith(LAYOUT.plans) and seq_of(key) is not None]
    if not keys:
        return []
    data: bytes | None = bucket.objects[max(keys)][0]
    found: list[tuple[Plan, str]] = []
    while data is not None:
        plan = plans.decode(data, "plan")
        found.append((plan, plans.sha256(data)))
        data = bucket.written.get(plan.previous_sha256)
    return found[::-1]


def _outcomes(story: Story, chain: list[tuple[Plan, str]]) -> Iterator[str]:
    """Every offset that was published has one outcome, and it is the right one."""
    if chain and chain[0][0].seq != 0:
        yield f"the chain of plans begins at {chain[0][0].seq}"
    seen: dict[str, None] = {}
    letters = {(reject.partition, reject.offset) for reject in story.letters}
    at: dict[int, int] = {}
    for plan, _ in chain:
        batch_ids: dict[str, None] = {}
        for planned in plan.ranges:
            if at.get(planned.partition, 0) != planned.start:
                yield f"plan {plan.seq} takes partition {planned.partition} up at {planned.start}, not {at}"
            at[planned.partition] = planned.end
            yield from _range(story, plan, planned, seen, batch_ids, letters)
        seen |= batch_ids
    for partition, messages in story.log.messages.items():
        if messages and at.get(partition, 0) != messages[-1].offset + 1:
            yield f"partition {partition} ends at {messages[-1].offset + 1}, and is planned up to {at.get(partition)}"


def _range(
    story: Story,
    plan: Plan,
    planned: PlannedRange,
    seen: dict[str, None],
    batch_ids: dict[str, None],
    letters: set[tuple[int, int]],
) -> Iterator[str]:
    """Recomputed from what was published, with a window that forgets nothing."""
    chunk = _published(story.log, planned)
    decoded = decode_chunk(chunk, DecodeRules()) if len(chunk) else None
    trained: list[int] = []
    repeated: list[int] = []
    for place, offset in enumerate(decoded.offsets.tolist() if decoded else []):
        event_id = decoded.event_ids[place] if decoded and decoded.event_ids else None
        again = event_id is not None and (event_id in seen or event_id in batch_ids)
        (repeated if again else trained).append(offset)
        if event_id is not None:
            batch_ids[event_id] = None
    rejected = [reject.offset for reject in (decoded.rejects if decoded else [])]
    said = _rows(story.bucket, planned)
    if said != trained:
        yield f"plan {plan.seq} trains offsets {said} of partition {planned.partition}, right is {trained}"
    spans = [span for runs in planned.rejected.values() for span in runs]
    if _offsets(spans) != rejected or _offsets(planned.duplicates) != repeated:
        yield f"plan {plan.seq}, partition {planned.partition}: not the right rejects and duplicates"
    if lost := {(planned.partition, offset) for offset in rejected} - letters:
        yield f"plan {plan.seq} rejects {sorted(lost)}, and there is no dead letter"


def _published(log: Log, planned: PlannedRange) -> RawChunk:
    found = [each for each in log.messages[planned.partition] if planned.start <= each.offset < planned.end]
    return RawChunk(
        planned.partition,
        np.array([each.offset for each in found], np.int64),
        np.zeros(len(found), np.int64),
        [each.value for each in found],
    )


def _rows(bucket: Bucket, planned: PlannedRange) -> list[int]:
    if planned.staged is None:
        return []
    return list(_table(bucket, planned.staged)["offset"].to_pylist())


def _table(bucket: Bucket, stored: StagedObject) -> pa.Table:
    if stored.sha256 not in bucket.tables:
        bucket.tables[stored.sha256] = staged.decode(bucket.written[stored.sha256], stored.key)
    return bucket.tables[stored.sha256]


def _offsets(spans: object) -> list[int]:
    return sorted(offset for start, end in spans for offset in range(start, end))  # type: ignore[attr-defined]


def _version(story: Story, store: MemoryStore, layout: Layout, batches: list[PlannedBatch]) -> Iterator[str]:
    """Every complete checkpoint, and the live state at the end, are what an unbroken run over the plans gives: from
    nothing, or from the first checkpoint of a version that was trained.
    """
    config = HostConfig(MODEL, layout, store, WINDOW, fork=False)
    complete = dict(checkpoint.complete(store, layout))
    first, begun = -1, None
    if layout.version != FIRST_VERSION:
        if not complete:
            return  # it never came to be, or was removed as an old one
        first = min(complete)
        begun, batches = complete[first], [each for each in batches if each.plan.seq > first]
    aside = _diverging(config, begun, batches)
    host = _begun(config, begun)
    for planned in batches:
        plan = planned.plan
        host.apply(replace(planned, aside=aside.get(plan.seq, "")))
        if not complete.get(plan.seq, story.rotten).startswith(story.rotten):
            yield from _same(config, complete[plan.seq], host)
    recorded = {int(key[-25:-5]) for key in store.objects if key.startswith(layout.asides)} - {*range(first + 1)}
    # A version that does not serve has not met the newest plans.
    met = (
        aside.keys() if story.version == layout.version else {seq for seq in aside if seq <= max(complete, default=-1)}
    )
    if not met <= recorded <= aside.keys():
        yield f"version {layout.version}: plans {sorted(aside)} diverge, set aside are {sorted(recorded)}"
    if story.digest and story.version == layout.version and story.digest != host.state_sha256():
        yield f"the live state at the end, of version {layout.version}, is not what the plans give"


def _owed(story: Story, store: MemoryStore, chain: list[tuple[Plan, str]]) -> Iterator[str]:
    """In the end everything is in a checkpoint of the version that serves."""
    newest = max((seq for seq, _ in checkpoint.complete(store, LAYOUT.of_version(story.version))), default=-1)
    owed = [plan.seq for plan, _ in chain if plan.seq > newest and plan.cut != "fence"]
    if story.finished and owed:
        yield f"the newest checkpoint of version {story.version} is {newest}, and plans {owed} are in none"


def _begun(config: HostConfig, manifest_key: str | None) -> LearnerHost:
    """A learner from a checkpoint, or a new one."""
    host = LearnerHost(config)
    host.restore(manifest_key)
    return host


def _diverging(config: HostConfig, begun: str | None, batches: list[PlannedBatch]) -> dict[int, str]:
    """At which plans a clean run diverges, each found by running again from the start without those before it."""
    aside: dict[int, str] = {}
    while True:
        host = _begun(config, begun)
        try:
            for planned in batches:
                host.apply(replace(planned, aside=aside.get(planned.plan.seq, "")))
        except Diverged as error:
            aside[error.seq] = error.reason
        else:
            return aside


def _same(config: HostConfig, key: str, folded: LearnerHost) -> Iterator[str]:
    restored = LearnerHost(config)
    try:
        restored.restore(key)
    except HeadraceError as error:
        yield f"{key} cannot be restored: {error}"
        return
    if restored.state_sha256() != folded.state_sha256():
        yield f"{key} is not what the plans give"


def _planned(bucket: Bucket, plan: Plan, sha256: str) -> PlannedBatch:
    stored = [planned.staged for planned in plan.ranges if planned.staged is not None]
    batch, event_ids = staged.to_batch([_table(bucket, each) for each in stored])
    counts = [plans.count(planned) for planned in plan.ranges]
    return PlannedBatch(
        plan, sha256, batch, event_ids, sum(each[1] for each in counts), sum(each[2] for each in counts)
    )
