"""The installation that the service tests run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.s3 import S3Server
from tests.services.installation import Run


@pytest.fixture
def run(kafka_broker: KafkaBroker, s3_server: S3Server, tmp_path: Path) -> Iterator[Run]:
    """An installation with a topic of four partitions and an empty bucket."""
    (port,) = process.free_ports(1)
    each = Run(kafka_broker.topic(4), s3_server.fresh_bucket(), kafka_broker, s3_server, tmp_path, port)
    yield each
    if each.running is not None:
        each.end(signal.SIGKILL)
