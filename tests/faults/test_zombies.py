"""Two writers on one lineage: one goes on, the other stops with the fenced code and writes nothing more."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.faults.stand import WAIT_SECONDS, Stand
from tests.servers.kafka import KafkaBroker
from tests.servers.ray import Head

pytestmark = [pytest.mark.services, pytest.mark.faults]


def twin_of(stand: Stand, make_stand: Callable[..., Stand], cluster: Head | None) -> Stand:
    """A second service on the same topic and bucket; what was sent is known to both."""
    twin = make_stand(stand.broker, cluster, topic=stand.topic, bucket=stand.bucket)
    twin.sent = stand.sent
    return twin


@pytest.mark.timeout(600)
def test_two_at_once(stand: Stand, make_stand: Callable[..., Stand], ray_head: Head) -> None:
    """Two services are started at the same moment: exactly one goes on, the other exits with 3, nothing is twice."""
    stand.publish(500)
    twin = twin_of(stand, make_stand, ray_head)
    stand.start()
    twin.start()
    both, deadline = (stand, twin), time.monotonic() + WAIT_SECONDS
    while all(each.running is not None and each.running.poll() is None for each in both):
        stand.publish(20)  # an idle one would ask for its successor only now and then
        time.sleep(0.5)
        assert time.monotonic() < deadline, stand.log() + twin.log()
    lost = stand.running is not None and stand.running.poll() is not None
    loser, winner = (stand, twin) if lost else (twin, stand)

    assert loser.ended() == 3, loser.log()
    assert "replaced" in loser.log()
    winner.publish(100)
    winner.prove()


@pytest.mark.timeout(600)
def test_sleeper_wakes_up_replaced(
    lone_stand: Stand, make_stand: Callable[..., Stand], kafka_broker: KafkaBroker, ray_head: Head
) -> None:
    """SIGSTOP of service and learner, another takes over, SIGCONT: the first exits with 3 and writes nothing after."""
    lone_stand.publish(300)
    lone_stand.start()
    lone_stand.wait_level()
    lone_stand.wait_for(lambda: lone_stand.metric("headrace_checkpoint_seq") >= lone_stand.metric("headrace_plan_seq"))
    family = lone_stand.family()
    epoch = lone_stand.plans()[-1]["epoch"]
    signal_all(family, signal.SIGSTOP)
    twin = twin_of(lone_stand, make_stand, ray_head)
    twin.start()
    twin.publish(300)
    twin.wait_level()
    before = lone_stand.listing()
    signal_all(family, signal.SIGCONT)
    twin.publish(100)

    assert lone_stand.ended() == 3, lone_stand.log()
    twin.wait_level()
    written = lone_stand.listing() - before
    assert epoch not in {plan["epoch"] for plan in twin.plans() if plan["seq"] > 0 and key_of(plan) in written}
    assert epoch not in {twin.manifest(seq)["epoch"] for seq in twin.checkpoints() if checkpoint_key(seq) in written}
    twin.prove()


def signal_all(family: list[psutil.Process], number: signal.Signals) -> None:
    """The service first when they are put to sleep, and last when they are woken."""
    for each in family if number == signal.SIGSTOP else reversed(family):
        try:
            each.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def key_of(plan: dict[str, int]) -> str:
    return f"headrace/lineage/main/plan/{plan['seq']:020d}.json"


def checkpoint_key(seq: int) -> str:
    return f"headrace/lineage/main/checkpoint/{seq:020d}/MANIFEST.json"
