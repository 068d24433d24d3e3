"""A real Apache Kafka broker for the tests: the jars by Maven, once; one process in KRaft mode, on free ports."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from stream.kafka.source import KafkaSettings
from tests.servers import process
from tests.servers.certificates import Authority

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("pom.xml")
CACHE = ROOT / ".cache" / "kafka"
USER, PASSWORD = "headrace", "water"

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller},\
MUTUAL://127.0.0.1:{mutual},BOTH://127.0.0.1:{both}
advertised.listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},\
MUTUAL://127.0.0.1:{mutual},BOTH://127.0.0.1:{both}
listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT,MUTUAL:SSL,BOTH:SASL_SSL
inter.broker.listener.name=PLAIN
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
username="{user}" password="{password}" user_{user}="{password}";
listener.name.both.sasl.enabled.mechanisms=PLAIN
listener.name.both.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
username="{user}" password="{password}" user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.mutual.ssl.client.auth=required
log.dirs={directory}/log
auto.create.topics.enable=false
log.retention.ms=-1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class NotInstalled(Exception):
    """What a broker needs is not on this machine; the message says what to install."""


def jars() -> Path:
    """Folder of the broker's jars; has Maven copy them once, then works offline. Raises NotInstalled."""
    needed = (("java", "a Java runtime, 17 or newer"), ("mvn", "Maven"), ("openssl", "OpenSSL"))
    for tool, package in needed:
        if shutil.which(tool) is None:
            raise NotInstalled(f"no {tool} here: install {package} to run a real Kafka broker")
    CACHE.mkdir(parents=True, exist_ok=True)
    libs = CACHE / "libs"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "complete").exists() or (CACHE / "complete").read_text() != POM.read_text():
            _copy_jars(libs)
    return libs


def _copy_jars(libs: Path) -> None:
    shutil.rmtree(libs, ignore_errors=True)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libs}"]
    done = subprocess.run(["mvn", "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotInstalled(f"Maven could not copy Kafka's jars (it needs the network once): {done.stdout[-500:]}")
    # Written last: an interrupted copy is never taken for a whole one.
    (CACHE / "complete").write_text(POM.read_text())


class KafkaBroker:
    """One broker. Its data and ports outlive a restart, so that `stop` and `start` are an outage."""

    def __init__(self, directory: Path) -> None:
        """`directory`: an empty folder of its own. Raises NotInstalled."""
        self.directory = directory
        self.libs = jars()
        plain, sasl, tls, controller, mutual, both = process.free_ports(6)
        self.bootstrap = f"127.0.0.1:{plain}"
        self.bootstrap_sasl = f"127.0.0.1:{sasl}"
        self.bootstrap_tls = f"127.0.0.1:{tls}"
        self.bootstrap_mutual = f"127.0.0.1:{mutual}"
        self.bootstrap_both = f"127.0.0.1:{both}"
        self.authority = Authority(directory, "authority")
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        ports = {"plain": plain, "sasl": sasl, "tls": tls, "controller": controller, "mutual": mutual, "both": both}
        self._prepare(ports)

    def _prepare(self, ports: dict[str, int]) -> None:
        # For its address alone: by the name `localhost` it is another's.
        stores = {
            "keystore": self.authority.sign("broker", "IP:127.0.0.1").joined(),
            "truststore": self.authority.cert,
        }
        text = PROPERTIES.format(**ports, **stores, directory=self.directory, user=USER, password=PASSWORD)
        self._config = self.directory / "server.properties"
        self._config.write_text(text)
        # As Kafka's own: one that began with "-" would be taken for an option.
        identity = urlsafe_b64encode(b"\0" + uuid4().bytes[1:]).decode().rstrip("=")
        format_log = ["kafka.tools.StorageTool", "format", "-t", identity, "-c", str(self._config)]
        command = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{self.libs}/*", *format_log]
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        """Start the process, unless it runs, and return once it answers."""
        if self._process is not None:
            return
        java = shutil.which("java") or "java"
        command = [java, "-Xmx384m", "-Xms128m", "-cp", f"{self.libs}/*", "kafka.Kafka", str(self._config)]
        log = self.directory / "broker.out"
        self._process = process.start(command, log)
        process.wait_until(self._answers, self._process, log)

    def _answers(self) -> bool:
        host, port = self.bootstrap.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            self.admin(bootstrap_timeout_ms=2000).close()
        except (OSError, KafkaError):
            return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        """End the process: in good order, or by SIGKILL."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stop the process from running, its sockets open: the broker that neither answers nor refuses."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def admin(self, **config: Any) -> KafkaAdminClient:
        """An admin client, to be closed by the caller."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, **config)

    def topic(self, partitions: int = 4, **config: str) -> str:
        """Create a topic with a fresh name; answers the name."""
        name = f"clicks-{os.getpid()}-{next(self._numbers)}"
        admin = self.admin()
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, topic_configs=config)
        admin.create_topics([new])
        admin.wait_for_topics([name])
        admin.close()
        return name

    def settings(self, topic: str, **changes: Any) -> KafkaSettings:
        """Settings for a source on the plain listener."""
        return KafkaSettings(**{"bootstrap_servers": self.bootstrap, "topic": topic, **changes})

    def produce(self, topic: str, values: Iterable[bytes | None], **record: Any) -> None:
        """Send `values` in order; `record` (partition, key, headers, timestamp_ms) goes with each. Waits."""
        with KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=20) as producer:
            for value in values:
                producer.send(topic, value, **record)
            producer.flush(30)


def _made(directory: Path) -> KafkaBroker:
    """A broker for tests, which skip where there can be none."""
    try:
        return KafkaBroker(directory)
    except NotInstalled as absent:
        pytest.skip(str(absent))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One broker for the whole session. Each test makes topics of its own and leaves the broker running."""
    broker = _made(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def _broker_of_trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = _made(tmp_path_factory.mktemp("unsteady"))
    yield broker
    broker.stop(kill=True)


@pytest.fixture
def unsteady_broker(_broker_of_trouble: KafkaBroker) -> Iterator[KafkaBroker]:
    """A broker that a test may stop, kill and freeze; running at the start of each test."""
    _broker_of_trouble.start()
    yield _broker_of_trouble
    _broker_of_trouble.thaw()
