"""How Kafka is reached: the settings, what kafka-python is told, and what its errors mean for the operator."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import (
    AuthorizationError,
    IncompatibleBrokerVersion,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream.errors import HeadraceError, SourceRefused, StoreUnavailable
from stream.kafka import tls
from stream.kafka.repair import LOGIN_ERRORS, NAMES_URL, Clients

REFUSALS = (*LOGIN_ERRORS, AuthorizationError, InvalidTopicError, IncompatibleBrokerVersion)
_PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """One topic on one cluster. Secrets never show in the repr.

    `bootstrap_servers`: host:port, comma separated. `group`: under which offsets are committed for lag tools; empty:
    none. `metadata_seconds_max`: how old the known partitions may be. `start_seconds_max`: how long a start may wait
    for a broker.
    """

    bootstrap_servers: str
    topic: str
    group: str = ""
    client_id: str = "headrace"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = ""
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    ssl_password: str = field(default="", repr=False)
    ssl_check_hostname: bool = True
    fetch_bytes_max: int = 16 << 20
    partition_fetch_bytes_max: int = 1 << 20
    metadata_seconds_max: float = 60.0
    start_seconds_max: float = 15.0

    @property
    def servers(self) -> list[str]:
        """The bootstrap servers one by one."""
        return [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]

    @property
    def files(self) -> tls.Files:
        """What TLS is told."""
        return tls.Files(
            self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile, self.ssl_password, self.ssl_check_hostname
        )


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every kind of client is told: where to connect, who we are, how soon to give up."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.servers,
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "bootstrap_timeout_ms": round(settings.start_seconds_max * 1000),
        "metadata_max_age_ms": round(settings.metadata_seconds_max * 1000),
        "proxy_url": NAMES_URL,
        "reconnect_backoff_max_ms": 1000,
        "request_timeout_ms": 15_000,
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    if settings.security_protocol.endswith("SSL"):
        # What is wrong with the files is said now. The client reads them anew for each connection: they may be renewed.
        tls.context(settings.files)
        files = {"ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"}
        options |= {name: getattr(settings, name) or None for name in files}
        options["ssl_check_hostname"] = settings.ssl_check_hostname
    return options


def connect(make: Any, settings: KafkaSettings, **options: Any) -> Any:
    """A kafka-python client that has reached the cluster, or `SourceRefused` after `start_seconds_max`."""
    clients = Clients()
    try:
        return make(**{**client_options(settings), **options}, kafka_client=clients)
    except KafkaError as error:
        # Time may be up just when the refusal is known, and before the next try would raise it.
        heard = clients.login_refused() or error
        clients.close()
        raise refused(heard, settings) from error


def topic_partitions(settings: KafkaSettings, topic: str) -> list[int]:
    """Ids of the topic's partitions, ascending; empty when there is no such topic. Never creates it."""
    with closing(connect(KafkaAdminClient, settings)) as admin:
        return _described(admin, settings, topic)


def ensure_topic(settings: KafkaSettings, topic: str, partitions: int = -1, **config: str) -> bool:
    """Create the topic unless it exists; True when it was created. `partitions` -1: as many as the broker's default."""
    with closing(connect(KafkaAdminClient, settings)) as admin:
        if _described(admin, settings, topic):
            return False
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, topic_configs=config)
        try:
            admin.create_topics([new])
            admin.wait_for_topics([topic])
        except TopicAlreadyExistsError:
            return False
        except KafkaError as error:
            raise SourceRefused(
                f"topic {topic!r} does not exist on {settings.bootstrap_servers} and cannot be created: {error}. "
                f"Create it: kafka-topics.sh --create --topic {topic} --bootstrap-server {settings.servers[0]}"
            ) from error
        return True


def retention_ms(settings: KafkaSettings, topic: str) -> int:
    """After how many milliseconds, by their own time, the topic's messages may be deleted; -1: never, or not told."""
    asked = ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": None})
    with closing(connect(KafkaAdminClient, settings)) as admin:
        try:
            told = admin.describe_configs([asked], config_filter="all")
        except KafkaError:
            # Reading a topic's configuration is a right of its own, which a producer need not have.
            return -1
        return int(told["topic"][topic]["retention.ms"]["value"])


def _described(admin: Any, settings: KafkaSettings, topic: str) -> list[int]:
    try:
        found = admin.describe_topics([topic])[0]
    except KafkaError as error:
        raise refused(error, settings, topic) from error
    error_type = for_code(found["error_code"])
    if error_type in REFUSALS or issubclass(error_type, AuthorizationError):
        raise refused(error_type(), settings, topic)
    return sorted(partition["partition_index"] for partition in found["partitions"])


def no_such_topic(settings: KafkaSettings, topic: str) -> SourceRefused:
    """The refusal for a topic that does not exist."""
    return SourceRefused(
        f"there is no topic {topic!r} on {settings.bootstrap_servers}. Create it (kafka-topics.sh --create "
        f"--topic {topic} --partitions 4 --bootstrap-server {settings.servers[0]}), or correct HEADRACE_KAFKA_TOPIC"
    )


def refused(error: KafkaError, settings: KafkaSettings, topic: str = "") -> HeadraceError:
    """`SourceRefused` for what will not pass, said with its remedy."""
    topic = topic or settings.topic
    if isinstance(error, LOGIN_ERRORS):
        return SourceRefused(
            f"Kafka at {settings.bootstrap_servers} refused the login of {settings.sasl_username!r} by "
            f"{settings.sasl_mechanism}: {error}. Check HEADRACE_KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD"
        )
    if isinstance(error, TopicAuthorizationFailedError):
        return SourceRefused(
            f"Kafka refused access to topic {topic!r} for {settings.sasl_username or 'an anonymous client'!r}: allow "
            "Read and Describe on it (Write and Create for dead letters)"
        )
    if isinstance(error, KafkaTimeoutError):
        return SourceRefused(
            f"no Kafka broker answered at {settings.bootstrap_servers} within {settings.start_seconds_max:g} s "
            f"({'; '.join(probe(settings))}). Start it, or correct HEADRACE_KAFKA_BOOTSTRAP and _SECURITY"
        )
    return SourceRefused(f"Kafka at {settings.bootstrap_servers}, topic {topic!r}, refused: {error}")


def may_pass(error: KafkaError, settings: KafkaSettings, topic: str) -> HeadraceError:
    """The same for a write in flight: `StoreUnavailable` where another try may succeed."""
    if isinstance(error, REFUSALS):
        return refused(error, settings, topic)
    return StoreUnavailable(f"dead letters could not be written to topic {topic!r}: {error!r}")


def probe(settings: KafkaSettings) -> list[str]:
    """One line for each bootstrap server: what a plain connection to it says."""
    return [f"{server}: {_probe_one(server, settings)}" for server in settings.servers]


def _probe_one(server: str, settings: KafkaSettings) -> str:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS) as plain:
            if not settings.security_protocol.endswith("SSL"):
                return "the port is open, but what listens there does not answer as a Kafka broker with these settings"
            return tls.tried(plain, host, settings.files)
    except (OSError, ValueError) as error:
        return str(error)
