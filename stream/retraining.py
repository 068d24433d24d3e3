"""A full retrain as the service sees it: asked for in the store, trained elsewhere, judged, and promoted or kept.

Everything that matters is recorded before it is acted on, so a service that is killed at any moment goes on where its
records end: the request, each attempt, the finished version, the result.
"""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from stream import stamps, versions
from stream.errors import HeadraceError, LearnerAway, LearnerLost, PreconditionFailed, StoreUnavailable
from stream.naming import Layout
from stream.ports import Clock, Executor, Meter, ObjectStore
from stream.versions import OUTCOMES, Duel, Request, Result, Trained, Version

log = structlog.get_logger()
ATTEMPTS_MAX = 3
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: `ratio` of all that is to be done, 0 to 1; `doing`, for people."""

    ratio: float = 0.0
    doing: str = "starting"
    duel: Duel = field(default_factory=Duel)


class Trainer(Protocol):
    """Trains a version from scratch in a process of its own. Used by one thread at a time."""

    def begin(self, layout: Layout, against: int, request: Request) -> None:
        """Begin to train the layout's version, to be compared with version `against`. Raises LearnerFailed."""

    def poll(self) -> Progress | Trained:
        """How far it is. Raises LearnerLost when the process is gone, and what made the training impossible."""

    def close(self) -> None:
        """End the process, if one runs. Idempotent."""


@dataclass(frozen=True, slots=True)
class RetrainPolicy:
    """When a new version takes over: if its MRR is not below the live one's by more than `margin`, a share of it,
    over at least `clicks` that both ranked.
    """

    margin: float = 0.02
    clicks: int = 2000

    def judge(self, duel: Duel) -> tuple[bool, str]:
        """Whether it may take over, and why, for people."""
        if duel.clicks < self.clicks:
            return False, (
                f"only {duel.clicks:,} new clicks could be ranked by both, {self.clicks:,} are wanted to tell "
                "(HEADRACE_RETRAIN_PROOF_CLICKS); `headrace models promote` decides by hand"
            )
        worst = duel.live_mrr * (1.0 - self.margin)
        said = f"MRR@20 {duel.mrr:.4f} against {duel.live_mrr:.4f} of the live one on the same {duel.clicks:,} clicks"
        if not math.isfinite(duel.mrr) or duel.mrr < worst:
            return False, f"{said}: below it by more than the margin of {self.margin:g}"
        return True, said


@dataclass(frozen=True, slots=True)
class Office:
    """What retraining needs beside the trainer."""

    store: ObjectStore
    layout: Layout
    policy: RetrainPolicy
    executor: Executor
    clock: Clock
    meter: Meter


