"""Stands for the fault tests: on servers that the whole session shares, or on such as a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.proxy import Proxy, proxy_to
from tests.faults.stand import Stand
from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.ray import Head
from tests.servers.s3 import S3Server

Make = Callable[..., Stand]


@pytest.fixture
def make_stand(s3_server: S3Server, tmp_path: Path) -> Iterator[Make]:
    """Make stands; whatever still runs of them is killed in the end."""
    with ExitStack() as stack:

        def make(broker: KafkaBroker, cluster: Head | None = None, **options: object) -> Stand:
            folder = tmp_path / f"stand{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            (port,) = process.free_ports(1)
            topic = str(options.pop("topic", None) or broker.topic(4))
            bucket = str(options.pop("bucket", None) or s3_server.fresh_bucket())
            stand = Stand(topic, bucket, broker, s3_server, folder, port, cluster=cluster, **options)  # type: ignore[arg-type]
            stack.callback(_end, stand)
            return stand

        yield make


def _end(stand: Stand) -> None:
    if stand.running is not None:
        for each in stand.family():
            with suppress(ProcessLookupError):
                each.kill()
        stand.running.wait()
        stand.running = None


@pytest.fixture
def stand(make_stand: Make, kafka_broker: KafkaBroker, ray_head: Head) -> Stand:
    """A stand on shared servers; its learner lives in a cluster that outlives the service, which starts fast."""
    return make_stand(kafka_broker, ray_head)


@pytest.fixture
def lone_stand(make_stand: Make, kafka_broker: KafkaBroker) -> Stand:
    """A stand whose service starts a Ray of its own, as most installations do."""
    return make_stand(kafka_broker)


@pytest.fixture
def store_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    """A proxy in front of the S3 server."""
    address = urlsplit(s3_server.endpoint)
    with proxy_to(address.hostname or "", address.port or 0) as proxy:
        yield proxy
