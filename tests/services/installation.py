"""One installation of the service for a test: topic, bucket, environment, process; and what lies in its bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.s3 import S3Server

HEADRACE = str(Path(sys.executable).with_name("headrace"))


@dataclass
class Run:
    """One installation: topic, bucket, environment (with `changes`) and log, and the service's process if it runs."""

    topic: str
    bucket: str
    broker: KafkaBroker
    s3: S3Server
    folder: Path
    port: int
    changes: dict[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What the command is told, by names of both vocabularies."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))},
            "HEADRACE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "HEADRACE_KAFKA_TOPIC": self.topic,
            "MINIO_ENDPOINT": self.s3.endpoint,
            "MINIO_ACCESS_KEY": self.s3.access_key,
            "MINIO_SECRET_KEY": self.s3.secret_key,
            "CLICKSTREAM_S3_BUCKET": self.bucket,
            "HEADRACE_HTTP_PORT": str(self.port),
            "HEADRACE_STREAM_BATCH_ROWS": "500",
            "HEADRACE_STREAM_CHECKPOINT_BATCHES": "8",
            "HEADRACE_MODEL_DIM": "16",
            "HEADRACE_LOG_FORMAT": "json",
            **self.changes,
        }

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run `headrace ...` to its end."""
        return subprocess.run(
            [HEADRACE, *argv], env=self.env, capture_output=True, text=True, timeout=240, check=False, cwd=self.folder
        )

    def start(self) -> None:
        """Begin the service."""
        self.running = process.start([HEADRACE, "run"], self.folder / "service.log", self.env)

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end, answer the exit code."""
        assert self.running is not None
        self.running.send_signal(number)
        code = self.running.wait(60)
        self.running = None
        return code

    def wait_for(self, what: Callable[[], bool], seconds: float = 90) -> None:
        """Ask until it is so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.running is not None
            assert self.running.poll() is None, self.log()
            if what():
                return
            time.sleep(0.1)
        pytest.fail(f"not within {seconds} s\n{self.log()}")

    def page(self, path: str) -> tuple[int, str]:
        """Status and body; (0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value, 0 if it is not there."""
        for family in text_string_to_metric_families(self.page("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def log(self) -> str:
        """The end of the service's log."""
        figures = "\n".join(line for line in self.page("/metrics")[1].splitlines() if line.startswith("headrace_"))
        return (
            f"{[sum(each.values()) for each in ledger(self)]}\n{figures[-6000:]}\n"
            + ((self.folder / "service.log").read_text()[-5000:])
        )


def ledger(run: Run) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Trained, rejected and duplicate offsets by partition, read from the bucket with boto3 and json alone."""
    found: tuple[dict[int, int], ...] = ({}, {}, {})
    for plan in stored_plans(run):
        for each in plan["ranges"]:
            counts = (
                each["staged"]["rows"] if each["staged"] else 0,
                sum(end - start for runs in each["rejected"].values() for start, end in runs),
                sum(end - start for start, end in each["duplicates"]),
            )
            for sums, count in zip(found, counts, strict=True):
                sums[each["partition"]] = sums.get(each["partition"], 0) + count
    return found  # type: ignore[return-value]


@contextmanager
def s3_client(run: Run) -> Iterator[Any]:
    """A plain client of the test's own, closed afterwards."""
    client = boto3.client(
        "s3",
        endpoint_url=run.s3.endpoint,
        aws_access_key_id=run.s3.access_key,
        aws_secret_access_key=run.s3.secret_key,
        region_name="us-east-1",
    )
    try:
        yield client
    finally:
        client.close()


def stored_plans(run: Run) -> list[dict[str, Any]]:
    """All plans in the bucket, in order."""
    with s3_client(run) as client:
        listed = client.get_paginator("list_objects_v2").paginate(
            Bucket=run.bucket, Prefix="headrace/lineage/main/plan/"
        )
        keys = [row["Key"] for page in listed for row in page.get("Contents", [])]
        return [json.loads(client.get_object(Bucket=run.bucket, Key=key)["Body"].read())["plan"] for key in keys]
