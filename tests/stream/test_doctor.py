"""The doctor: every finding is one line, every failing one names its remedy, and none raises."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numba
import pytest

from stream import doctor
from stream.backup import note
from stream.doctor import Check, checks, diagnose
from stream.errors import StoreRefused
from stream.kafka.link import ensure_topic
from stream.naming import Layout
from stream.settings.settings import OPTIONS, Settings
from stream.store.directory import DirectoryStore
from stream.wiring import kafka_settings, open_backup, open_store
from tests.servers.kafka import KafkaBroker
from tests.servers.s3 import S3Server


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine sets must not reach these tests; one lost broker must not cost five seconds each."""
    for name in [name for option in OPTIONS for name in option.names] + [n for n in os.environ if "HEADRACE" in n]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "KAFKA_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def no_litter() -> Iterator[None]:
    """kafka-python leaves a socket behind when it finds no broker; it must not fail whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def local(tmp_path: Path, closed_port: int) -> dict[str, object]:
    """Arguments for a directory store, a broker that is down, and a free HTTP port."""
    return {
        "store.location": str(tmp_path / "store"),
        "kafka.bootstrap": f"127.0.0.1:{closed_port}",
        "http.port": 0,
        # A cluster that is down, so that not every test starts a Ray; `test_all_well` does.
        "ray.address": f"ray://127.0.0.1:{closed_port}",
    }


def found(arguments: dict[str, object], name: str) -> Check:
    """The one finding of that name, by its examination alone."""
    examination = {"shared memory": "memory", "topic": "kafka", "collection": "configuration"}.get(name, name)
    everything = doctor._EXAMINATIONS
    only = {examination: everything[examination]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_EXAMINATIONS", only)
        return next(check for check in checks(Settings.load(arguments)) if check.name == name)


def test_every_failure_has_a_remedy(local: dict[str, object]) -> None:
    """With nothing running the doctor still reports on everything, a line each, and says what to do."""
    findings = list(checks(Settings.load(local)))
    states = {check.name: check.state for check in findings}

    assert states["configuration"] == states["store"] == states["clock"] == states["http"] == "ok"
    assert states["kafka"] == states["ray"] == "fail"
    assert {"disk", "disk of the store", "memory", "kernel cache"} <= set(states)
    assert all(bool(check.remedy) == (check.state != "ok") for check in findings)
    assert not [check for check in findings if "\n" in check.detail + check.remedy]


def test_kafka_down(local: dict[str, object], closed_port: int) -> None:
    """No broker: its address, and the settings that name one."""
    check = found(local, "kafka")

    assert check.state == "fail"
    assert f"127.0.0.1:{closed_port}" in check.detail
    assert "HEADRACE_KAFKA_BOOTSTRAP" in check.remedy


def test_store_down(local: dict[str, object], closed_port: int) -> None:
    """No S3 server: its address, and the settings that name one; no secret."""
    arguments = local | {
        "store.location": "s3",
        "store.endpoint": f"127.0.0.1:{closed_port}",
        "store.access_key": "planted-access",
        "store.secret_key": "planted-secret",
        "store.attempts": 1,
    }
    check = found(arguments, "store")

    assert check.state == "fail"
    assert f"127.0.0.1:{closed_port}" in check.detail
    assert "HEADRACE_STORE_ENDPOINT" in check.remedy
    assert "planted" not in check.detail


def test_store_is_a_file(local: dict[str, object], tmp_path: Path) -> None:
    """A directory store on a file."""
    (tmp_path / "file").write_text("")
    check = found(local | {"store.location": str(tmp_path / "file")}, "store")

    assert check.state == "fail"
    assert str(tmp_path / "file") in check.detail


def test_where_copies_go(local: dict[str, object], closed_port: int, tmp_path: Path) -> None:
    """Said only where copies are made: whether one is there, or what to correct; and `no copy yet` writes nothing."""
    to = tmp_path / "copy"
    down = {"store.endpoint": f"http://127.0.0.1:{closed_port}", "store.attempts": 1}
    wrong = found(local | down | {"backup.to": "s3://somewhere"}, "backup")
    before = found(local | {"backup.to": str(to)}, "backup")
    layout = Layout("headrace", "main")
    note.write(DirectoryStore(to), layout, note.Note("main", 7, "x", "2026-11-27"), None)

    assert all(check.name != "backup" for check in checks(Settings.load(local)))
    assert (wrong.state, "HEADRACE_BACKUP_TO" in wrong.remedy) == ("fail", True)
    assert (before.state, "no copy yet" in before.detail) == ("ok", True)
    assert "up to plan 7, of 2026-11-27" in found(local | {"backup.to": str(to)}, "backup").detail


def test_ray_down(local: dict[str, object], closed_port: int) -> None:
    """A cluster that is not there is told within seconds, with how to start one and how tokens are given."""
    check = found(local, "ray")

    assert check.state == "fail"
    assert f"nothing listens at RAY_ADDRESS=ray://127.0.0.1:{closed_port}" in check.detail
    assert "RAY_ADDRESS" in check.remedy
    assert "RAY_AUTH_TOKEN" in check.remedy


def test_http_port_taken(local: dict[str, object]) -> None:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = found(local | {"http.port": taken.getsockname()[1]}, "http")

    assert check.state == "fail"
    assert "HEADRACE_HTTP_PORT" in check.remedy


def test_http_off(local: dict[str, object]) -> None:
    """Switched off is worth a warning: nobody will see the service's health."""
    assert found(local | {"http.enabled": False}, "http").state == "warn"


