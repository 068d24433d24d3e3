"""docs/migrate.md, line by line: every command of the page, in its order, on a real broker and a real S3 server."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.dockerfile import ROOT
from tests.image.test_migrate import COMMANDS
from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.s3 import S3Server
from tests.services.installation import Run, s3_client
from tests.stream.batch_rig import ALL, MODEL, NEW, clicks, text

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]  # a dozen commands, each of which starts Python anew
CLICKS = 4_000
FUNCTION = re.compile(r"\w+\(\) \{")
"""A word that the page defines for the lines after it."""


@pytest.fixture
def run(kafka_broker: KafkaBroker, s3_server: S3Server, tmp_path: Path) -> Iterator[Run]:
    """An installation as the page's reader has it: a bucket with clicks, a broker without the topic."""
    (port,) = process.free_ports(1)
    each = Run(f"migrated-{port}", s3_server.fresh_bucket(), kafka_broker, s3_server, tmp_path, port)
    each.changes = {"HEADRACE_MODEL_EPOCHS": "2", "HEADRACE_STREAM_CHECKPOINT_BATCHES": "2"}
    with s3_client(each) as client:
        client.put_object(Bucket=each.bucket, Key=ALL, Body=text(clicks(range(100), CLICKS)))
    yield each
    if each.running is not None:
        each.end(signal.SIGKILL)


def shell(run: Run) -> Callable[[str], list[str]]:
    """The reader's shell, in a folder with `job.env` and with a `docker` of ours: what runs a line of the page."""
    own = ("HEADRACE_", "MINIO_", "CLICKSTREAM_")
    told = {name: value for name, value in run.env.items() if name.startswith(own) and "_KAFKA_" not in name}
    place, programs = run.folder / "here", run.folder / "bin"
    for folder in (place, programs):
        folder.mkdir()
    (place / "job.env").write_text("".join(f"{name}={value}\n" for name, value in told.items()))
    docker = programs / "docker"
    docker.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.image.docker_run "$@"\n')
    docker.chmod(0o755)
    begin = [f"cd {place}", f"PATH={programs}:$PATH", *(line for line in COMMANDS if FUNCTION.match(line))]

    def argv(line: str) -> list[str]:
        line = line.replace("kafka:9092", run.broker.bootstrap).replace("TOPIC=clickstream", f"TOPIC={run.topic}")
        return ["/bin/sh", "-c", "\n".join([*begin, line])]

    return argv


def test_the_page_can_be_followed(run: Run) -> None:
    """From the old job's run to live recommendations: what each step promises is there afterwards."""
    lines = [line for line in COMMANDS if not (FUNCTION.match(line) or line.startswith(("{", "docker compose")))]
    reader = shell(run)
    said: dict[str, str] = {}
    for line in lines:
        if line == "headrace run" or line.endswith("> .env"):
            continue  # the container that stays is started in its place; compose has tests of its own
        if "--detach" in line:
            run.running = process.start(reader(f"exec {line}"), run.folder / "service.log")
            run.wait_for(lambda: run.metric("headrace_learned_events_total") >= CLICKS)
            run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
        elif line.startswith("curl"):
            url = re.sub(r":8080", f":{run.port}", shlex.split(line)[1])
            with urllib.request.urlopen(url, timeout=10) as reply:
                said[line] = reply.read().decode()
        else:
            done = subprocess.run(reader(line), capture_output=True, text=True, timeout=200, check=False)
            missing_topic = (
                line == "headrace doctor" and done.stdout.count("FAIL") == 1 and "FAIL  topic" in done.stdout
            )
            assert done.returncode == 0 or missing_topic, (line, done.stdout, done.stderr)
            said[line] = done.stdout

    assert "full" in next(text for line, text in said.items() if "train_prio" in line).lower()
    assert "published 4,000 messages" in next(
        text for line, text in said.items() if line.startswith("headrace produce")
    )
    assert "every offset is in exactly one" in said["headrace verify"]
    assert len(json.loads(next(text for line, text in said.items() if line.startswith("curl")))["items"]) == 10
    assert "main" in said["headrace checkpoints"]


def test_job_and_stream_leave_each_other_alone(run: Run) -> None:
    """While the service runs, the job trains incrementally; afterwards both have all that they had."""
    assert run.command("train").returncode == 0
    assert run.command("produce", "none.jsonl").returncode == 2
    (run.folder / "clicks.jsonl").write_bytes(text(clicks(range(100), CLICKS)))
    assert run.command("produce", "clicks.jsonl").returncode == 0
    run.start()
    run.wait_for(lambda: run.metric("headrace_learned_events_total") >= CLICKS)
    with s3_client(run) as client:
        client.put_object(Bucket=run.bucket, Key=NEW, Body=text(clicks(range(90, 120), 200, start=1_700_000_000)))
    run.changes["INCREMENTAL_MODE"] = "true"
    step = run.command("train")
    with s3_client(run) as client:
        keys = {row["Key"] for row in client.list_objects_v2(Bucket=run.bucket)["Contents"]}
    assert run.end(signal.SIGTERM) == 0
    verdict = run.command("verify")

    assert step.returncode == 0, step.stderr
    assert MODEL in keys
    assert any(key.startswith("headrace/lineage/main/plan/") for key in keys)
    assert {key.split("/")[0] for key in keys} == {"data", "models", "headrace"}
    assert verdict.returncode == 0, verdict.stdout
