"""Some of the fault tests, for every change: quick ones, each of another kind. `make test-faults` runs them all."""

from __future__ import annotations

import pytest

from tests.faults.proxy import Proxy
from tests.faults.stand import LAYOUT, Stand
from tests.forge import flipped

pytestmark = pytest.mark.services


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


def test_lost_staging_and_torn_checkpoints(stand: Stand) -> None:
    """The newest checkpoint is damaged, clicks to be replayed are gone or altered: an older one and Kafka do."""
    stand.publish(600)
    stand.start("checkpoint:3")
    stand.ended()
    newest = sorted(key for key in stand.listing("checkpoint/") if ".safetensors" in key)
    stand.store.put(newest[-1], flipped(stand.store.get(newest[-1]).data)) if newest else None
    staged = [planned["staged"]["key"] for plan in stand.plans() for planned in plan["ranges"] if planned["staged"]]
    stand.store.delete(staged[-1])
    stand.store.put(staged[-2], flipped(stand.store.get(staged[-2]).data))
    stand.start()
    stand.wait_for(stand.is_level)

    assert stand.metric("headrace_staged_refetched_total") == 2
    assert stand.metric("headrace_checkpoint_invalid_total") == bool(newest)
    for key in [key for key in stand.listing("checkpoint/") if key.startswith(newest[-1].rpartition("/")[0])]:
        stand.store.delete(key)  # the damaged one, which verify would rightly call a breach
    stand.publish(100)
    stand.prove()
    assert LAYOUT.lineage == "main"