@pytest.mark.parametrize("error", [StoreRefused("two\nlines"), RuntimeError("two\nlines")])
def test_error_of_any_kind(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an examination raises becomes one line, and the others go on."""

    def ill(_settings: Settings) -> Iterator[Check]:
        raise error

    whole = {"store": ill, "configuration": doctor._EXAMINATIONS["configuration"]}
    monkeypatch.setattr(doctor, "_EXAMINATIONS", whole)
    first, second = checks(Settings.load())

    assert (first.state, second.state) == ("fail", "ok")
    assert first.detail.endswith("two lines")


def test_configuration_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broken configuration its problems are the findings, one by one."""
    monkeypatch.setenv("INCREMENTAL_EPOCHS", "none")
    findings = list(diagnose({"http.port": -1}))

    assert [(check.name, check.state) for check in findings] == [("configuration", "fail")] * 2
    assert any("INCREMENTAL_EPOCHS='none'" in check.detail for check in findings)


def test_grace_too_short(local: dict[str, object]) -> None:
    """A grace period in which a late request can still come."""
    check = found(local | {"stream.gc_grace_seconds": 30}, "collection")

    assert (check.state, "HEADRACE_STREAM_GC_GRACE_SECONDS" in check.remedy) == ("warn", True)
    with pytest.raises(StopIteration):
        found(local | {"stream.gc_grace_seconds": 120}, "collection")


def test_memory_short(local: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory for buffers, Ray and model."""
    assert found(local, "memory").state == "ok"

    monkeypatch.setattr(doctor, "LEARNER_BYTES", 1 << 60)
    check = found(local, "memory")
    assert (check.state, "HEADRACE_STREAM_BUFFER_HIGH_BYTES" in check.remedy) == ("warn", True)


def test_shared_memory_short(local: dict[str, object]) -> None:
    """An object store larger than /dev/shm, as containers have it by default."""
    if not Path("/dev/shm").exists():
        pytest.skip("no /dev/shm on this system")
    embedded = local | {"ray.address": ""}
    small, large = (found(embedded | {"ray.object_store_bytes": size}, "shared memory") for size in ("80MiB", "64GiB"))

    assert small.detail != large.detail
    assert (large.state, "HEADRACE_RAY_OBJECT_STORE_BYTES" in large.remedy) == ("warn", True)


def test_disk_short(local: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room for checkpoints."""
    monkeypatch.setattr(doctor, "DISK_BYTES_MIN", 1 << 60)
    check = found(local, "disk")

    assert (check.state, "TMPDIR" in check.remedy) == ("warn", True)


def test_no_place_for_kernels(local: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compiled kernels cannot be kept, the remedy names numba's own setting."""
    assert found(local, "kernel cache").state == "ok"

    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null/cache")
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    check = found(local, "kernel cache")
    assert (check.state, "NUMBA_CACHE_DIR" in check.remedy) == ("fail", True)


class _LateServer(BaseHTTPRequestHandler):
    """Answers every HEAD with a Date that is `late_seconds` off."""

    late_seconds = 0.0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(time.time() + self.late_seconds))

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def late_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _LateServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("seconds", "state"), [(0, "ok"), (300, "warn"), (-300, "warn"), (3600, "fail")])
def test_clock_skew(late_server: str, seconds: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our clock is compared with the store's, by the Date of its reply."""
    monkeypatch.setattr(_LateServer, "late_seconds", seconds)
    arguments: dict[str, object] = {"store.endpoint": late_server, "store.access_key": "a", "store.secret_key": "b"}
    check = found(arguments, "clock")

    assert check.state == state, check
    assert ("NTP" in check.remedy) == (state != "ok")


@pytest.mark.services
def test_all_well(kafka_broker: KafkaBroker, s3_server: S3Server, closed_port: int) -> None:
    """With a real broker, a real S3 server and an embedded Ray all is well, and nothing is left in the buckets."""
    copy = s3_server.fresh_bucket()
    arguments: dict[str, object] = {
        "store.endpoint": s3_server.endpoint,
        "store.access_key": s3_server.access_key,
        "store.secret_key": s3_server.secret_key,
        "store.bucket": s3_server.fresh_bucket(),
        "kafka.bootstrap": kafka_broker.bootstrap,
        "kafka.topic": "doctor-well",
        "http.port": closed_port,
        "backup.to": f"s3://{copy}",
    }
    settings = Settings.load(arguments)
    ensure_topic(kafka_settings(settings), "doctor-well", 3)
    findings = {check.name: check for check in checks(settings)}

    assert {name: check.state for name, check in findings.items() if name != "shared memory"} == dict.fromkeys(
        set(doctor._EXAMINATIONS) | {"topic", "dead-letter topic"}, "ok"
    )
    assert "3 partitions" in findings["topic"].detail
    assert f"s3://{copy}: no copy yet" in findings["backup"].detail
    assert list(open_store(settings).list("")) == list(open_backup(settings).list("")) == []


@pytest.mark.services
def test_topic_missing(kafka_broker: KafkaBroker, local: dict[str, object]) -> None:
    """No such topic: the command that makes it, or the setting that names another."""
    check = found(local | {"kafka.bootstrap": kafka_broker.bootstrap, "kafka.topic": "doctor-none"}, "topic")

    assert check.state == "fail"
    assert "--create --topic doctor-none" in check.remedy
    assert "HEADRACE_KAFKA_TOPIC" in check.remedy


@pytest.mark.services
@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"store.bucket": "no-such-bucket"}, "no-such-bucket"), ({"store.secret_key": "wrong"}, "SECRET_KEY")],
)
def test_store_refuses(s3_server: S3Server, wrong: dict[str, object], named: str) -> None:
    """A missing bucket and a wrong key are told apart, with what to correct."""
    arguments: dict[str, object] = {
        "store.endpoint": s3_server.endpoint,
        "store.access_key": s3_server.access_key,
        "store.secret_key": s3_server.secret_key,
        "store.bucket": s3_server.fresh_bucket(),
    }
    check = found(arguments | wrong, "store")

    assert check.state == "fail"
    assert named in check.detail
    assert s3_server.secret_key not in check.detail
