"""Every way to end has its exit code and a message that names the input and what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from kafka import TopicPartition

from tests.servers.careless_s3 import careless_s3
from tests.services.installation import HEADRACE, Run

pytestmark = pytest.mark.services

WRONG = [
    ({"HEADRACE_STREAM_BATCH_ROWS": "many"}, 2, ["HEADRACE_STREAM_BATCH_ROWS", "many"]),
    ({"HEADRACE_STREAM_BATCH_ROW": "10"}, 2, ["HEADRACE_STREAM_BATCH_ROW", "HEADRACE_STREAM_BATCH_ROWS"]),
    ({"CLICKSTREAM_S3_BUCKET": "no-such-bucket"}, 4, ["no-such-bucket", "CLICKSTREAM_S3_BUCKET"]),
    ({"MINIO_SECRET_KEY": "a-wrong-secret"}, 4, ["MINIO_SECRET_KEY"]),
    ({"HEADRACE_KAFKA_TOPIC": "no-such-topic"}, 5, ["no-such-topic"]),
    ({"HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, 5, ["127.0.0.1:1", "HEADRACE_KAFKA_BOOTSTRAP"]),
]


@pytest.mark.parametrize(("changes", "code", "named"), WRONG, ids=[next(iter(each[0].items()))[1] for each in WRONG])
def test_refusals(run: Run, changes: dict[str, str], code: int, named: list[str]) -> None:
    """A wrong setting, bucket, key, topic or broker: its own exit code, everything named, no secret told."""
    run.changes = changes
    done = run.command("run")

    assert done.returncode == code, done.stderr
    for name in named:
        assert name in done.stderr
    assert "a-wrong-secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_careless_store(run: Run) -> None:
    """A store that ignores conditional writes is refused before anything is read."""
    with careless_s3() as server:
        run.changes = {"MINIO_ENDPOINT": server.endpoint}
        done = run.command("run")

    assert done.returncode == 4, done.stderr
    assert "If-None-Match" in done.stderr or "create-once" in done.stderr


def test_second_service_takes_over(run: Run) -> None:
    """Of two services on one lineage the later goes on; the earlier stops with the code for having been replaced."""
    run.broker.produce(run.topic, _clicks(0, 200))
    run.start()
    run.wait_for(lambda: run.metric("headrace_learned_events_total") >= 200)
    other = Run(run.topic, run.bucket, run.broker, run.s3, run.folder / "other", 0, {"HEADRACE_HTTP_PORT": "0"})
    other.folder.mkdir()
    other.start()
    while "taken over" not in (other.folder / "service.log").read_text():
        assert other.running is not None
        assert other.running.poll() is None, other.log()
        time.sleep(0.1)
    run.broker.produce(run.topic, _clicks(200, 400))

    assert run.running is not None
    assert run.running.wait(60) == 3, run.log()
    assert "replaced" in run.log()
    run.running = None
    assert other.end(signal.SIGTERM) == 0, other.log()


def test_retention_passed(run: Run) -> None:
    """Offsets that Kafka no longer has are named, with what is still there; nothing is skipped silently."""
    run.broker.produce(run.topic, _clicks(0, 200), partition=0)
    run.start()
    run.wait_for(lambda: run.metric("headrace_learned_events_total") >= 200)
    assert run.end(signal.SIGTERM) == 0
    run.broker.produce(run.topic, _clicks(200, 400), partition=0)
    admin = run.broker.admin()
    admin.delete_records({TopicPartition(run.topic, 0): 300})
    admin.close()
    done = run.command("run")

    assert done.returncode == 5, done.stderr
    for named in (run.topic, "200", "300"):
        assert named in done.stderr


def test_second_signal_ends_at_once(run: Run) -> None:
    """A second SIGTERM while draining ends the process within a second or two, with its own code."""
    run.broker.produce(run.topic, _clicks(0, 200))
    run.changes = {"HEADRACE_STREAM_DRAIN_SECONDS": "60"}
    run.start()
    run.wait_for(lambda: run.metric("headrace_learned_events_total") >= 200)
    assert run.running is not None
    os.kill(run.s3.pid, signal.SIGSTOP)
    try:
        run.running.send_signal(signal.SIGTERM)
        time.sleep(1)
        code = run.end(signal.SIGTERM)
    finally:
        os.kill(run.s3.pid, signal.SIGCONT)

    assert code == 130


def test_help_lists_codes() -> None:
    """`headrace run --help` tells what each exit code means."""
    text = subprocess.run([HEADRACE, "run", "--help"], capture_output=True, text=True, check=True).stdout

    for code in (0, 2, 3, 4, 5, 6, 7, 130):
        assert f"{code}: " in text


def _clicks(start: int, end: int) -> list[bytes]:
    return [
        f'{{"user_id": {place % 7}, "product_id": "p{place % 31}", "timestamp": {1_600_000_000 + place}}}'.encode()
        for place in range(start, end)
    ]
