"""`headrace demo`: the whole cycle on real input, with nothing but this machine; and a learner killed half-way.

The learner loses its process to SIGKILL in the middle of the year. At the end a second learner folds the same plans
without any interruption, and the two states must have the same hash.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from model.config import LearnerConfig
from stream import actor, checkpoint, log
from stream.actor import RayConfig, RayLearner
from stream.batching import CutPolicy
from stream.breaker import BreakerPolicy
from stream.clocks import SimulatedClock
from stream.demo import data as demo_data
from stream.demo.show import Screen, Tally
from stream.errors import ConfigError
from stream.events import LearnReport, Totals
from stream.history import Archive
from stream.host import HostConfig
from stream.lineage import resolve
from stream.loop import Rhythm
from stream.metrics import PrometheusMeter
from stream.names import load_names
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff, CheckpointPolicy
from stream.recovery import await_room, replay
from stream.replay.readers import open_rows
from stream.replay.rows import Rows
from stream.replay.source import FileDeadLetters, ReplaySource
from stream.service import Doors, Orders, Service
from stream.store.directory import DirectoryStore

BATCH_ROWS = 1000
CHECKPOINT_BATCHES = 200
WINDOW = 100_000
REJECTS = "rejects.jsonl"
OUTCOMES = ("trained", "rejected", "duplicate")
IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play: at most `events` of `data` (None: a year of purchases), in `folder`, which is emptied first."""

    events: int | None
    seed: int
    data: Path | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything the play needs once the curtain is up."""

    config: HostConfig
    service: Service
    learner: RayLearner
    meter: PrometheusMeter
    rows: Rows


def default_folder() -> Path:
    """One folder per user of the machine, so that a second demo replaces the first."""
    return Path(tempfile.gettempdir()) / f"headrace-demo-{os.getuid()}"


def play(plan: Plan, console: Console, seen: Callable[[Tally], None] = lambda _: None) -> dict[str, Any]:
    """Run the demo; answers the figures of its last line. `seen`: shown the sums at the end of the stream."""
    started = time.monotonic()
    log.configure("warning")
    clicks, rows = _set_up(plan, console)
    console.print(f"Starting Ray and the learner; everything lies in {plan.folder}")
    actor.connect(RayConfig(quiet=True))
    try:
        stage = _stage(plan, rows)
        tally = Tally(len(stage.rows))
        _stream(stage, Screen(console, tally), tally)
        seen(tally)
        result = _results(stage, tally)
        console.print("\nFolding the same plans once more, without interruption, in a second learner...")
        result["identical_after_kill"] = _folds_to_same(stage, console)
        _say_outcomes(result, plan.folder, console)
        _say_farewell(stage, clicks, console)
    finally:
        actor.disconnect()
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def _set_up(plan: Plan, console: Console) -> tuple[demo_data.Clicks, Rows]:
    """What to replay, opened before the folder is emptied: a slip in --data costs neither time nor the last demo."""
    folder = plan.folder
    if folder.is_dir() and not (folder / ".headrace-demo").exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and was not made by a demo: name another folder with --work")
    if plan.data is None:
        _empty(folder)
        console.print("A year of grocery purchases: 2,469 households, 68,509 products (Complete Journey, 84.51°)")
        clicks = demo_data.purchases(folder, plan.events, plan.seed)
        return clicks, open_rows(clicks.path)
    if plan.data.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{plan.data} lies in {folder}, which is emptied first: move it, or name another with --work")
    rows = open_rows(plan.data, plan.events)
    _empty(folder)
    return demo_data.Clicks(plan.data, None), rows


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        (folder / ".headrace-demo").touch()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror}; name another folder with --work") from error


def _stage(plan: Plan, rows: Rows) -> Stage:
    store = DirectoryStore(plan.folder / "store")
    layout = Layout("headrace", resolve(store, "headrace", "main"))
    config = HostConfig(LearnerConfig(seed=plan.seed), layout, store, WINDOW)
    learner, clock, meter = RayLearner(config), SimulatedClock(), PrometheusMeter()
    doors = Doors(
        ReplaySource(rows, partitions=1, clock=clock),
        FileDeadLetters(plan.folder / REJECTS),
        store,
        learner,
        clock,
        meter,
    )
    kept = CheckpointPolicy(batches=CHECKPOINT_BATCHES, seconds=30.0, grace_seconds=1e9)
    rhythm = Rhythm(
        cut=CutPolicy(rows=BATCH_ROWS), checkpoint=kept, breaker=BreakerPolicy(share=0.0), in_flight=IN_FLIGHT
    )
    service = Service(doors, Orders(layout, "purchases", rhythm=rhythm, window=WINDOW, drain_seconds=60.0))
    return Stage(config, service, learner, meter, rows)


def _stream(stage: Stage, screen: Screen, tally: Tally) -> None:
    """The stream from its first event to its last, with one murder in the middle."""
    stage.service.open()
    stage.service.figures.told = tally.learned
    pid = int(stage.learner.status()["pid"])
    with screen:
        stage.service.run(lambda: _turned(stage, screen, tally, pid))
        _look(stage, tally)  # the last checkpoint is written after the last turn
    tally.finish()


def _turned(stage: Stage, screen: Screen, tally: Tally, pid: int) -> None:
    _look(stage, tally)
    if not tally.kills and tally.done >= len(stage.rows) // 2:
        os.kill(pid, signal.SIGKILL)
        tally.kills += 1
        screen.say(f"killed the learner (SIGKILL to process {pid}) after {tally.done:,} events")
    screen.draw()


def _look(stage: Stage, tally: Tally) -> None:
    tally.done = sum(int(stage.meter.value("headrace_events_total", outcome=outcome)) for outcome in OUTCOMES)
    tally.checkpoints = int(stage.meter.value("headrace_checkpoints_total"))
    tally.revivals = int(stage.meter.value("headrace_learner_restarts_total"))
    tally.delay = stage.service.figures.delay


def _results(stage: Stage, tally: Tally) -> dict[str, Any]:
    _, key = list(checkpoint.complete(stage.config.store, stage.config.layout))[-1]
    totals: Totals = checkpoint.read_manifest(stage.config.store, key).totals
    return {
        "events": totals.trained + totals.rejected + totals.duplicates,
        "trained": totals.trained,
        "rejected": totals.rejected,
        "duplicates": totals.duplicates,
        "users": tally.users,
        "items": tally.items,
        **tally.quality(),
        "events_per_second": round(tally.events_per_second),
        "checkpoints": int(stage.meter.value("headrace_checkpoints_total")),
        "kills": tally.kills,
    }


def _folds_to_same(stage: Stage, console: Console) -> bool:
    mine = stage.learner.status(digest=True)["state_sha256"]
    second = RayLearner(stage.config)
    second.start()
    second.restore(None)
    patience = Patience(Backoff(), lambda _: True, stage.meter)
    ignore: Callable[[LearnReport], None] = lambda _: None  # noqa: E731 - a name for a do-nothing argument
    for planned in replay(Archive(stage.config.store, stage.config.layout, patience, stage.meter), Head(-1, "", 0), {}):
        await_room(second, IN_FLIGHT, ignore)
        second.submit(planned)
    await_room(second, 1, ignore)
    other = second.status(digest=True)["state_sha256"]
    second.close()
    verdict = "[green]identical[/]" if mine == other else "[red]DIFFERENT[/]"
    console.print(f"  killed and restored  {mine[:32]}\n  never interrupted    {other[:32]}   {verdict}")
    return bool(mine == other)


def _say_outcomes(result: Mapping[str, Any], folder: Path, console: Console) -> None:
    if result["rejected"]:
        where = f"each with its reason in {folder / REJECTS}"
        console.print(
            f"\n{result['rejected']:,} of {result['events']:,} rows were rejected, {where}",
            soft_wrap=True,
            highlight=False,
        )
    if result["duplicates"]:
        console.print(f"\n{result['duplicates']:,} rows repeat an event_id and were dropped", highlight=False)


def _named(reason: str, suggested: str, names: Mapping[str, str]) -> str:
    return "having had it before" if reason == suggested else names.get(reason, reason)


def _say_farewell(stage: Stage, clicks: demo_data.Clicks, console: Console) -> None:
    user = _last_user(stage.rows)
    if user is None:
        stage.service.close()
        console.print("\nNot one row names a user, so there is nobody to recommend anything to.")
        return
    names = load_names(clicks.names) if clicks.names else {}
    console.print(f"\nUser {user}'s top ten, and which of their past clicks speak for it:", markup=False)
    for place, suggested in enumerate(stage.learner.recommend(user, 10), 1):
        reasons = [
            _named(each.product_id, suggested.product_id, names)
            for each in stage.learner.explain(user, suggested.product_id)[:2]
            if each.score > 0
        ]
        because = f"  because of {' and '.join(reasons)}" if reasons else "  popular just now"
        name = names.get(suggested.product_id, suggested.product_id)
        console.print(f"  {place:2}. {name:<42}{because}", markup=False, highlight=False, soft_wrap=True)
    stage.service.close()
    where = stage.config.store.root  # type: ignore[attr-defined]
    named = f" --names {clicks.names}" if clicks.names else ""
    command = "headrace" if shutil.which("headrace") else os.path.relpath(sys.argv[0])
    console.print(
        f"\nTry next:\n  {command} explain {user} --store {where}{named}\n  {command} verify --store {where}\n"
        f"  {command} demo --data YOUR.parquet      your own clicks: user_id, product_id, timestamp",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _last_user(rows: Rows) -> str | None:
    """Whose click is the last one; None where no row has a user."""
    for stop in range(len(rows), 0, -BATCH_ROWS):
        keys = rows.keys(range(max(0, stop - BATCH_ROWS), stop))
        user = next(filter(None, reversed(keys)), None)
        if user is not None:
            return user.decode()
    return None
