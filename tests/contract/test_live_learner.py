"""One contract for the live learner: in this process, in an actor of an embedded Ray, and in a cluster through ray://."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from stream.actor import RayLearner
from stream.errors import CheckpointInvalid, Diverged, LearnerFailed, LearnerLost
from stream.events import CheckpointFailed, CheckpointRef, LearnReport, Plan, PlannedBatch, PlannedRange
from stream.host import HostConfig
from stream.plans import encode, sha256
from stream.ports import LiveLearner
from stream.staged import SCHEMA, to_batch
from stream.store.directory import DirectoryStore
from tests.fakes import InlineLearner
from tests.rigs import LAYOUT, MODEL

Make = Callable[[HostConfig], LiveLearner]


@pytest.fixture(params=["inline", "embedded", "client"], scope="module")  # by module: each Ray is joined once
def make(request: pytest.FixtureRequest) -> Make:
    """A learner of each kind."""
    if request.param == "inline":
        return InlineLearner
    request.getfixturevalue("embedded_ray" if request.param == "embedded" else "client_ray")
    return RayLearner


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    """Hosts that keep their checkpoints in a folder."""
    return HostConfig(MODEL, LAYOUT, DirectoryStore(tmp_path), 100)


@pytest.fixture
def learner(make: Make, config: HostConfig) -> Iterator[LiveLearner]:
    """A started, empty learner."""
    learner = make(config)
    learner.start()
    yield learner
    learner.close()


def test_reports_plans_in_order(learner: LiveLearner) -> None:
    """Every plan submitted is reported once, in order, with what it did."""
    for planned in chain(3):
        learner.submit(planned)

    reports = gather(learner)
    assert [report.seq for report in reports] == [0, 1, 2]
    assert [report.learned.clicks for report in reports if report.learned] == [0, 20, 20]
    assert learner.in_flight() == 0


def test_knows_what_it_has(learner: LiveLearner) -> None:
    """A plan that was applied before changes nothing and says so."""
    planned = chain(2)
    for each in planned:
        learner.submit(each)
    gather(learner)
    before = learner.status(digest=True)["state_sha256"]
    learner.submit(planned[1])

    assert [report.already_applied for report in gather(learner)] == [True]
    assert learner.status(digest=True)["state_sha256"] == before


def test_says_at_which_plan_it_diverged(make: Make, config: HostConfig) -> None:
    """Steps that are far too large run away: the plan is named, as data, across whatever lies in between."""
    learner = make(replace(config, learner=replace(MODEL, learning_rate=1000.0)))
    learner.start()
    for planned in chain(3):
        learner.submit(planned)

    with pytest.raises(Diverged) as raised:
        gather(learner)
    learner.close()
    assert (raised.value.seq, "is" in raised.value.reason) == (2, True)


def test_refuses_a_gap(learner: LiveLearner) -> None:
    """A plan that does not follow is not learned."""
    learner.submit(chain(3)[2])

    with pytest.raises((LearnerFailed, LearnerLost)):
        gather(learner)


def test_restores_what_it_checkpointed(learner: LiveLearner, config: HostConfig, make: Make) -> None:
    """A checkpoint holds the state after all that was submitted before it, and restores to the same bytes."""
    planned = chain(4)
    for each in planned[:3]:
        learner.submit(each)
    learner.begin_checkpoint()
    learner.submit(planned[3])
    written = next(each for each in gather_all(learner) if isinstance(each, CheckpointRef))
    other = make(config)
    other.start()
    position = other.restore(written.manifest_key)
    other.submit(planned[3])
    gather(other)

    assert (written.seq, position.seq, position.next_offsets) == (2, 2, {0: 40})
    assert position.window.tolist() == [f"e{offset}" for offset in range(40)]
    assert other.status(digest=True)["state_sha256"] == learner.status(digest=True)["state_sha256"]
    other.close()


def test_refuses_damaged_checkpoint(learner: LiveLearner, config: HostConfig) -> None:
    """A checkpoint with one flipped bit is refused by name, and the learner is empty afterwards."""
    learner.submit(chain(1)[0])
    learner.begin_checkpoint()
    written = next(each for each in gather_all(learner) if isinstance(each, CheckpointRef))
    part = next(info.key for info in config.store.list(LAYOUT.checkpoints) if "items" in info.key)
    data = bytearray(config.store.get(part).data)
    data[-1] ^= 1
    config.store.put(part, bytes(data))

    with pytest.raises(CheckpointInvalid, match="items"):
        learner.restore(written.manifest_key)
    assert learner.status()["seq"] == -1


def test_reports_failed_checkpoint(make: Make, tmp_path: Path) -> None:
    """A checkpoint that cannot be written is answered as failed; the learner goes on."""
    folder = tmp_path / "store"
    learner = make(HostConfig(MODEL, LAYOUT, DirectoryStore(folder), 100))
    learner.start()
    (folder / "headrace").parent.mkdir(exist_ok=True)
    (folder / "headrace").write_bytes(b"a file where a folder must be")
    planned = chain(2)
    learner.submit(planned[0])
    learner.begin_checkpoint()
    learner.submit(planned[1])

    answers = gather_all(learner)
    assert [type(each) for each in answers if not isinstance(each, LearnReport)] == [CheckpointFailed]
    assert learner.status()["seq"] == 1
    learner.close()


def test_recommends_without_changing(learner: LiveLearner) -> None:
    """Known users get N items they can be given reasons for, unknown ones what is popular; the state stays."""
    for planned in chain(3):
        learner.submit(planned)
    gather(learner)
    before = learner.status(digest=True)["state_sha256"]
    known, unknown = learner.recommend("u1", 5), learner.recommend("nobody", 5)

    assert len(known) == len(unknown) == 5
    assert [item.score for item in known] == sorted((item.score for item in known), reverse=True)
    assert learner.status(digest=True)["state_sha256"] == before


def test_killed_process_is_lost(learner: LiveLearner) -> None:
    """After SIGKILL every call says that the learner is lost; a new start is empty and works."""
    kill(learner)
    with pytest.raises(LearnerLost):
        gather_all_of(learner, chain(1))
    learner.start()

    assert learner.status()["seq"] == -1


def test_death_of_an_idle_one_is_noticed(learner: LiveLearner) -> None:
    """Nobody asks it anything: who collects is told all the same, and soon."""
    kill(learner)
    with pytest.raises(LearnerLost):
        listen(learner)


def kill(learner: LiveLearner) -> None:
    """SIGKILL, or what comes nearest to it."""
    if isinstance(learner, InlineLearner):
        learner.kill()
    else:
        os.kill(learner.status()["pid"], signal.SIGKILL)


def listen(learner: LiveLearner) -> None:
    """Collect for half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        learner.collect(0.1)


