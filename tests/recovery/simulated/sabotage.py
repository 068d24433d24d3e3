"""The simulation turned on itself: one protection switched off at a time, and the judge must find what breaks.

Each entry says what is switched off, what goes wrong without it, and within how many seeds that must be found; 0 where
the protection decides only who goes on, or how soon, and nothing is corrupted without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import msgspec

import stream.host
from stream import aside, checkpoint, committer, opening, planner, recovery, service
from stream.errors import Diverged, Fenced, PreconditionFailed
from stream.events import LearnReport, Plan, PlannedBatch
from stream.history import Archive
from stream.host import LearnerHost
from stream.naming import Layout
from stream.ports import ObjectStore
from stream.recovery import Recovered, Replaying
from tests.recovery.simulated import chain
from tests.recovery.simulated.ends import Bucket, SimulatedSource


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One protection, and what its absence does. `seeds`: within so many it must be found; 0: it corrupts nothing.

    `patches`: (owner, name, what stands there meanwhile).
    """

    name: str
    breaks: str
    seeds: int
    patches: Sequence[tuple[Any, str, Any]]

    @contextmanager
    def off(self) -> Iterator[None]:
        """The protection is off meanwhile."""
        with ExitStack() as stack:
            for owner, name, value in self.patches:
                stack.enter_context(patch.object(owner, name, value))
            yield


_put, _poll, _apply, _diverged = Bucket.put, SimulatedSource.poll, LearnerHost.apply, aside.Asides.diverged


def _nothing(*_: Any, **__: Any) -> None:
    """Does not look."""


def _put_regardless(self: Bucket, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
    return _put(self, key, data, if_absent=False, if_match=None)


def _refusal_is_ours(self: planner.Planner, plan: Plan, data: bytes) -> None:
    key = self._slots.layout.plan(plan.seq)
    try:
        self._slots.store.put(key, data, if_absent=True)
    except PreconditionFailed:
        return


def _refusal_is_theirs(self: planner.Planner, plan: Plan, data: bytes) -> None:
    key = self._slots.layout.plan(plan.seq)
    try:
        self._slots.store.put(key, data, if_absent=True)
    except PreconditionFailed:
        raise Fenced(f"{key} is there") from None


def _manifest_first(store: ObjectStore, layout: Layout, manifest: Any, files: Mapping[str, Any]) -> Any:
    home, parts = layout.checkpoint(manifest.seq), []
    for name, path in sorted(files.items()):
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        parts.append(checkpoint.Part(name, checkpoint._part_key(home, name, sha256), sha256, len(data)))
    complete = replace(manifest, parts=tuple(parts))
    try:
        store.put(layout.manifest(manifest.seq), msgspec.json.encode(complete), if_absent=True)
    except PreconditionFailed:
        return complete
    for name, path in sorted(files.items()):
        checkpoint._put_part(store, home, name, path)
    return complete


def _offsets_of_the_group(source: SimulatedSource, _start: str, known: Mapping[int, int]) -> dict[int, int]:
    begin = source.beginning()
    return {each: source._log.group.get(each, begin[each]) for each in {*source.partitions(), *known}}


def _poll_and_commit(self: SimulatedSource, max_events: int, timeout_seconds: float) -> Any:
    chunks = _poll(self, max_events, timeout_seconds)
    self._log.group |= {chunk.partition: chunk.end for chunk in chunks}
    return chunks


def _apply_anything(self: LearnerHost, planned: PlannedBatch) -> LearnReport:
    report = self._learn(planned) if len(planned.batch) and not planned.aside else self._pass_over(planned)
    self._advance(planned)
    return report


def _recover_without_window(archive: Archive, learner: Any, replaying: Replaying) -> Recovered:
    return replace(recovery.recover(archive, learner, replaying), event_ids=[])


def _read_unchecked(store: ObjectStore, part: checkpoint.Part) -> bytes:
    return store.get(part.key).data


def _set_aside_at_once(self: aside.Asides, error: Diverged) -> None:
    self._suspected.add(error.seq)
    _diverged(self, error)


SABOTAGES = (
    Sabotage(
        "create-once writes: the store ignores If-None-Match, and the probe does not look",
        "two writers overwrite each other's plans, and clicks are lost or trained twice",
        60,
        [(Bucket, "put", _put_regardless), (service, "probe", _nothing)],
    ),
    Sabotage(
        "offsets in the plans: the consumer group's are used, committed after each poll",
        "what was polled and not yet planned is skipped after a crash",
        20,
        [(opening, "_first_offsets", _offsets_of_the_group), (SimulatedSource, "poll", _poll_and_commit)],
    ),
    Sabotage(
        "MANIFEST last: it is written before its parts",
        "a half-written checkpoint counts as one of those kept, and what it lacks is collected",
        60,
        [(checkpoint, "write", _manifest_first)],
    ),
    Sabotage(
        "the nonce: a refused plan is taken for one's own",
        "a process that was replaced goes on, on a history that is not the one stored",
        60,
        [(planner.Planner, "_put", _refusal_is_ours)],
    ),
    Sabotage(
        "the nonce: a refused plan is taken for another's",
        "nothing: after a lost reply the process stops, and the next one goes on from its plan",
        0,
        [(planner.Planner, "_put", _refusal_is_theirs)],
    ),
    Sabotage(
        "the fence: none is written",
        "an idle process is never told that it was replaced: two run on side by side, and which one learns is chance",
        60,
        [(opening.Opening, "_fence", _nothing)],
    ),
    Sabotage(
        "the learner's check of the sequence: it learns whatever it is given",
        "a call that was delivered twice is learned twice",
        60,
        [(LearnerHost, "apply", _apply_anything)],
    ),
    Sabotage(
        "the window of event ids: it is not rebuilt after a restart",
        "an event that was published again is trained twice",
        60,
        [(opening, "recover", _recover_without_window)],
    ),
    Sabotage(
        "the hashes of a checkpoint's parts: they are not compared",
        "a damaged part is restored from, or stops every start",
        200,
        [(checkpoint, "read_part", _read_unchecked)],
    ),
    Sabotage(
        "the look whether one overslept: a plan in an emptied slot stays",
        "a process that slept through a takeover and the collection after it goes on, on a history of its own",
        200,
        [(planner.Planner, "_check_not_overslept", _nothing)],
    ),
    Sabotage(
        "the look whether a learner brought back is level with one's own newest plan",
        "nothing: the next plan is refused, and the process stops then",
        0,
        [(committer.Committer, "check_own", _nothing)],
    ),
    Sabotage(
        "beginning recovery again when overtaken",
        "nothing: the process stops, and its next start recovers",
        0,
        [(recovery, "_newest", lambda _archive: 0)],
    ),
    Sabotage(
        "the health check: what diverged is kept",
        "a poisoned model is served, checkpointed and learned on",
        60,
        [(chain._Health, "ailment", staticmethod(lambda _model, _learned: None))],
    ),
    Sabotage(
        "the second try: a batch is set aside when learning diverges once",
        "a bit that fell over in memory costs a good batch, and two machines do not come to the same model",
        60,
        [(aside.Asides, "diverged", _set_aside_at_once)],
    ),
    Sabotage(
        "giving a diverged state up: its learner goes on, and is checkpointed",
        "clicks after the divergence are learned on a broken state",
        200,
        [(stream.host.LearnerHost, "_check_sound", _nothing)],
    ),
)
"""Every protection that is tried, in the order of the cycle."""
