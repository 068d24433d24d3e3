"""One seed's story: what is published, what goes wrong and when, who starts services anew. Then the calm at the end.

The first part is stormy: processes die at boundaries, sleep, are started twice, lose their learner; the store loses
requests and replies, delivers some late, goes away; the log drops what is old. In the second part nothing goes wrong
any more, and whatever the storm left behind must come to a good end by itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import LearnerConfig
from stream import lineage, versions
from stream.batching import CutPolicy, PressurePolicy
from stream.errors import HeadraceError
from stream.events import Reject
from stream.host import HostConfig
from stream.loop import Rhythm
from stream.naming import MANIFEST, Layout
from stream.policy import CheckpointPolicy
from stream.retraining import RetrainPolicy
from stream.service import Doors, Orders, Service
from tests.recovery.simulated.chain import POISON, cosmic
from tests.recovery.simulated.ends import (
    Bucket,
    Log,
    Message,
    SimulatedLearner,
    SimulatedLetters,
    SimulatedSource,
    SimulatedStore,
    Tally,
    Weather,
)
from tests.recovery.simulated.versions import Operator, SimulatedTrainer
from tests.recovery.simulated.world import (
    Process,
    ProcessClock,
    SimulatedExecutor,
    SimulatedLookout,
    World,
)

LAYOUT = Layout("headrace", "main")
TOPIC = "clicks"
MODEL = LearnerConfig(dim=4, negatives=8, block=16, long_ring=200)
WINDOW = 1000
STORM = 400.0
"""Seconds in which things go wrong, by the world's clock."""
CALM = 1200.0
"""Seconds after it in which everything must be learned and checkpointed."""
GRACE = 120.0


@dataclass(slots=True)
class Run:
    """A service process, and how it ended: None while it runs, else a word or two."""

    process: Process
    service: Service | None = None
    """None until it knows which version is to serve."""
    ended: str | None = None

    @property
    def learner(self) -> SimulatedLearner | None:
        """Of the version that serves now."""
        return self.service.learner if self.service is not None else None  # type: ignore[return-value]

    @property
    def version(self) -> int:
        """The version that serves; 0 while it is not known."""
        return self.service.layout.version if self.service is not None else 0


@dataclass(slots=True)
class Story:
    """What happened, for the judge."""

    seed: int
    world: World
    bucket: Bucket
    log: Log
    letters: list[Reject] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    """Ends of processes that no error of ours explains."""
    finished: bool = False
    """Everything was learned and checkpointed in the calm."""
    rotten: str = "-"
    """The folder of the checkpoint that was damaged, if one was."""
    digest: str = ""
    """Of the live state at the end."""
    version: int = 1
    """The version that it is of."""


def tell(seed: int, *, tracing: bool = False) -> Story:
    """Let the world of `seed` run to its end."""
    world = World(seed, tracing=tracing)
    teller = _Teller(world, seed)
    try:
        teller.run()
    finally:
        world.close()
        cosmic.ray = lambda: False
    return teller.story


