"""A stand: the real service as a process, on a real topic and bucket, with what was published known, and the proofs.

What each test proves in the end, `Stand.prove`: the service is level and stops in order; `verify` finds no breach; each
message published is in exactly one of trained, rejected and duplicate; the newest checkpoint stands at the newest plan,
and its state equals, byte for byte, a clean fold over all plans from the first on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from kafka import KafkaProducer, TopicPartition

from model.config import LearnerConfig
from stream import checkpoint
from stream.history import Archive
from stream.host import HostConfig, LearnerHost
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff
from stream.ports import ObjectStore
from stream.recovery import replay
from stream.store.s3 import S3Store
from stream.verify.walk import Options, prove
from tests.fakes import MemoryStore
from tests.servers import process
from tests.servers import ray as clusters
from tests.services.installation import HEADRACE, Run

LAYOUT = Layout("headrace", "main")
DIM = 8
WAIT_SECONDS = 120.0
"""For anything that should happen: far beyond what it takes, for the machine may be busy. Ends when it happens."""
SMALL = {
    "HEADRACE_MODEL_DIM": str(DIM),
    "HEADRACE_STREAM_BATCH_ROWS": "100",
    "HEADRACE_STREAM_BATCH_AGE_SECONDS": "0.3",
    "HEADRACE_STREAM_CHECKPOINT_BATCHES": "4",
    "HEADRACE_STREAM_CHECKPOINT_SECONDS": "3",
    "HEADRACE_STREAM_CHECKPOINTS_KEPT": "5",
    "HEADRACE_STREAM_DRAIN_SECONDS": "60",
}
_BAD = (b"not json", b"[]", b'{"user_id": "u1"}', None, b"\xff\xfe")


@dataclass
class Stand(Run):
    """One installation and what it was given. `sent`: messages by the outcome that each must have.

    `window`: ids that dedupe remembers. `kept`: plans and staged objects saved before a test lets them be collected.
    """

    seed: int = 1
    window: int = 100_000
    cluster: clusters.Head | None = None
    sent: Counter[str] = field(default_factory=Counter)
    kept: dict[str, bytes] = field(default_factory=dict)
    _ids: list[str] = field(default_factory=list)
    _plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.store = S3Store(self.s3.settings(self.bucket))

    @property
    def env(self) -> dict[str, str]:
        joined = dict(self.cluster.environment) if self.cluster is not None else {}
        address = {"HEADRACE_RAY_ADDRESS": self.cluster.driver_address} if self.cluster is not None else {}
        window = {"HEADRACE_STREAM_DEDUPE_WINDOW": str(self.window)}
        return {**super().env, **SMALL, **window, **joined, **address, **self.changes}

    def start(self, fault: str = "") -> None:
        """Begin the service; with a `fault`, it or its learner dies there."""
        assert self.running is None
        armed = {"HEADRACE_TEST_FAULT": fault, "HEADRACE_TEST_FAULTS_ALLOWED": "1"} if fault else {}
        self.running = process.start([HEADRACE, "run"], self.folder / "service.log", {**self.env, **armed})

    def ended(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for the service to end by itself; its exit code."""
        assert self.running is not None
        try:
            code = self.running.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on\n{self.log()}") from None
        self.running = None
        return code

    def kill(self) -> None:
        """SIGKILL, at this moment, whatever it does."""
        assert self.running is not None
        self.running.kill()
        self.running.wait()
        self.running = None

    def stop(self) -> None:
        """SIGTERM, and the end in order."""
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)
        code = self.ended()
        assert code == 0, f"exit code {code}\n{self.log()}"

    def family(self) -> list[psutil.Process]:
        """The service's process and all below it, its own Ray and learner included; the service first."""
        assert self.running is not None
        service = psutil.Process(self.running.pid)
        return [service, *service.children(recursive=True)]

    def learner(self) -> psutil.Process | None:
        """The learner's process, if one runs now: of the service's own Ray, or the cluster's youngest.

        Not the copy of it that writes a checkpoint, which is younger, and has its name.
        """
        root = psutil.Process(self.cluster.process.pid) if self.cluster is not None else self.family()[0]
        found: list[tuple[float, psutil.Process]] = []
        for each in root.children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                if _is_actor(each) and not _is_actor(each.parent()):
                    found.append((each.create_time(), each))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def publish(self, count: int, *, odd: float = 0.06, partition: int | None = None) -> None:
        """So many more messages, seeded: clicks, of which a share `odd` is bad or a repetition of a recent event."""
        with KafkaProducer(bootstrap_servers=self.broker.bootstrap, linger_ms=20, acks="all") as producer:
            for _ in range(count):
                outcome, value = self._message(odd)
                self.sent[outcome] += 1
                place = self.draw.randrange(4) if partition is None else partition
                producer.send(self.topic, value, key=b"k", partition=place)
            producer.flush(60)

    def _message(self, odd: float) -> tuple[str, bytes | None]:
        kind = self.draw.random()
        if kind < odd / 2:
            return "rejected", self.draw.choice(_BAD)
        number = self.sent.total()
        again = kind < odd and bool(self._ids)
        name = self.draw.choice(self._ids[-50:]) if again else f"e{number}"
        self._ids += [] if again else [name]
        row = {
            "user_id": f"u{self.draw.randrange(100)}",
            "product_id": f"i{int(self.draw.paretovariate(0.9)) % 300}",
            "timestamp": 1_700_000_000 + number,
            "event_id": name,
        }
        return "duplicates" if again else "trained", json.dumps(row).encode()

    def plans(self) -> list[dict[str, Any]]:
        """All plans in the bucket, in order. They never change: each is read once."""
        for info in self.store.list(LAYOUT.plans):
            if info.key not in self._plans:
                self._plans[info.key] = json.loads(self.store.get(info.key).data)["plan"]
        return [self._plans[key] for key in sorted(self._plans)]

    def outcomes(self) -> Counter[str]:
        """What the plans say became of the messages."""
        found: Counter[str] = Counter()
        for planned in (each for plan in self.plans() for each in plan["ranges"]):
            found["trained"] += planned["staged"]["rows"] if planned["staged"] else 0
            found["rejected"] += sum(end - start for spans in planned["rejected"].values() for start, end in spans)
            found["duplicates"] += sum(end - start for start, end in planned["duplicates"])
            found["absent"] += planned["absent"]
        return +found

    def is_level(self) -> bool:
        """Everything published is planned and learned, and the service says that it is ready."""
        if self.page("/readyz")[0] != 200 or self.outcomes().total() < self.sent.total():
            return False
        return self.metric("headrace_learned_seq") >= int(self.plans()[-1]["seq"])

    def is_ready(self) -> bool:
        return self.page("/readyz")[0] == 200

    def wait_level(self, seconds: float = WAIT_SECONDS) -> None:
        self.wait_for(self.is_level, seconds)

    def wait_until(self, what: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """As `wait_for`, but the service may run or not."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"not within {seconds} s\n{self.log()}"
            time.sleep(0.05)

    def next_offsets(self) -> dict[int, int]:
        """Where the lineage goes on, by partition."""
        return {planned["partition"]: planned["end"] for plan in self.plans() for planned in plan["ranges"]}

    def drop_before(self, offsets: dict[int, int]) -> None:
        """Have the broker drop what lies before these offsets, by partition, as its retention would."""
        with closing(self.broker.admin()) as admin:
            admin.delete_records({TopicPartition(self.topic, p): offset for p, offset in offsets.items()})

    def checkpoints(self) -> list[int]:
        """The seq of each complete checkpoint."""
        return [seq for seq, _ in checkpoint.complete(self.store, LAYOUT)]

    def manifest(self, seq: int) -> dict[str, Any]:
        return dict(json.loads(self.store.get(LAYOUT.manifest(seq)).data))

    def damage(self, key: str, edit: Callable[[bytes], bytes]) -> None:
        """Change an object behind the service's back."""
        self.store.put(key, edit(self.store.get(key).data))

    def forget_checkpoint(self, seq: int) -> None:
        """Delete a checkpoint that a test has damaged: `verify` would rightly call it a breach."""
        for info in list(self.store.list(LAYOUT.checkpoint(seq))):
            self.store.delete(info.key)

    def listing(self, part: str = "") -> set[str]:
        """Keys in the bucket."""
        return {info.key for info in self.store.list(f"{LAYOUT.root}/{part}")}

    def keep(self) -> None:
        """Save plans and staged objects as they are now, so that a fold over them is possible once they are gone."""
        for part in (LAYOUT.plans, LAYOUT.staged):
            self.kept |= {info.key: self.store.get(info.key).data for info in self.store.list(part)}

    def prove(self, expected: Counter[str] | None = None) -> None:
        """Stop the service once it is level, and prove everything. `expected`: outcomes, else those of `sent`."""
        if self.running is not None:
            self.wait_level()
            self.stop()
        verdict = prove(self.store, LAYOUT.prefix, LAYOUT.lineage, Options(self.window))
        assert verdict.breaches == 0, f"{verdict.first_breach}\n{self.log()}"
        assert self.outcomes() == (expected if expected is not None else +self.sent), self.log()
        self.prove_model()

    def prove_model(self) -> None:
        """The newest checkpoint holds, byte for byte, what a clean fold gives, and only empty plans come after it.

        A start that finds nothing to learn leaves its fence, which is owed to no checkpoint.
        """
        config = HostConfig(LearnerConfig(dim=DIM), LAYOUT, self.store, self.window)
        seq, key = list(checkpoint.complete(self.store, LAYOUT))[-1]
        owed = [plan["seq"] for plan in self.plans() if plan["seq"] > seq and plan["cut"] not in {"fence", "gap"}]
        assert not owed, f"checkpoint {seq}, in none are plans {owed}\n{self.log()}"
        restored, folded = LearnerHost(config), LearnerHost(config)
        restored.restore(key)
        patience = Patience(Backoff(), lambda _: True, PrometheusMeter())
        archive = Archive(self._whole(), LAYOUT, patience, PrometheusMeter())
        for planned in replay(archive, Head(-1, "", 0), {}):
            if planned.plan.seq <= seq:
                folded.apply(planned)
        assert restored.state_sha256() == folded.state_sha256(), self.log()

    def _whole(self) -> ObjectStore:
        """The bucket; where plans were collected, together with what was saved of them."""
        if not self.kept:
            return self.store
        self.keep()
        memory = MemoryStore()
        for key, data in self.kept.items():
            memory.put(key, data)
        return memory

    def log(self) -> str:
        """What happened, for whoever has to find out why."""
        path = self.folder / "service.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        plans = [
            (p["seq"], p["epoch"], p["cut"], p["ranges"] and [r["end"] for r in p["ranges"]]) for p in self.plans()
        ]
        said = {"sent": dict(self.sent), "planned": dict(self.outcomes()), "plans": plans[-20:], "pid": os.getpid()}
        return "\n".join([json.dumps(said), *lines[-120:]])


@contextmanager
def meanwhile(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """`act` runs in a thread of its own, until it is told by its event that it is over."""
    over = threading.Event()
    thread = threading.Thread(target=act, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_actor(each: psutil.Process | None) -> bool:
    return each is not None and "_Actor" in "".join(each.cmdline())
