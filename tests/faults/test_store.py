"""The store slow, deaf, gone or damaged: nothing is lost, memory stays bounded, and the stream goes on by itself."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.proxy import Proxy
from tests.faults.stand import Stand
from tests.forge import flipped

pytestmark = [pytest.mark.services, pytest.mark.faults]
AWAY_SECONDS = 30.0
HIGH, FETCH = 200_000, 1 << 20
"""The buffer's high mark, and what one poll may bring beyond it."""
QUICK = {"HEADRACE_STORE_CONNECT_SECONDS": "1", "HEADRACE_STORE_READ_SECONDS": "3"}


@pytest.mark.timeout(600)
def test_store_gone_for_half_a_minute(stand: Stand, store_proxy: Proxy) -> None:
    """The store is gone for 30 s under load: live, not ready, buffer bounded, paused; then level, without a hand."""
    stand.changes = {
        **QUICK,
        "MINIO_ENDPOINT": store_proxy.endpoint,
        "HEADRACE_STREAM_BUFFER_HIGH_BYTES": str(HIGH),
        "HEADRACE_STREAM_BATCH_BYTES": str(HIGH // 2),
    }
    stand.publish(300)
    stand.start()
    stand.wait_level()
    store_proxy.leave()
    gone = time.monotonic()
    stand.publish(5000)
    seen: set[tuple[int, int]] = set()
    buffered = paused = 0.0
    while time.monotonic() - gone < AWAY_SECONDS or (200, 503) not in seen:
        assert time.monotonic() - gone < 4 * AWAY_SECONDS, f"{seen}\n{stand.log()}"
        seen.add((stand.page("/healthz")[0], stand.page("/readyz")[0]))
        buffered = max(buffered, stand.metric("headrace_buffered_bytes"))
        paused = max(paused, stand.metric("headrace_paused"))
        time.sleep(0.2)
    store_proxy.come_back()

    assert {live for live, _ in seen} == {200}
    assert 0 < buffered < HIGH + FETCH
    assert paused == 1
    stand.prove()
    assert {plan["epoch"] for plan in stand.plans()} == {1}


@pytest.mark.timeout(600)
def test_store_slow_and_unsteady(stand: Stand, store_proxy: Proxy) -> None:
    """Two seconds to every reply, then connections reset, half closed, replies swallowed: slower, and nothing else."""
    stand.changes = {**QUICK, "MINIO_ENDPOINT": store_proxy.endpoint}
    stand.start()
    stand.wait_for(stand.is_ready)
    store_proxy.reply_seconds = 2.0
    stand.publish(250)
    stand.wait_level()
    store_proxy.reply_seconds = 0.0
    store_proxy.reset_share = 0.1
    stand.publish(600)
    stand.wait_level()
    store_proxy.reset_share = 0.0
    left = iter(range(2))
    store_proxy.how = "silent"
    store_proxy.loses = lambda data: data.startswith(b"PUT ") and next(left, None) is not None
    stand.publish(300)
    stand.wait_for(lambda: store_proxy.lost >= 2)
    store_proxy.loses = lambda _: False
    store_proxy.half_close()
    stand.publish(300)
    stand.prove()

    assert store_proxy.resets > 0
    assert {plan["epoch"] for plan in stand.plans()} == {1}


@pytest.mark.timeout(600)
def test_store_away_at_the_start(stand: Stand, store_proxy: Proxy) -> None:
    """No store yet: the service waits, live and not ready, and can be stopped; it starts when the store is up."""
    stand.changes = {**QUICK, "MINIO_ENDPOINT": store_proxy.endpoint}
    stand.publish(200)
    store_proxy.leave()
    stand.start()
    stand.wait_for(lambda: "trying again" in stand.log())
    assert (stand.page("/healthz")[0], stand.page("/readyz")[0]) == (200, 503)
    assert stand.end(signal.SIGTERM) == 7
    stand.start()
    stand.wait_for(lambda: stand.page("/healthz")[0] == 200)
    store_proxy.come_back()
    stand.prove()


@pytest.mark.timeout(600)
def test_four_torn_checkpoints(stand: Stand) -> None:
    """A part missing, one truncated, one bit flipped, a MANIFEST absent: the fifth is used, said loudly, counted."""
    stand.changes = {"HEADRACE_STREAM_CHECKPOINT_BATCHES": "2", "HEADRACE_STREAM_CHECKPOINTS_KEPT": "20"}
    stand.start()
    while len(stand.checkpoints()) < 5:
        stand.publish(220)
        stand.wait_level()
        stand.wait_for(lambda: stand.metric("headrace_checkpoint_seq") >= stand.metric("headrace_plan_seq") - 1)
    stand.stop()
    whole, *torn = stand.checkpoints()[-5:]
    parts = [stand.manifest(seq)["parts"][0]["key"] for seq in torn[:3]]
    stand.store.delete(parts[0])
    stand.damage(parts[1], lambda data: data[:-7])
    stand.damage(parts[2], flipped)
    stand.store.delete(f"{parts[0].rpartition('/checkpoint/')[0]}/checkpoint/{torn[3]:020d}/MANIFEST.json")
    stand.start()
    stand.wait_level()

    assert stand.metric("headrace_checkpoint_invalid_total") == 3
    assert stand.log().count("checkpoint does not verify") == 3
    assert f'"checkpoint": {whole}' in stand.log()
    for seq in torn:
        stand.forget_checkpoint(seq)
    stand.publish(100)
    stand.prove()


@pytest.mark.timeout(600)
def test_staging_lost_for_good(stand: Stand) -> None:
    """Clicks to be replayed are gone, from the store and from Kafka: a stop with code 4 that names what is missing."""
    stand.changes = {"HEADRACE_STREAM_CHECKPOINT_BATCHES": "1000", "HEADRACE_STREAM_CHECKPOINT_SECONDS": "1000"}
    stand.publish(300)
    stand.start("submit:2")
    stand.ended()
    lost = next(each for plan in stand.plans() for each in plan["ranges"] if each["staged"])
    stand.store.delete(lost["staged"]["key"])
    stand.drop_before({lost["partition"]: lost["end"]})
    stand.start()

    assert stand.ended() == 4
    said = stand.log()
    for words in (lost["staged"]["key"], f"offsets {lost['start']} to {lost['end']}", "backup"):
        assert words in said
