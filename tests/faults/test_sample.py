"""Some of the fault tests, quick ones, each of another kind: `make test-faults TEST_ARGS="-k sample"`."""

from __future__ import annotations

import json
import signal

import pytest

from tests.faults.proxy import Proxy
from tests.faults.stand import Stand
from tests.forge import flipped

pytestmark = [pytest.mark.services, pytest.mark.faults]


def test_five_kills(stand: Stand) -> None:
    """Killed five times at moments drawn by a seed, in one stream: the model of an unbroken run, each message once."""
    stand.publish(600)
    for _ in range(5):
        stand.start()
        reached = len(stand.plans()) + stand.draw.randrange(4)
        stand.wait_for(lambda reached=reached: len(stand.plans()) > reached or stand.is_level())  # type: ignore[misc]
        stand.kill()
        stand.publish(150)
    stand.start()
    stand.prove()


def test_reply_to_a_plan_is_lost(stand: Stand, store_proxy: Proxy) -> None:
    """The store has the plan and its reply is lost: one's own 412 is recognised, nothing happens twice."""
    left = iter(range(3))
    store_proxy.loses = lambda data: (
        data.startswith(b"PUT ") and b"/plan/" in data[:200] and next(left, None) is not None
    )
    stand.changes = {"MINIO_ENDPOINT": store_proxy.endpoint}
    stand.publish(500)
    stand.start()
    stand.prove()

    assert store_proxy.lost == 3
    assert {plan["epoch"] for plan in stand.plans()} == {1}


def test_torn_checkpoint_and_lost_staging(stand: Stand) -> None:
    """The newest checkpoint is damaged, clicks to be replayed are gone or altered: an older one and Kafka do."""
    stand.publish(600)
    stand.start()
    stand.wait_level()
    stand.stop()
    stand.publish(300)
    stand.changes = {"HEADRACE_STREAM_CHECKPOINT_BATCHES": "1000", "HEADRACE_STREAM_CHECKPOINT_SECONDS": "1000"}
    stand.start("submit:3")
    assert stand.ended() == -signal.SIGKILL
    torn = stand.checkpoints()[-1]
    stand.damage(stand.manifest(torn)["parts"][0]["key"], flipped)
    staged = [planned["staged"]["key"] for plan in stand.plans() for planned in plan["ranges"] if planned["staged"]]
    stand.store.delete(staged[-1])
    stand.damage(staged[-2], flipped)
    stand.changes = {}
    stand.start()
    stand.wait_level()

    assert stand.metric("headrace_staged_refetched_total") == 2
    assert stand.metric("headrace_checkpoint_invalid_total") == 1
    stand.forget_checkpoint(torn)
    stand.publish(50)
    stand.prove()


def test_retention_passed(stand: Stand) -> None:
    """What comes next is no longer held: refused with both offsets named; told to go on, the gap is on record."""
    stand.publish(300)
    stand.start()
    stand.wait_level()
    stand.stop()
    at = stand.next_offsets()[0]
    stand.publish(200)
    stand.drop_before({0: at + 20})
    refused = stand.command("run")
    stand.changes = {"HEADRACE_STREAM_RESUME_FROM": "earliest"}
    stand.start()
    stand.wait_level()
    stand.stop()
    verdict = json.loads(stand.command("verify", "--json").stdout)

    assert refused.returncode == 5, refused.stderr
    for words in (f"offset {at} is wanted", f"{at + 20} to ", "--resume-from earliest"):
        assert words in refused.stderr
    assert (verdict["breaches"], verdict["lost"]) == (0, 20)
    assert stand.outcomes()["absent"] == 20
    assert stand.outcomes().total() == stand.sent.total()
    assert [plan["cut"] for plan in stand.plans()].count("gap") == 1
    stand.prove_model()
