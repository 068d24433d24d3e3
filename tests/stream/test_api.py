"""The HTTP door, over real HTTP on loopback: what it answers, what it refuses, how it starts and stops."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream import api
from stream.api import Answer, Health, HttpConfig, HttpDoor
from stream.errors import ConfigError, LearnerLost
from stream.events import Recommendation
from stream.metrics import PrometheusMeter


@dataclass
class Service:
    """A small working service behind the door: `items` is its whole model."""

    health: Health = field(default_factory=lambda: Health(live=True, ready=True, details={"seq": 7, "epoch": 2}))
    items: tuple[str, ...] = tuple(f"item{k}" for k in range(2000))
    fails: Exception | None = None
    gate: threading.Event | None = None

    def recommend(self, user_id: str, top_n: int) -> Answer:
        if self.fails is not None:
            raise self.fails
        if self.gate is not None:
            self.gate.wait(30)
        chosen = [Recommendation(f"{item} for {user_id}", float(-k)) for k, item in enumerate(self.items[:top_n])]
        return Answer(chosen, 7, 1.5)


@dataclass
class Running:
    service: Service
    meter: PrometheusMeter
    door: HttpDoor

    def ask(self, path: str, method: str = "GET", **more: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, parsed body and headers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.door.port}{path}", method=method, **more)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, _parsed(reply.read()), dict(reply.headers)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, _parsed(refusal.read()), dict(refusal.headers)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@pytest.fixture
def running() -> Iterator[Running]:
    service, meter = Service(), PrometheusMeter()
    door = HttpDoor(HttpConfig(port=0, top_n=3), meter, lambda: service.health, service.recommend)
    door.start()
    yield Running(service, meter, door)
    door.close()


def test_recommend(running: Running) -> None:
    """The best items with their scores, and how old the model is."""
    status, body, headers = running.ask("/v1/recommend?user=h%C3%A4user%201&n=2")

    assert status == 200
    assert headers["content-type"] == "application/json"
    assert body == {
        "user": "häuser 1",
        "items": [
            {"product_id": "item0 for häuser 1", "score": 0.0},
            {"product_id": "item1 for häuser 1", "score": -1.0},
        ],
        "model": {"seq": 7, "age_seconds": 1.5, "version": 1},
    }


def test_number_of_items(running: Running) -> None:
    """The configured number without n; up to a thousand with it."""
    assert len(running.ask("/v1/recommend?user=u")[1]["items"]) == 3
    assert len(running.ask("/v1/recommend?user=u&n=1000")[1]["items"]) == 1000


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "user=ID"),
        ("?user=", "user must have"),
        ("?user=" + "a" * 257, "256 bytes"),
        ("?user=" + "%C3%A4" * 129, "256 bytes"),
        ("?user=u&n=0", "1 to 1000"),
        ("?user=u&n=1001", "1 to 1000"),
        ("?user=u&n=ten", "1 to 1000"),
        ("?user=u&n=-1", "1 to 1000"),
        ("?user=u&n=%C2%B2", "1 to 1000"),
        ("?user=u&n=" + "9" * 1000, "1 to 1000"),
        ("?user=u&user=v", "each once"),
        ("?user=u&top=5", "n=NUMBER"),
    ],
)
def test_bad_questions(running: Running, query: str, named: str) -> None:
    """A question that cannot be answered is refused as problem JSON that says what to ask."""
    status, body, headers = running.ask(f"/v1/recommend{query}")

    assert (status, body["status"], headers["content-type"]) == (400, 400, "application/problem+json")
    assert named in body["detail"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/nothing", "GET", 404), ("/", "GET", 404), ("/v1/recommend?user=u", "POST", 405)],
)
def test_wrong_address(running: Running, path: str, method: str, status: int) -> None:
    """No such page and no such method are problem JSON too."""
    got, body, headers = running.ask(path, method)

    assert (got, body["status"], headers["content-type"]) == (status, status, "application/problem+json")


@pytest.mark.parametrize("error", [LearnerLost("the learner is being restarted"), TimeoutError("slow")])
def test_learner_away(running: Running, error: Exception) -> None:
    """While the learner is away the answer is 503 with a hint when to come back."""
    running.service.fails = error
    status, body, headers = running.ask("/v1/recommend?user=u")

    assert (status, body["status"], headers["retry-after"]) == (503, 503, "1")


def test_unforeseen_error_is_not_told(running: Running) -> None:
    """A bug is answered as 500 without its message; the door goes on."""
    running.service.fails = RuntimeError("internal detail")
    status, body, _ = running.ask("/v1/recommend?user=u")
    running.service.fails = None

    assert (status, "internal" in json.dumps(body)) == (500, False)
    assert running.ask("/v1/recommend?user=u")[0] == 200


def test_stuck_learner(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never answers costs a bounded wait and a bounded queue, and health goes on being answered."""
    monkeypatch.setattr(api, "RECOMMEND_SECONDS", 0.3)
    running.service.gate = threading.Event()
    try:
        statuses = _at_once(running, api.RECOMMENDING_MAX + 20)
        assert running.ask("/healthz")[0] == 200
    finally:
        running.service.gate.set()

    assert set(statuses) == {503}
    deadline = time.monotonic() + 5
    while running.ask("/v1/recommend?user=u")[0] != 200:
        assert time.monotonic() < deadline


