"""`headrace train`: the batch contract. From objects of clicks in the bucket to a trained, pickled model.

The order of durable acts, each of which may be the last one of a run that is killed:

1. what an earlier run left undone is done first (5 to 8, for its generation);
2. the clicks are read, and bad lines are written to `data/rejects/`;
3. the model is trained, in memory;
4. the next generation of the state is written, its MANIFEST last and only once: **this is the commit**;
5. the pickle is written, unless there is a later generation by now;
6. the new clicks that were trained are archived, once, byte for byte;
7. the object of new clicks is removed, if it holds nothing but those;
8. the generation is marked as finished, and old ones are removed.

Before 4 nothing has happened; after it nothing is trained again: the MANIFEST knows the trained bytes by their hash.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO

from stream import stamps, wiring
from stream.clocks import SystemClock
from stream.errors import CheckpointInvalid, StoreRefused
from stream.ports import Clock, ObjectStore
from stream.probe import probe
from stream.settings.settings import Settings
from stream.train import fit
from stream.train.clickfile import Consumed, find
from stream.train.clicks import in_time_order
from stream.train.finish import Finisher, spooled
from stream.train.fit import Fitted
from stream.train.input import Inputs
from stream.train.progress import Progress, on_terminal
from stream.train.result import TrainResult, nothing_done, result_of, summary
from stream.train.state import Duty, Generation, States, fresh_nonce


def main(settings: Settings, *, as_json: bool = False) -> None:
    """Run, show how it goes, print the result. Raises a `HeadraceError` that says what to do."""
    out = sys.stderr if as_json else sys.stdout
    with on_terminal(out) as progress:
        result = run(settings, progress=progress)
        progress.say(summary(result))
    if as_json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")


def run(
    settings: Settings,
    *,
    progress: Progress | None = None,
    store: ObjectStore | None = None,
    clock: Clock | None = None,
) -> TrainResult:
    """Train as the settings say; see the module for what is durable when. May take hours.

    Raises `ConfigError` for input that cannot be trained, `StoreRefused`, `Fenced` when another run was faster.
    """
    job = _Job(settings, store or wiring.open_store(settings), clock or SystemClock(), progress or Progress())
    with job.files:
        return job.run(job.files.enter_context(spooled()))


class _Job:
    """One run of the batch job."""

    def __init__(self, settings: Settings, store: ObjectStore, clock: Clock, progress: Progress) -> None:
        self._settings, self._options = settings, settings.train
        self._store, self._clock, self._progress = store, clock, progress
        self.files = ExitStack()
        self._began = clock.monotonic()
        self._states = States(store, settings.train.model_key)
        self._finisher = Finisher(store, self._states, progress)
        self._base = self._states.newest_seq()

    def run(self, new_bytes: IO[bytes]) -> TrainResult:
        newest = self._newest()
        recovered = newest is not None and self._finish_left_over(newest)
        done: Generation | None
        if newest is not None and self._options.incremental:
            done = self._incremental(newest, new_bytes)
        elif newest is not None and recovered and self._is_same_source(newest):
            done = None
        else:
            done = self._full(newest, new_bytes)
        if done is not None:
            return result_of(done, self._options.model_key)
        if newest is not None and recovered:
            return result_of(newest, self._options.model_key, recovered=True)
        return nothing_done(newest, self._options.model_key)

    def _newest(self) -> Generation | None:
        try:
            return self._states.newest()
        except CheckpointInvalid as error:
            self._damaged(error)
            return None

    def _damaged(self, error: CheckpointInvalid) -> None:
        """A full training needs no state and makes a new one; an incremental one cannot go on."""
        if self._options.incremental:
            raise StoreRefused(
                f"the model's state is damaged: {error}. Train in full (headrace train --full), which makes a new one"
            ) from error
        self._progress.say(f"warning: the model's state is damaged, and is made anew: {error}")

    def _finish_left_over(self, newest: Generation) -> bool:
        """Do what an earlier run owes; answers whether there was something."""
        if not self._finisher.owes(newest):
            return False
        self._progress.say(f"finishing what an earlier run left (generation {newest.seq})")
        try:
            learner, _ = self._states.load(newest)
            self._finisher.finish(newest, learner)
        except CheckpointInvalid as error:
            self._damaged(error)
            self._finisher.settle(newest)
        return True

    def _is_same_source(self, newest: Generation) -> bool:
        """Whether an earlier full run, now finished, trained what this one would."""
        info, source = find(self._store, self._options.clickstream_key), newest.duty.source
        return info is not None and source is not None and (info.key, info.etag) == (source.key, source.etag)

    def _full(self, newest: Generation | None, new_bytes: IO[bytes]) -> Generation:
        fallback = self._options.incremental
        if fallback:
            self._progress.say(
                f"there is no model to go on with (no state in {self._states.layout.prefix}/): training in full instead"
            )
        inputs = self._inputs(newest.duty.consumed if newest is not None else None, [])
        inputs.read_all(may_be_missing=fallback)
        if fallback:
            inputs.read_new(new_bytes)
        self._accept(inputs, begins=True)
        config = wiring.learner_config(self._settings, self._settings.model.train_dim)
        clicks = in_time_order(*inputs.parts)
        self._progress.say(f"full training: {len(clicks):,} clicks, at most {self._settings.model.epochs} epochs")
        fitted = fit.from_scratch(clicks, config, self._settings.model.epochs, self._progress)
        return self._commit(inputs, fitted, None, new_bytes)

    def _incremental(self, newest: Generation, new_bytes: IO[bytes]) -> Generation | None:
        info = find(self._store, self._options.new_clickstream_key)
        if info is None or not info.size:
            self._no_news("is missing" if info is None else "is empty")
            return None
        try:
            learner, window = self._states.load(newest)
        except CheckpointInvalid as error:
            self._damaged(error)
            raise
        inputs = self._inputs(newest.duty.consumed, window)
        if not inputs.read_new(new_bytes):
            self._no_news("holds nothing but what was trained already")
            return None
        self._accept(inputs, begins=False)
        self._compare_config(learner.config.to_dict())
        options, clicks = self._options, in_time_order(*inputs.parts)
        self._progress.say(f"incremental training: {len(clicks):,} new clicks, {options.incremental_epochs} epochs")
        fitted = fit.further(clicks, learner, options.incremental_epochs, options.incremental_lr_decay, self._progress)
        return self._commit(inputs, fitted, newest, new_bytes)

    def _inputs(self, consumed: Consumed | None, window: list[str]) -> Inputs:
        now = self._clock.now()
        return Inputs(self._settings, self._store, self._progress, now, self.files, consumed=consumed, window=window)

    def _accept(self, inputs: Inputs, *, begins: bool) -> None:
        """Refuse what cannot be trained; then try out the store, and keep the bad lines."""
        inputs.check(begins=begins)
        probe(self._store, self._states.layout)
        inputs.keep_rejects()

    def _no_news(self, why: str) -> None:
        self._progress.say(f"no new data: {self._options.new_clickstream_key} {why}")

    def _compare_config(self, trained: dict[str, object]) -> None:
        wanted = wiring.learner_config(self._settings, self._settings.model.train_dim).to_dict()
        wanted["score_fraction"] = trained["score_fraction"]
        odd = sorted(name for name in wanted if wanted[name] != trained[name])
        if odd:
            kept = ", ".join(f"{name}={trained[name]}" for name in odd)
            self._progress.say(
                f"the model keeps what it was trained with ({kept}); a full training takes the new settings"
            )

    def _commit(self, inputs: Inputs, fitted: Fitted, newest: Generation | None, new_bytes: IO[bytes]) -> Generation:
        duty = Duty(
            fresh_nonce(),
            inputs.source,
            inputs.consumed,
            inputs.archive_key,
            inputs.rejects_keys,
            self._settings.model.top_n,
            fallback=newest is None and self._options.incremental,
        )
        metadata = self._metadata(inputs, fitted, newest)
        generation = self._states.commit(self._base + 1, fitted.learner, inputs.window, metadata, duty)
        self._finisher.finish(generation, fitted.learner, new_bytes)
        self._states.prune(generation.seq)
        return generation

    def _metadata(self, inputs: Inputs, fitted: Fitted, newest: Generation | None) -> dict[str, object]:
        learner, before = fitted.learner, newest.metadata if newest is not None else {}
        users, items, events = len(learner.users), len(learner.items), len(inputs)
        losses = [epoch.loss for epoch in fitted.epochs]
        return {
            "training_mode": "incremental" if newest is not None else "full",
            "n_users": users,
            "n_items": items,
            "new_users": users - int(before.get("n_users", 0)),
            "new_items": items - int(before.get("n_items", 0)),
            "final_loss": losses[fitted.kept - 1] if losses else before.get("final_loss"),
            "last_updated": stamps.iso(self._clock.now()),
            "total_training_samples": events + int(before.get("total_training_samples", 0)),
            "epoch_losses": losses,
            "kept_epoch": fitted.kept,
            "n_events": events,
            "rejected": inputs.rejected,
            "duplicates": inputs.duplicates,
            "seconds": round(self._clock.monotonic() - self._began, 3),
            "sequence_length": learner.config.sequence_length,
            "dim": learner.config.dim,
        }
