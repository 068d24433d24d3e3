"""Retrain, promotion, kill and rollback on a real Kafka, S3 server and Ray: each click is trained once."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from stream.demo.data import purchases
from stream.retrain.actor import NICENESS
from tests.servers import process
from tests.services.installation import Run, ledger, s3_client

pytestmark = pytest.mark.services

CHANGES = {
    "HEADRACE_MODEL_EPOCHS": "2",
    "HEADRACE_RETRAIN_PROOF_CLICKS": "50",
    "HEADRACE_RETRAIN_PROOF_SECONDS": "60",
    "HEADRACE_RETRAIN_MARGIN": "0.5",
    "HEADRACE_ADMIN_PORT": "0",
    "HEADRACE_ADMIN_TOKEN": "a token of this test",
}
OLD = 1_300_000_000
"""In 2011; the purchases are of 2017."""


def serving(run: Run) -> int:
    """Which version serves, as /readyz says."""
    _, page = run.page("/readyz")
    return int(json.loads(page).get("version", 0)) if page else 0


def told(run: Run, *argv: str) -> Any:
    """What a command answers in JSON."""
    done = run.command(*argv, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def admin(run: Run, method: str, key: str = "", order: object = None) -> tuple[int, dict[str, Any]]:
    """What the admin door answers about retrains: status and body."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{run.changes['HEADRACE_ADMIN_PORT']}/v1/retrain",
        method=method,
        data=json.dumps(order or {}).encode() if method == "POST" else None,
        headers={"authorization": f"Bearer {run.changes['HEADRACE_ADMIN_TOKEN']}", "idempotency-key": key or "none"},
    )
    try:
        with urllib.request.urlopen(request, timeout=40) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def clicks(folder: Path, seed: int) -> Path:
    """Four thousand real purchases."""
    folder.mkdir()
    return purchases(folder, 4_000, seed).path


def test_a_new_version_is_trained_promoted_killed_and_rolled_back(run: Run, tmp_path: Path) -> None:
    """All of it while clicks come in; `headrace verify` holds after each step, and each offset is trained once."""
    run.changes = CHANGES | {"HEADRACE_ADMIN_PORT": str(process.free_ports(1)[0])}
    first, second, third = (clicks(tmp_path / str(part), part) for part in (1, 2, 3))
    told(run, "produce", str(first))
    run.start()
    run.wait_for(lambda: run.metric("headrace_events_total", outcome="trained") >= 4_000)

    assert admin(run, "GET")[1]["running"] is False
    assert [admin(run, "POST", "nightly", {"reason": "a test"})[0] for _ in range(2)] == [202, 202]  # the same one
    assert admin(run, "POST", "another")[0] == 409  # one at a time
    assert run.command("retrain").returncode == 2
    run.wait_for(lambda: (admin(run, "GET")[1]["progress"] or {}).get("ratio", 0) > 0)
    told(run, "produce", str(second))
    run.wait_for(lambda: not admin(run, "GET")[1]["running"], 240)
    version = admin(run, "GET")[1]
    assert (version["version"], version["result"]["outcome"]) == (2, "promoted")
    assert version["request"]["reason"] == "a test"
    run.wait_for(lambda: serving(run) == 2)
    assert run.page("/v1/recommend?user=1")[0] == 200
    run.wait_for(lambda: run.metric("headrace_learned_seq") == run.metric("headrace_plan_seq"))
    assert told(run, "verify")["breaches"] == 0

    run.end(signal.SIGKILL)
    told(run, "produce", str(third))
    run.start()
    run.wait_for(lambda: serving(run) == 2)
    assert run.command("models", "rollback", "--reason", "a test").returncode == 0
    run.wait_for(lambda: serving(run) == 1)
    run.wait_for(lambda: sum(ledger(run)[0].values()) == 12_000)
    assert run.end(signal.SIGTERM) == 0

    verdict = told(run, "verify")
    assert (verdict["breaches"], verdict["trained"], verdict["version"]) == (0, 12_000, 1)
    listed = {row["version"]: row["state"] for row in told(run, "models", "list")["versions"]}
    assert listed == {2: "rolled back", 1: "serves"}


def test_a_killed_training_begins_again(run: Run, tmp_path: Path) -> None:
    """The whole service is killed while it trains: the next process takes the request up, and ends it. Clicks from
    before the stream began, in the batch contract's object, are learned first.
    """
    older = [{"user_id": f"u{k % 9}", "product_id": f"i{k % 50}", "timestamp": OLD + k} for k in range(500)]
    with s3_client(run) as client:
        body = "\n".join(map(json.dumps, older)).encode()
        client.put_object(Bucket=run.bucket, Key="data/clickstream.json", Body=body)
    run.changes = CHANGES | {"HEADRACE_MODEL_EPOCHS": "40", "HEADRACE_RETRAIN_PROOF_SECONDS": "1"}
    told(run, "produce", str(purchases(tmp_path, 4_000, 1).path))
    run.start()
    run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
    assert run.command("retrain", "--epochs", "2").returncode == 0
    run.wait_for(lambda: run.metric("headrace_retrain_progress_ratio") > 0)
    assert run.running is not None
    family = psutil.Process(run.running.pid).children(recursive=True)
    actors = [each for each in family if each.name() == "ray::_Actor"]
    assert sorted(each.nice() for each in actors) == [0, NICENESS]  # the live learner comes first
    run.end(signal.SIGKILL)

    run.start()
    run.wait_for(lambda: told(run, "models", "list")["versions"][0]["state"] not in {"training", "asked for"})

    shown = told(run, "models", "show", "2")
    assert shown["attempts"] == 2
    assert shown["result"]["outcome"] == "kept"  # no new click came in to compare on
    assert "HEADRACE_RETRAIN_PROOF_CLICKS" in shown["result"]["why"]
    assert shown["trained"]["clicks"] > 500
    assert "500 older clicks of data/clickstream.json were learned first" in shown["trained"]["notes"]
    assert run.end(signal.SIGTERM) == 0
    assert told(run, "verify")["breaches"] == 0