def _at_once(running: Running, count: int) -> list[int]:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(running.ask("/v1/recommend?user=u")[0])) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@pytest.mark.parametrize(("live", "ready"), [(True, True), (True, False), (False, True), (False, False)])
def test_health(running: Running, *, live: bool, ready: bool) -> None:
    """Liveness is the loop's alone; readiness needs both, and says why not, with details."""
    running.service.health = Health(live, ready, ("store does not answer",), {"seq": 7, "loss": math.nan})

    assert running.ask("/healthz")[:2] == (200 if live else 503, {"live": live, "reasons": ["store does not answer"]})
    assert running.ask("/readyz")[:2] == (
        200 if live and ready else 503,
        {"ready": live and ready, "reasons": ["store does not answer"], "seq": 7, "loss": None},
    )


def test_metrics(running: Running) -> None:
    """The scrape parses, and counts the requests by route and status."""
    running.ask("/v1/recommend?user=u")
    running.ask("/v1/recommend")
    running.ask("/secret/path")
    status, text, headers = running.ask("/metrics")
    families = text_string_to_metric_families(text)
    counted = {
        (s.labels["route"], s.labels["status"]): s.value
        for family in families
        for s in family.samples
        if s.name == "headrace_http_requests_total" and s.value
    }

    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    asked = running.ask("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert asked[2]["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert asked[1].endswith("# EOF\n")
    assert counted == {("recommend", "2xx"): 1, ("recommend", "4xx"): 1, ("other", "4xx"): 1}


def test_requests_are_bounded(running: Running) -> None:
    """Long queries, bodies and long headers are refused, and the door goes on."""
    assert running.ask("/healthz?" + "a" * 5000)[0] == 414
    assert running.ask("/healthz", data=b"x" * 100)[0] == 413
    assert running.ask("/healthz")[0] == 200


def test_endless_headers(running: Running) -> None:
    """A request that never stops sending its head is cut off."""
    with socket.create_connection(("127.0.0.1", running.door.port), timeout=10) as peer:
        sent = _flood(peer, 64 << 20)

    assert sent < 16 << 20
    assert running.ask("/healthz")[0] == 200


def _flood(peer: socket.socket, most: int) -> int:
    """Send an endless header; answers how many bytes the other side took."""
    sent = peer.send(b"GET /healthz HTTP/1.1\r\nx-long: ")
    with suppress(ConnectionError):
        while sent < most:
            sent += peer.send(b"a" * 65536)
    return sent


def test_starts_at_once_and_stops() -> None:
    """Up within a second; after close, which may be repeated, nobody listens and no thread is left."""
    service = Service()
    door = HttpDoor(HttpConfig(port=0), PrometheusMeter(), lambda: service.health, service.recommend)
    began = time.monotonic()
    port = door.start()
    took = time.monotonic() - began
    kept_alive = socket.create_connection(("127.0.0.1", port))
    kept_alive.sendall(b"GET /v1/recommend?user=u HTTP/1.1\r\nHost: x\r\n\r\n")
    kept_alive.recv(100)
    door.close()
    door.close()
    kept_alive.close()

    # 0.1 s where nothing else runs; the rest is for a busy machine.
    assert took < 3
    assert door.port == 0
    assert _ended("headrace")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def _ended(name: str) -> bool:
    """Whether all threads of that name end within some seconds; idle workers take a moment."""
    deadline = time.monotonic() + 5
    while any(thread.name.startswith(name) for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_port_taken(running: Running) -> None:
    """A port in use is an error that names the settings to change."""
    second = HttpDoor(
        HttpConfig(port=running.door.port), running.meter, lambda: running.service.health, Service().recommend
    )
    with pytest.raises(ConfigError, match="HEADRACE_HTTP_PORT"):
        second.start()


def test_host_unknown() -> None:
    """A host that is not this machine is an error that names the settings to change."""
    door = HttpDoor(HttpConfig("192.0.2.1", 0), PrometheusMeter(), lambda: Health(True, True), Service().recommend)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1.*HEADRACE_HTTP_HOST"):
        door.start()
