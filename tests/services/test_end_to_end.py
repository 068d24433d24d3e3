"""The service as an engineer would run it: a real broker, a real S3 server, killed twice, stopped once."""

from __future__ import annotations

import json
import random
import signal

import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from model import snapshot
from model.config import LearnerConfig
from stream import checkpoint, plans
from stream.history import Archive
from stream.host import HostConfig, LearnerHost
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff
from stream.recovery import replay
from stream.store.s3 import S3Store
from tests.services.installation import Run, ledger

pytestmark = pytest.mark.services

EVENTS = 30_000
BAD = [b"not json", b"[]", b'{"user_id": "u1"}', b'{"user_id": "", "product_id": "p"}', None, b"\xff\xfe"]
REPEATED = {"user_id": "u1", "product_id": "p1", "timestamp": 1_600_000_000, "event_id": "only-once"}


def test_killed_twice_and_stopped(run: Run) -> None:
    """Produced, learned, killed twice, stopped in order: every offset once, and the model of an unbroken run."""
    published = publish(run)
    for target in (4_000, 9_000):
        run_until_killed(run, target, published)
    run.start()
    run.wait_for(lambda: at_end(run, published))
    check_pages(run)
    assert run.end(signal.SIGTERM) == 0

    check_ledger(run, published)
    check_dead_letters(run)
    check_model(run)
    check_commands(run)


def run_until_killed(run: Run, target: int, published: int) -> None:
    """Run until more than `target` clicks are trained in all, or everything published is learned; then kill."""
    run.start()
    before = trained(run)
    run.wait_for(
        lambda: run.metric("headrace_events_total", outcome="trained") > target - before or at_end(run, published)
    )
    run.end(signal.SIGKILL)


def publish(run: Run) -> int:
    """A file of clicks by `headrace produce`, then bad messages and a repeated event; how many messages in all."""
    draw = random.Random(5)
    path = run.folder / "clicks.jsonl"
    with path.open("w") as file:
        for place in range(EVENTS):
            item = int(draw.paretovariate(0.8)) % 2000
            row = {"user_id": draw.randrange(500), "product_id": f"p{item}", "timestamp": 1_600_000_000 + place}
            file.write(json.dumps(row) + "\n")
    done = run.command("produce", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == EVENTS
    producer = KafkaProducer(bootstrap_servers=run.broker.bootstrap)
    for value in [*BAD, json.dumps(REPEATED).encode(), json.dumps(REPEATED).encode()]:
        producer.send(run.topic, value, key=b"u1", headers=[("origin", b"test")])
    producer.flush()
    producer.close()
    return EVENTS + len(BAD) + 2


def trained(run: Run) -> int:
    """Clicks that the plans in the bucket commit to."""
    return sum(ledger(run)[0].values())


def at_end(run: Run, published: int) -> bool:
    """Everything published is learned: the service's own figures say so."""
    _, ready = run.page("/readyz")
    return (
        bool(ready)
        and run.metric("headrace_learned_seq") >= run.metric("headrace_plan_seq") > 0
        and (committed(run) == published)
    )


def committed(run: Run) -> int:
    """Offsets that plans account for, read with boto3."""
    return sum(sum(each.values()) for each in ledger(run))


def check_pages(run: Run) -> None:
    """Liveness, readiness, figures and a recommendation over HTTP."""
    assert run.page("/healthz")[0] == 200
    status, ready = run.page("/readyz")
    assert (status, json.loads(ready)["ready"]) == (200, True)
    assert run.metric("headrace_rejects_total", reason="not_json") <= 1
    assert run.metric("headrace_table_rows", table="users") > 400
    assert run.metric("headrace_epoch") > 1
    status, body = run.page("/v1/recommend?user=17&n=5")
    assert status == 200
    assert len(json.loads(body)["items"]) == 5


def check_ledger(run: Run, published: int) -> None:
    """The plans account for every offset of the topic once, and Kafka itself has as many."""
    consumer = KafkaConsumer(bootstrap_servers=run.broker.bootstrap)
    ends = consumer.end_offsets([TopicPartition(run.topic, partition) for partition in range(4)])
    consumer.close()
    outcomes = ledger(run)
    by_partition = {place: sum(each.get(place, 0) for each in outcomes) for place in range(4)}
    assert by_partition == {partition.partition: end for partition, end in ends.items()}
    assert [sum(each.values()) for each in outcomes] == [EVENTS + 1, len(BAD), 1]
    assert sum(ends.values()) == published


def check_dead_letters(run: Run) -> None:
    """Each reject is in the dead-letter topic with its bytes, its own headers and ours; repeats are allowed."""
    consumer = KafkaConsumer(
        f"{run.topic}.dlq",
        bootstrap_servers=run.broker.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )
    letters = list(consumer)
    consumer.close()
    assert {letter.value for letter in letters} == set(BAD)
    assert all(("origin", b"test") in letter.headers for letter in letters)


def check_model(run: Run) -> None:
    """The newest checkpoint holds, byte for byte, what a fold over all plans gives."""
    store = run.s3.settings(run.bucket)
    opened = S3Store(store)
    layout = Layout("headrace", "main")
    config = HostConfig(LearnerConfig(dim=16), layout, opened, 100_000)
    seq, key = list(checkpoint.complete(opened, layout))[-1]
    restored, folded = LearnerHost(config), LearnerHost(config)
    restored.restore(key)
    patience = Patience(Backoff(), lambda _: True, PrometheusMeter())
    for planned in replay(Archive(opened, layout, patience, PrometheusMeter()), Head(-1, "", 0), {}):
        folded.apply(planned)
    newest = max(plans.decode(opened.get(info.key).data, info.key).seq for info in opened.list(layout.plans))
    assert seq == newest
    assert different(restored, folded) == []
    assert restored.state_sha256() == folded.state_sha256()


def different(one: LearnerHost, other: LearnerHost) -> list[str]:
    """The arrays in which two models differ, for whoever has to find out why."""
    first, second = snapshot.dump(one._learner).parts, snapshot.dump(other._learner).parts
    return [
        f"{part}/{name}"
        for part, arrays in first.items()
        for name, array in arrays.items()
        if not np.array_equal(array, second[part][name], equal_nan=True)
    ]


def check_commands(run: Run) -> None:
    """`verify`, `checkpoints` and `recommend` read the same bucket."""
    verdict = run.command("verify", "--json")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert json.loads(verdict.stdout)["trained"] == EVENTS + 1
    rows = json.loads(run.command("checkpoints", "--json").stdout)
    assert rows[0]["seq"] == json.loads(verdict.stdout)["last_seq"]
    answer = json.loads(run.command("recommend", "17", "--top-n", "5", "--json").stdout)
    assert len(answer["items"]) == 5
