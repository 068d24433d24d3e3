"""Kafka as docker-compose.yml sets it up, on the real broker: converted by the image's own program, then started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from tests.image import compose
from tests.servers import process
from tests.servers.kafka import POM, NotInstalled, jars

pytestmark = pytest.mark.services


@dataclass(frozen=True)
class Broker:
    """`properties`: what the image's program made of the environment."""

    properties: dict[str, str]
    inside: str
    outside: str


def moved(value: object, folder: Path, inside: int, outside: int, controller: int) -> str:
    """A value of compose on ports and in a folder of this machine."""
    text = str(value).replace("/var/lib/kafka/data", str(folder / "data"))
    for place, port in (
        ("kafka:19092", inside),
        (":9092", outside),
        ("localhost:29093", controller),
        (":19092", inside),
    ):
        text = text.replace(place, f"127.0.0.1:{port}" if place[0] != ":" else f":{port}")
    return text.replace("INSIDE://:", "INSIDE://127.0.0.1:").replace("OUTSIDE://:", "OUTSIDE://127.0.0.1:")


def converted(environment: dict[str, str], folder: Path, libs: Path) -> dict[str, str]:
    """What apache/kafka does before its broker starts: properties made of the environment, storage formatted."""
    folders = [folder / name for name in ("default", "mounted", "final", "data")]
    for each in folders:
        each.mkdir()
    names = ("default-configs-dir", "mounted-configs-dir", "final-configs-dir")
    places = [word for name, each in zip(names, folders[:3], strict=True) for word in (f"--{name}", str(each))]
    program = [
        "java",
        "-Xmx128m",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{libs}/*",
        "kafka.docker.KafkaDockerWrapper",
        "setup",
    ]
    known = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run([*program, *places], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "final/server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    try:
        libs = jars()
    except NotInstalled as absent:
        pytest.skip(str(absent))
    folder = tmp_path_factory.mktemp("compose-kafka")
    inside, outside, controller = process.free_ports(3)
    given = compose.services()["kafka"]["environment"]
    environment = {name: moved(value, folder, inside, outside, controller) for name, value in given.items()}
    properties = converted(environment, folder, libs)
    heap = environment["KAFKA_HEAP_OPTS"].split()
    java = ["/usr/bin/env", "java", *heap, "-cp", f"{libs}/*", "kafka.Kafka", str(folder / "final/server.properties")]
    log = folder / "broker.log"
    running = process.start(java, log)
    found = Broker(properties, f"127.0.0.1:{inside}", f"127.0.0.1:{outside}")
    try:
        process.wait_until(lambda: answers(found.inside), running, log, seconds=120)
        yield found
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


def answers(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=2000).close()
    except (OSError, KafkaError):
        return False
    return True


def test_the_version_is_the_one_under_test() -> None:
    """The image's broker is the one that all other tests run on."""
    image = compose.services()["kafka"]["image"]

    assert f"<version>{image.rpartition(':')[2]}</version>" in POM.read_text()


def test_the_image_understands_every_variable(broker: Broker) -> None:
    """Each becomes a property of the broker, but those that are meant for the JVM and for the formatting."""
    given = compose.services()["kafka"]["environment"]
    wanted = {name.removeprefix("KAFKA_").lower().replace("_", ".") for name in given if name.startswith("KAFKA_")}

    assert broker.properties.keys() == wanted - {"heap.opts"}
    assert broker.properties["offsets.topic.replication.factor"] == "1"


def test_it_serves_both_listeners_and_groups(broker: Broker) -> None:
    """From outside and from inside; a group's offsets are kept, which wants a topic of one copy."""
    admin = KafkaAdminClient(bootstrap_servers=broker.inside)
    admin.create_topics([NewTopic("clickstream", num_partitions=4, replication_factor=1)])
    admin.wait_for_topics(["clickstream"])
    with KafkaProducer(bootstrap_servers=broker.outside) as producer:
        producer.send("clickstream", b"one", partition=0).get(30)
    consumer = KafkaConsumer(bootstrap_servers=broker.inside, group_id="headrace", enable_auto_commit=False)
    place = TopicPartition("clickstream", 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    found = consumer.poll(timeout_ms=10_000)
    consumer.commit({place: OffsetAndMetadata(1, "", -1)})
    committed = consumer.committed(place)
    consumer.close()
    admin.close()

    assert [record.value for record in found[place]] == [b"one"]
    assert committed == 1


def test_a_misspelt_topic_is_an_error(broker: Broker) -> None:
    """Nobody's slip of the pen makes a topic."""
    with KafkaProducer(bootstrap_servers=broker.inside, max_block_ms=3000) as producer, pytest.raises(KafkaError):
        producer.send("clikcstream", b"one").get(10)
    admin = KafkaAdminClient(bootstrap_servers=broker.inside)
    topics = set(admin.list_topics())
    admin.close()

    assert "clikcstream" not in topics


def test_the_topic_is_made_as_asked() -> None:
    """The task's words: the topic that Headrace reads, more than one partition, and only if it is not there."""
    words = compose.services()["topics"]["command"]
    headrace = compose.services()["headrace"]["environment"]
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)

    assert words[0] == "/opt/kafka/bin/kafka-topics.sh"
    assert {"--create", "--if-not-exists"} <= set(words)
    assert options["topic"] == headrace["HEADRACE_KAFKA_TOPIC"]
    assert options["bootstrap-server"] == headrace["HEADRACE_KAFKA_BOOTSTRAP"]
    assert int(options["partitions"]) > 1
    assert options["config"] == "retention.ms=604800000"
