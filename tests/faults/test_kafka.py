"""The broker restarted, killed or gone, partitions added, the topic deleted: nothing is lost, nothing reset."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest
from kafka.admin import NewTopic

from tests.faults.stand import Stand
from tests.servers.kafka import KafkaBroker
from tests.servers.ray import Head

pytestmark = [pytest.mark.services, pytest.mark.faults]
AWAY_SECONDS = 30.0
PARTITIONS_SECONDS = 300.0
"""A minute until the service asks for new partitions, a minute for how old the client's answer may be; and more."""


@pytest.fixture
def unsteady(make_stand: Callable[..., Stand], unsteady_broker: KafkaBroker, ray_head: Head) -> Stand:
    """A stand whose broker a test may stop."""
    return make_stand(unsteady_broker, ray_head)


@pytest.mark.timeout(600)
def test_broker_restarts_and_is_gone(unsteady: Stand) -> None:
    """A restart in order, then SIGKILL and 30 s of absence: the service stays alive, and goes on where it stood."""
    unsteady.publish(300)
    unsteady.start()
    unsteady.wait_level()
    unsteady.broker.stop()
    unsteady.broker.start()
    unsteady.publish(300)
    unsteady.wait_level()
    unsteady.broker.stop(kill=True)
    gone = time.monotonic()
    live: set[int] = set()
    while time.monotonic() - gone < AWAY_SECONDS:
        live.add(unsteady.page("/healthz")[0])
        time.sleep(0.5)
    said = unsteady.page("/readyz")
    silent = unsteady.metric("headrace_source_silent_seconds")
    unsteady.broker.start()
    unsteady.publish(300)

    assert live == {200}
    assert said[0] == 503
    assert "no Kafka broker has answered for" in said[1]
    assert silent > AWAY_SECONDS / 2
    unsteady.wait_for(lambda: unsteady.metric("headrace_source_silent_seconds") == 0)
    unsteady.prove()
    assert {plan["epoch"] for plan in unsteady.plans()} == {1}


@pytest.mark.timeout(900)
def test_partitions_are_added(stand: Stand) -> None:
    """One while the service is down, one while it runs: both are read from their beginning."""
    stand.publish(200)
    stand.start()
    stand.wait_level()
    stand.stop()
    for partitions, running in ((5, False), (6, True)):
        if running:
            stand.start()
            stand.wait_level()
        with closing(stand.broker.admin()) as admin:
            admin.create_partitions({stand.topic: partitions})
            admin.wait_for_topics([stand.topic])
        stand.publish(100, partition=partitions - 1)
        if not running:
            stand.start()
        stand.wait_level(PARTITIONS_SECONDS)
        stand.stop()

    assert stand.next_offsets().keys() == set(range(6))
    stand.prove()


@pytest.mark.timeout(600)
def test_topic_made_anew(stand: Stand) -> None:
    """The topic is deleted and created again, with fewer messages: exit 5 that says so, and no offset is reset."""
    stand.publish(300)
    stand.start()
    stand.wait_level()
    stand.stop()
    with closing(stand.broker.admin()) as admin:
        admin.delete_topics([stand.topic])
        stand.wait_until(lambda: stand.topic not in admin.list_topics())
        admin.create_topics([NewTopic(stand.topic, num_partitions=4, replication_factor=1)])
        admin.wait_for_topics([stand.topic])
    plans = len(stand.plans())
    refused = [stand.command("run"), stand.command("run", "--resume-from", "earliest")]

    assert [done.returncode for done in refused] == [5, 5], refused[0].stderr + refused[1].stderr
    assert all("deleted and created anew" in done.stderr for done in refused)
    assert len(stand.plans()) == plans
    stand.prove()


@pytest.mark.timeout(600)
def test_topic_made_anew_under_a_running_service(stand: Stand) -> None:
    """The same while the service runs: it stops with 5 as soon as it meets the new topic, and learns nothing of it."""
    stand.publish(300)
    stand.start()
    stand.wait_level()
    with closing(stand.broker.admin()) as admin:
        admin.delete_topics([stand.topic])
        stand.wait_until(lambda: stand.topic not in admin.list_topics())
        admin.create_topics([NewTopic(stand.topic, num_partitions=4, replication_factor=1)])
        admin.wait_for_topics([stand.topic])

    assert stand.ended(PARTITIONS_SECONDS) == 5, stand.log()
    assert stand.outcomes() == stand.sent
