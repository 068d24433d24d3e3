"""Callers who are slow or silent on purpose: what they hold is taken back, and probes are answered meanwhile."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from stream import api, callers, listening
from stream.api import Answer, Health, HttpConfig, HttpDoor
from stream.events import Recommendation
from stream.metrics import PrometheusMeter

WAIT_SECONDS = 60
"""For what happens within a second where nothing else runs."""
ASK = b"GET /v1/recommend?user=u HTTP/1.1\r\nHost: x\r\n\r\n"


class Door:
    """A running door, and a model behind it that answers once `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        health = Health(live=True, ready=True)
        self.door = HttpDoor(HttpConfig(port=0, top_n=1000), PrometheusMeter(), lambda: health, self._recommend)
        self.door.start()

    def _recommend(self, user_id: str, top_n: int) -> Answer:
        self.gate.wait(WAIT_SECONDS)
        return Answer([Recommendation(f"{k:0256}", 0.0) for k in range(top_n)], 1, 0.0)

    def call(self) -> socket.socket:
        """A new connection that has a place."""
        before = self.made
        caller = socket.create_connection(("127.0.0.1", self.door.port), timeout=WAIT_SECONDS)
        wait_for(lambda: self.made > before)
        return caller

    def probe(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.door.port}/healthz", timeout=WAIT_SECONDS) as reply:
            return int(reply.status)

    @property
    def made(self) -> int:
        """Connections accepted so far."""
        return Counted.made

    @property
    def open(self) -> list[Counted]:
        return [each for each in self.door._listener._server.server_state.connections if isinstance(each, Counted)]


class Counted(callers.Caller):
    """Counts, so that a test need not guess when a connection has been accepted."""

    made = 0

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        Counted.made += 1


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(listening, "Caller", Counted)
    running = Door()
    yield running
    running.gate.set()
    running.door.close()


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_cut(caller: socket.socket) -> bool:
    """Whether the other side has ended the connection; answers that have come are read away."""
    caller.setblocking(False)
    try:
        while caller.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_limits() -> None:
    """What the documents say; and no answer takes as long as its caller may be silent."""
    assert (callers.SILENT_SECONDS, callers.PLACES_MAX) == (15, 256)
    assert api.RECOMMEND_SECONDS * 2 < callers.SILENT_SECONDS


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", ASK], ids=["silent", "begun", "kept"])
def test_silence(door: Door, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    """A caller that sends nothing, half a request, or nothing more after its answer is cut off."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 0.5)
    with door.call() as caller:
        with suppress(ConnectionError):  # cut already, where the machine is that busy
            caller.sendall(begun)

        wait_for(lambda: is_cut(caller))
    assert door.open == []


def test_one_byte_at_a_time(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that come one by one buy no time: only a whole request does."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 1.0)
    with door.call() as caller:
        with suppress(ConnectionError):
            caller.sendall(ASK[:-2] + b"x-slow: ")

        def is_cut_while_sending() -> bool:
            with suppress(ConnectionError):
                caller.send(b"a")
            return is_cut(caller)

        wait_for(is_cut_while_sending)


def test_answers_left_unread(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that asks and never reads is cut off, whatever lies ready for it."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 0.5)
    with door.call() as caller:
        caller.setblocking(False)

        def is_refused() -> bool:
            try:
                caller.send(ASK * 100)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return False

        wait_for(is_refused)


def test_requests_and_answers_give_time(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that goes on asking keeps its place: each request, and each answer, counts anew."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 600.0)
    with door.call() as caller:
        (served,) = door.open
        for _ in range(3):
            door.gate.clear()
            before = served.since
            caller.sendall(ASK)
            wait_for(lambda before=before: served.is_served() and served.since > before)  # type: ignore[misc]
            asked = served.since
            door.gate.set()
            wait_for(lambda asked=asked: not is_cut(caller) and served.since > asked)  # type: ignore[misc]


def test_more_callers_than_places(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sit there in silence, the next is served; those who have waited longest make room."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 600.0)
    with ExitStack() as stack:
        silent = [stack.enter_context(door.call()) for _ in range(callers.PLACES_MAX + 40)]
        answered = door.probe()
        wait_for(lambda: sum(map(is_cut, silent)) == 41)

        assert answered == 200
        assert [is_cut(each) for each in silent[:41]] == [True] * 41
        assert len(door.open) <= callers.PLACES_MAX


def test_served_keep_their_place(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer keeps the place as long as somebody else sits there without a request."""
    monkeypatch.setattr(callers, "SILENT_SECONDS", 600.0)
    monkeypatch.setattr(callers, "PLACES_MAX", 2)
    door.gate.clear()
    with door.call() as asking:
        asking.sendall(ASK)
        wait_for(lambda: any(each.is_served() for each in door.open))
        with door.call() as silent, door.call():
            wait_for(lambda: is_cut(silent))
            door.gate.set()
            asking.settimeout(WAIT_SECONDS)

            assert asking.recv(15) == b"HTTP/1.1 200 OK"