class _Teller:
    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed * 2 + 1)
        self.poisonous = self.random.choice((0.0, 0.0, 0.02, 0.1))
        rays = self.random.choice((0.0, 0.0, 0.02))
        cosmic.ray = lambda: world.now < STORM and world.random.random() < rays
        cosmic.struck.clear()
        opened = self._partitions()
        bucket, log = Bucket(world), Log(world, self._messages(opened), opened)
        bucket.weather = self._weather()
        self.story = Story(seed, world, bucket, log)
        self.rhythm = self._rhythm()
        self.deadly = self.random.choice((0.0, 0.3, 0.6, 0.9))
        """The share of processes that die in the storm."""
        self.learn_seconds = self.random.choice((0.01, 0.05, 0.5, 5.0))
        self._starts = 0
        # Of its own, so that a world without an operator is the same world as before there were any.
        fate = random.Random(seed * 3 + 7)
        self.operator = Operator(bucket, LAYOUT, fate) if fate.random() < 0.3 else None
        """Somebody who retrains and rolls back. Without an archive one could not go back, so there is one then."""
        if self.operator is not None:
            self.rhythm = replace(self.rhythm, checkpoint=replace(self.rhythm.checkpoint, archive=True))
            for _ in range(fate.randint(2, 6)):
                world.at(fate.uniform(30, STORM), self._operate)

    def run(self) -> None:
        story, world = self.story, self.world
        for start, seconds in self._spans(2, 30.0):
            story.log.quiet.append((start, start + seconds))
        if self.random.random() < 0.3:
            world.at(self.random.uniform(100, STORM), self._retain)
        if self.random.random() < 0.3:
            world.at(self.random.uniform(60, STORM), self._rot)
        self._start()
        world.at(self.random.uniform(5, 60), self._trouble)
        world.run(lambda: world.now >= STORM, STORM + 1)
        self._calm()
        story.finished = world.run(self._is_done, STORM + CALM)
        self._stop()

    # What the world is made of.

    def _partitions(self) -> dict[int, float]:
        count = self.random.choice((1, 1, 2, 3))
        opened = dict.fromkeys(range(count), 0.0)
        if self.random.random() < 0.3:
            opened[count] = self.random.uniform(30, STORM / 2)
        return opened

    def _messages(self, opened: Mapping[int, float]) -> list[Message]:
        count, nexts = self.random.randint(15, 60), dict.fromkeys(opened, 0)
        found = []
        bursts = sorted(self.random.uniform(0, STORM) for _ in range(self.random.randint(3, count)))
        for place, at in enumerate(sorted(self.random.choice(bursts) for _ in range(count))):
            partition = self.random.choice([each for each, since in opened.items() if since <= at])
            if self.random.random() < 0.05:
                nexts[partition] += self.random.randint(1, 3)  # compacted away
            found.append(Message(partition, nexts[partition], self._value(place), at))
            nexts[partition] += 1
        return found

    def _value(self, place: int) -> bytes:
        kind = self.random.random()
        if kind < 0.08:
            return b"no click"
        click: dict[str, Any] = {
            "user_id": f"u{self.random.randint(0, 4)}",
            "product_id": POISON if self.random.random() < self.poisonous else f"i{self.random.randint(0, 12)}",
            "timestamp": 1_600_000_000 + place,
        }
        if kind < 0.4:
            click["event_id"] = f"e{self.random.randint(0, place) if kind < 0.2 else place}"
        return json.dumps(click).encode()

    def _weather(self) -> Weather:
        bad = self.random.choice((0.0, 0.01, 0.05))
        return Weather(
            lost_request=bad,
            lost_reply=bad,
            conflict=bad,
            late=self.random.choice((0.0, 0.0, 0.02)),
            slow=self.random.choice((0.0, 0.01)),
            twice=self.random.choice((0.0, 0.02)),
            outages=[(start, start + seconds) for start, seconds in self._spans(2, 60.0)],
        )

    def _spans(self, most: int, longest: float) -> list[tuple[float, float]]:
        return [
            (self.random.uniform(0, STORM), self.random.uniform(1, longest))
            for _ in range(self.random.choice((0, 0, 1, most)))
        ]

    def _rhythm(self) -> Rhythm:
        return Rhythm(
            cut=CutPolicy(rows=self.random.randint(2, 8), age_seconds=2.0),
            pressure=PressurePolicy(4000, 1000),
            checkpoint=CheckpointPolicy(self.random.randint(2, 5), 30.0, 2, GRACE, self.random.random() < 0.7, 5.0),
            poll_events=self.random.randint(3, 20),
            idle_seconds=1.0,
            busy_seconds=0.1,
            partitions_seconds=20.0,
            check_seconds=15.0,
        )

    # What happens in it.

    def _start(self) -> Run:
        """Begin a service process, as an orchestrator would."""
        self._starts += 1
        process = Process(self.world, f"service-{self._starts}")
        if self.random.random() < 0.3:
            process.skew = self.random.choice((-7200.0, -600.0, 600.0, 7200.0))
        stormy = self.world.now < STORM
        if stormy and self.random.random() < self.deadly:
            process.doom = int(10 ** self.random.uniform(0.5, 3.2))
        run = Run(process)
        self.story.runs.append(run)
        process.died = lambda: self._gone(run)
        self.world.note(process, f"starts, doomed at {process.doom}")
        self.world.spawn(process, lambda: self._main(run))
        return run

    def _service(self, process: Process, store: SimulatedStore) -> Service:
        story, layout = self.story, LAYOUT
        if self.operator is not None:
            layout = LAYOUT.of_version(versions.read_serving(store, LAYOUT).serving.version)
        doors = Doors(
            SimulatedSource(story.log, process),
            SimulatedLetters(story.letters, process, story.bucket),
            store,
            self._learner(process, store, layout),
            ProcessClock(process),
            Tally(),
            lambda: SimulatedLookout(self.world),
            lambda: f"{process.name}-{self.random.getrandbits(64):x}",
        )
        if self.operator is not None:
            trainer = SimulatedTrainer(story.bucket, process, MODEL, WINDOW)
            trainer.born = self._doom_learner
            doors = replace(doors, learners=lambda of: self._learner(process, store, of), trainer=trainer)
        policy = RetrainPolicy(clicks=10)
        orders = Orders(layout, TOPIC, rhythm=self.rhythm, window=WINDOW, drain_seconds=600.0, retrain=policy)
        return Service(doors, orders, lambda threads, _: SimulatedExecutor(process, threads))

    def _learner(self, process: Process, store: SimulatedStore, layout: Layout) -> SimulatedLearner:
        config = HostConfig(MODEL, layout, store, WINDOW)
        learner = SimulatedLearner(config, self.story.bucket, process, self.learn_seconds)
        learner.born = self._doom_learner
        return learner

    def _doom_learner(self, child: Process) -> None:
        if self.world.now < STORM and self.random.random() < self.deadly / 2:
            child.doom = int(10 ** self.random.uniform(0.3, 2.5))

    def _main(self, run: Run) -> None:
        """A service process from its start to its end."""
        try:
            store = SimulatedStore(self.story.bucket, run.process)
            lineage.resolve(store, LAYOUT.prefix, LAYOUT.lineage)
            run.service = service = self._service(run.process, store)
            service.open()
            service.run()
            run.ended = "stopped"
            self.story.version = run.version
            self.story.digest = str(service.learner.status(digest=True)["state_sha256"])
        except HeadraceError as error:
            run.ended = f"{type(error).__name__}: {error}"
        except Exception as error:
            run.ended = f"bug: {error!r}"
            self.story.bugs.append(f"{run.process.name} ended with {error!r}")
            if self.world.trace is not None:
                raise
        self.world.kill(run.process)

    def _gone(self, run: Run) -> None:
        """The orchestrator sees that a process has ended. Its learner ends with it, after Ray's grace."""
        run.ended = run.ended or "killed"
        self.world.note(run.process, f"ends: {run.ended}")
        for child in run.process.children:
            self.world.at(self.world.now + self.random.uniform(0, 10), lambda child=child: self.world.kill(child))  # type: ignore[misc]
        if run.ended != "stopped":
            self.world.at(self.world.now + self.random.uniform(0.5, 10), self._restart)

    def _restart(self) -> None:
        """Start a service unless another one runs that is awake."""
        if not any(run.ended is None and run.process.asleep_until <= self.world.now for run in self.story.runs):
            self._start()

    def _trouble(self) -> None:
        """Something goes wrong; and something else later on."""
        if self.world.now >= STORM:
            return
        running = [run for run in self.story.runs if run.ended is None]
        if running:
            run = self.random.choice(running)
            self.random.choice((self._put_to_sleep, self._double, self._lose_learner, self._jump, self._kill))(run)
        self.world.at(self.world.now + self.random.expovariate(1 / 60.0), self._trouble)

    def _put_to_sleep(self, run: Run) -> None:
        """SIGSTOP; the orchestrator may take it for dead, and start another."""
        seconds = self.random.choice((5.0, 40.0, 200.0, 400.0))
        self.world.note(run.process, f"sleeps for {seconds:g} s")
        run.process.sleep_until(self.world.now + seconds)
        if self.random.random() < 0.8:
            self.world.at(self.world.now + self.random.uniform(1, 30), self._restart)

    def _double(self, _run: Run) -> None:
        """A second service is started beside the one that runs."""
        self._start()

    def _lose_learner(self, run: Run) -> None:
        lost = self.random.random() < 0.5
        if run.learner is None:
            return
        if lost:
            run.learner.lose()
        else:
            run.learner.close()

    def _operate(self) -> None:
        """Somebody does something about versions, whatever else is going on."""
        if self.operator is not None:
            self.world.note(None, f"the operator {self.operator.act()}")

    def _jump(self, run: Run) -> None:
        """Its wall clock jumps."""
        run.process.skew += self.random.choice((-3600.0, 3600.0))

    def _kill(self, run: Run) -> None:
        if self.deadly:
            self.world.note(run.process, "is killed")
            self.world.kill(run.process)

    def _retain(self) -> None:
        """Retention drops what is old. Only what a checkpoint or a plan has: losing more is a loss by definition."""
        covered = self.story.bucket.planned
        for partition, end in covered.items():
            self.story.log.held[partition] = max(self.story.log.held[partition], end - self.random.randint(0, 5))

    def _rot(self) -> None:
        """A part of the newest checkpoint is lost, cut short, or has a bit that fell over. Once in a story."""
        bucket = self.story.bucket
        parts = [key for key in bucket.objects if key.startswith(LAYOUT.checkpoints) and not key.endswith(MANIFEST)]
        if not parts:
            return
        newest = max(parts).rpartition("/")[0]
        key = self.random.choice([key for key in parts if key.startswith(newest)])
        data, modified = bucket.objects[key]
        self.story.rotten = key.rpartition("/")[0]
        place = self.random.randrange(len(data))
        how = self.random.choice(("lost", "cut", "flipped"))
        self.world.note(None, f"{key} is {how}")
        bucket.objects[key] = (data[:place] + bytes([data[place] ^ 1]) * (how == "flipped"), modified)
        if how == "flipped":
            bucket.objects[key] = (bucket.objects[key][0] + data[place + 1 :], modified)
        if how == "lost":
            del bucket.objects[key]

    # The calm.

    def _calm(self) -> None:
        self.world.now = max(self.world.now, STORM)  # nothing may have been due just before
        self.world.note(None, "the storm is over")
        self.story.bucket.weather = Weather()
        for run in self.story.runs:
            run.process.doom = None
            for child in run.process.children:
                child.doom = None
        self._restart()

    def _is_done(self) -> bool:
        """One service runs, and all that was published is planned; nobody else has a say any more."""
        running = [run for run in self.story.runs if run.ended is None]
        if len(running) != 1 or self.world.now < max(STORM + 60, running[0].process.asleep_until):
            return False
        if self.operator is not None and not self.operator.settled(running[0].version):
            return False
        ends, log = self.story.bucket.planned, self.story.log
        return all(ends.get(partition, 0) >= log.ends(partition) for partition in log.messages)

    def _stop(self) -> None:
        """Ask the last one to stop, and let it."""
        for run in self.story.runs:
            if run.ended is None and run.service is not None:
                run.service.stop()
        over = self.world.run(lambda: all(run.ended is not None for run in self.story.runs), STORM + 2 * CALM)
        self.story.finished = self.story.finished and over and any(run.ended == "stopped" for run in self.story.runs)
