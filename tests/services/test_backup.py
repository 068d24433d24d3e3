"""The disaster drill of docs/operate.md, on a real broker and a real S3 server: copy, lose the bucket, go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream.demo.data import purchases
from tests.services.installation import Run, ledger, s3_client

pytestmark = pytest.mark.services
CLICKS = 12_000


def test_the_bucket_is_lost(run: Run, tmp_path: Path) -> None:
    """Copied while it learns, and once more at the end: part by part the same checkpoint, the same answers. Then the
    bucket goes, with what was learned since; a service that is told the copy's name learns that again, from Kafka, and
    every offset is in it once.
    """
    copy = run.s3.fresh_bucket()
    publish(run, tmp_path, CLICKS)
    run.start()
    run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
    assert backup(run, copy)["checkpoints"]
    run.wait_for(lambda: trained(run) == CLICKS)
    assert run.end(signal.SIGTERM) == 0
    done = backup(run, copy)

    assert done["kept"] > 0
    newest = checkpoints(run)[0]
    answer = recommended(run)
    with in_bucket(run, copy):
        assert checkpoints(run) == [newest]
        assert recommended(run) == answer
        assert run.command("verify").returncode == 0

    publish(run, tmp_path, 3_000)
    run.start()
    run.wait_for(lambda: run.metric("headrace_events_total", outcome="trained") > 1_000)
    run.end(signal.SIGKILL)
    empty(run)

    with in_bucket(run, copy):
        run.start()
        run.wait_for(lambda: sum(sum(each.values()) for each in ledger(run)) == CLICKS + 3_000)
        assert run.end(signal.SIGTERM) == 0
        verdict = run.command("verify", "--json")
        assert verdict.returncode == 0, verdict.stdout
        assert json.loads(verdict.stdout)["trained"] == CLICKS + 3_000


def test_a_live_bucket_is_no_place_for_a_copy(run: Run) -> None:
    """The service's own bucket, a bucket that is not there, no place at all: refused, each with its remedy."""
    run.start()
    run.wait_for(lambda: run.metric("headrace_plan_seq") >= 0 and run.page("/readyz")[0] == 200)

    for to, code, words in (
        (f"s3://{run.bucket}", 4, "is no copy: not touched"),
        ("s3://no-such-bucket-here", 4, "no-such-bucket-here"),
        ("s3://UPPER", 2, "must be empty, s3://BUCKET"),
    ):
        refused = run.command("backup", "--to", to)
        assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
    assert "HEADRACE_BACKUP_TO is not set" in run.command("backup").stderr


def publish(run: Run, folder: Path, count: int) -> None:
    clicks = purchases(folder, count, 1).path
    assert run.command("produce", str(clicks), "--json").returncode == 0


def backup(run: Run, bucket: str) -> dict[str, Any]:
    done = run.command("backup", "--to", f"s3://{bucket}", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def trained(run: Run) -> float:
    return run.metric("headrace_events_total", outcome="trained")


def recommended(run: Run) -> str:
    return run.command("recommend", "1", "--json").stdout


def checkpoints(run: Run) -> list[tuple[int, list[str]]]:
    """(seq, hashes of the parts) of each complete checkpoint in the bucket, the newest first; read with boto3 alone."""
    with s3_client(run) as client:
        rows = client.list_objects_v2(Bucket=run.bucket, Prefix="headrace/lineage/main/checkpoint/")["Contents"]
        keys = sorted((row["Key"] for row in rows if row["Key"].endswith("/MANIFEST.json")), reverse=True)
        found = [json.loads(client.get_object(Bucket=run.bucket, Key=key)["Body"].read()) for key in keys]
    return [(each["seq"], [part["sha256"] for part in each["parts"]]) for each in found]


def empty(run: Run) -> None:
    """Somebody deletes everything in the bucket."""
    with s3_client(run) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=run.bucket)
        for key in [row["Key"] for page in pages for row in page.get("Contents", [])]:
            client.delete_object(Bucket=run.bucket, Key=key)


@contextmanager
def in_bucket(run: Run, bucket: str) -> Iterator[None]:
    """The installation as if it had been told that bucket's name."""
    own, run.bucket = run.bucket, bucket
    try:
        yield
    finally:
        run.bucket = own