class Retraining:
    """At most one version in training. Used by the loop's thread; what waits runs on the executor."""

    def __init__(self, office: Office, trainer: Trainer) -> None:
        self._office = office
        self._trainer = trainer
        self._version: Version | None = None
        self._job: Future[Progress | Trained | None] | None = None
        self._polled = office.clock.monotonic()
        self._attempt = 0
        self._told = 0
        self.progress: Progress | None = None
        office.meter.set("headrace_retrain_running", 0)

    @property
    def busy(self) -> bool:
        """Whether a version is being trained."""
        return self._version is not None

    def heed(self, newest: Version, serving: int) -> None:
        """What the store says of the newest version: begin, go on, or stop because somebody has closed it."""
        if newest.result is not None and newest.number != self._told:  # by somebody, or under another process
            self._tell(newest.number, newest.result)
        if self._version is not None:
            if newest.number == self._version.number and newest.result is not None:
                log.warning("the retrain was closed by somebody", version=newest.number, outcome=newest.result.outcome)
                self._office.meter.set("headrace_retrain_timestamp_seconds", self._office.clock.now())
                self._end()
        elif newest.open and self._job is None:
            self._version = newest
            self.progress = Progress()
            self._office.meter.set("headrace_retrain_running", 1)
            self._office.meter.set("headrace_retrain_progress_ratio", 0)
            self._job = self._office.executor.submit(self._begin, newest, serving)

    def turn(self, now: float) -> None:
        """Look how far it is, if that is due."""
        if self._job is not None:
            if self._job.done():
                job, self._job = self._job, None
                self._settle(job)
        elif self._version is not None and now - self._polled >= POLL_SECONDS:
            self._polled = now
            self._job = self._office.executor.submit(self._trainer.poll)

    def close(self) -> None:
        """Leave the training to the next process, which begins it anew. Idempotent.

        What is broken off here is no attempt that failed: any number of upgrades must not end a training.
        """
        self._trainer.close()
        attempt, self._attempt = self._attempt, 0
        if self._version is not None and attempt:
            layout = self._office.layout.of_version(self._version.number)
            try:
                versions.forget_attempt(self._office.store, layout, attempt)
            except HeadraceError as error:  # it counts, then
                log.warning("the store does not take back an attempt to retrain", error=str(error))

    def _settle(self, job: Future[Progress | Trained | None]) -> None:
        version = self._version
        if version is None:  # closed by somebody while this was under way
            self._trainer.close()
            return
        try:
            found = job.result()
        except (LearnerLost, LearnerAway, StoreUnavailable) as error:
            log.warning("the retrain was interrupted, and begins again", error=str(error))
            self._end()
            return
        except HeadraceError as error:
            self._fail(str(error))
            return
        except Exception as error:
            log.exception("the retrain failed in a way that nobody has thought of")
            self._fail(repr(error))
            return
        if isinstance(found, Trained):
            self._job = self._office.executor.submit(self._conclude, version, found)
        elif isinstance(found, Progress):
            self._show(found)
        else:
            self._end()

    def _show(self, progress: Progress) -> None:
        before, self.progress = self.progress, progress
        if before is None or before.doing.partition(",")[0] != progress.doing.partition(",")[0]:
            log.info("retraining", doing=progress.doing, ratio=round(progress.ratio, 3))
        self._office.meter.set("headrace_retrain_progress_ratio", progress.ratio)
        self._show_duel(progress.duel)

    def _show_duel(self, duel: Duel) -> None:
        if duel.clicks:
            for model, mrr, hits in (
                ("new", duel.mrr, duel.hit_ratio),
                ("live", duel.live_mrr, duel.live_hit_ratio),
            ):
                self._office.meter.set("headrace_retrain_quality", mrr, model=model, measure="mrr")
                self._office.meter.set("headrace_retrain_quality", hits, model=model, measure="hit_ratio")

    def _fail(self, why: str) -> None:
        version = self._version
        self._end()
        if version is not None:
            log.error("the retrain failed", version=version.number, why=why)
            self._version = version
            self._job = self._office.executor.submit(self._close, version, Result("failed", why, self._now()))

    def _end(self) -> None:
        self._trainer.close()
        self._version, self.progress, self._attempt = None, None, 0
        self._office.meter.set("headrace_retrain_running", 0)

    def _begin(self, version: Version, serving: int) -> Progress | Trained | None:
        office, layout = self._office, self._office.layout.of_version(version.number)
        if version.trained is not None:
            return version.trained
        if version.attempts >= ATTEMPTS_MAX:
            why = f"its process ended {ATTEMPTS_MAX} times before it was done: is there memory for another model?"
            self._close(version, Result("failed", why, self._now()))
            return None
        self._trainer.begin(layout, serving, version.request or Request(""))
        self._attempt = versions.note_attempt(office.store, layout)
        log.info("retraining from scratch", version=version.number, attempt=self._attempt, serving=serving)
        return Progress()

    def _conclude(self, version: Version, trained: Trained) -> None:
        """Promote, or keep. Whoever changes the serving version meanwhile has the last word."""
        office, layout = self._office, self._office.layout.of_version(version.number)
        self._show_duel(trained.duel)
        if versions.read(office.store, layout).result is not None:  # cancelled at the last moment
            return
        good, why = office.policy.judge(trained.duel)
        known = versions.read_serving(office.store, layout)
        if known.serving.version == version.number:  # promoted, by us before we were killed, or by hand
            good, why = True, f"it serves already; {why}"
        elif good and known.serving.pinned:
            good, why = False, f"version {known.serving.version} is pinned (`headrace models unpin`); {why}"
        elif good and known.serving.version != trained.against:
            good, why = False, f"version {known.serving.version} serves by now, it was compared with {trained.against}"
        elif good and trained.against_since not in {None, known.serving.since}:
            # Perhaps back from this very one, which had taken over before its result could be written.
            chosen = f"version {known.serving.version} was chosen to serve at {known.serving.since}"
            good, why = False, f"{chosen}, after training had begun ({known.serving.why}): it stays; {why}"
        elif good:
            serving = versions.promoted(known.serving, version.number, self._now(), why)
            try:
                versions.write_serving(office.store, layout, serving, known)
            except PreconditionFailed:
                good, why = False, f"somebody else said at that moment which version serves; {why}"
        self._close(version, Result("promoted" if good else "kept", why, self._now()))

    def _close(self, version: Version, result: Result) -> None:
        layout = self._office.layout.of_version(version.number)
        final = versions.close(self._office.store, layout, result)
        log.info("the retrain is over", version=version.number, outcome=final.outcome, why=final.why)
        self._tell(version.number, final)
        self._office.meter.set("headrace_retrain_timestamp_seconds", self._office.clock.now())

    def _tell(self, number: int, result: Result) -> None:
        """How the last one ended, until another one does: an alarm must outlast a restart."""
        self._told = number
        for outcome in OUTCOMES:
            self._office.meter.set("headrace_retrain_last_outcome", outcome == result.outcome, outcome=outcome)

    def _now(self) -> str:
        return stamps.iso(self._office.clock.now())