def chain(count: int) -> list[PlannedBatch]:
    """A fence and plans of 20 clicks each, well chained."""
    planned, previous = [], ""
    for seq in range(count):
        start = max(0, seq - 1) * 20
        end = start + (20 if seq else 0)
        plan = Plan(
            "main", seq, 1, f"n{seq}", previous, "rows" if seq else "fence", 0, "t", (PlannedRange(0, start, end),)
        )
        previous = sha256(encode(plan))
        offsets = range(start, end)
        columns = [
            list(offsets),
            [f"u{offset % 3}" for offset in offsets],
            [f"i{offset % 11}" for offset in offsets],
            ["view"] * len(offsets),
            [1_600_000_000_000 + offset for offset in offsets],
            [f"e{offset}" for offset in offsets],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        planned.append(PlannedBatch(plan, previous, *to_batch([table]), 0, 0))
    return planned


def gather_all_of(learner: LiveLearner, planned: list[PlannedBatch]) -> list[LearnReport]:
    """Hand over and wait: a process that is gone shows at one of the two."""
    for each in planned:
        learner.submit(each)
    return gather(learner)


def gather(learner: LiveLearner) -> list[LearnReport]:
    """All reports, once nothing is in flight."""
    found: list[LearnReport] = []
    deadline = time.monotonic() + 60
    while learner.in_flight() and time.monotonic() < deadline:
        found += [each for each in learner.collect(0.2) if isinstance(each, LearnReport)]
    return found


def gather_all(learner: LiveLearner) -> list[LearnReport | CheckpointRef | CheckpointFailed]:
    """All answers, once nothing is in flight and one checkpoint is done."""
    found: list[LearnReport | CheckpointRef | CheckpointFailed] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found += learner.collect(0.2)
        if not learner.in_flight() and any(not isinstance(each, LearnReport) for each in found):
            break
    return found
