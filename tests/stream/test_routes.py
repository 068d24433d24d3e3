"""No route changes anything without a token: whatever routes there are, now or later, each is tried without one."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from stream import api, versions
from stream.admin import AdminConfig, AdminDoor, Desk
from stream.api import Answer, Health, HttpConfig, HttpDoor
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from tests.fakes import MemoryStore

READS = {"GET", "HEAD"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEADRACE"]


class Door:
    """A running door, and the application behind its guard."""

    def __init__(self) -> None:
        health = Health(live=True, ready=True)
        self.door: HttpDoor | AdminDoor
        self.door = HttpDoor(HttpConfig(port=0), PrometheusMeter(), lambda: health, lambda *_: Answer([], 1, 0.0))
        self.port = self.door.start()
        self.app = self.door._listener._server.config.app._app  # type: ignore[union-attr]

    @property
    def routes(self) -> list[Route]:
        """All that can be asked for. Raises where something answers that is no plain route, as a mounted app would."""
        assert isinstance(self.app, Starlette)
        assert all(isinstance(route, Route) for route in self.app.routes)
        return [route for route in self.app.routes if isinstance(route, Route)]

    def ask(self, method: str, path: str, headers: dict[str, str]) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code

    def unguarded(self) -> list[str]:
        """What may change something and lets in who has no token, or any token."""
        nobody: list[dict[str, str]] = [{}, {"authorization": "Bearer "}, {"authorization": "Bearer guessed"}]
        return [
            f"{method} {route.path}"
            for route in self.routes
            for method in METHODS
            if method not in READS
            for headers in nobody
            if self.ask(method, route.path, headers) not in {401, 403, 405}
        ]


class Admin(Door):
    """The admin door, with a token that is not guessed."""

    def __init__(self) -> None:
        store, layout = MemoryStore(), Layout("pre", "main")
        desk = Desk(
            lambda request: versions.ask(store, layout, request),
            lambda: versions.newest(store, layout),
            lambda: versions.overview(store, layout),
            lambda: None,
        )
        self.door = AdminDoor(AdminConfig("127.0.0.1", 0, "a token of many letters"), desk)
        self.port = self.door.start()
        self.app = self.door._listener._server.config.app

    def told(self) -> list[str]:
        """What is told to those who have no token."""
        return [
            f"{method} {route.path}"
            for route in self.routes
            for method in READS
            if self.ask(method, route.path, {}) != 401
        ]


@pytest.fixture
def door() -> Iterator[Door]:
    running = Door()
    yield running
    running.door.close()


def test_no_route_changes_anything_without_a_token(door: Door) -> None:
    """Every method but GET and HEAD is refused on every route there is."""
    assert {route.path for route in door.routes} >= {"/metrics", "/healthz", "/readyz", "/v1/recommend"}
    assert door.unguarded() == []


def test_the_admin_door_tells_nobody_anything_without_a_token() -> None:
    """Neither what changes something nor what only tells."""
    admin = Admin()
    try:
        assert {route.path for route in admin.routes} == {"/v1/retrain", "/v1/models"}
        assert admin.unguarded() == []
        assert admin.told() == []
    finally:
        admin.door.close()


def test_unguarded_route_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees a route that somebody adds and forgets to guard."""

    async def pause(_request: Request) -> Response:
        return Response("paused")

    make = api._make_app

    def with_another(*given: object) -> ASGIApp:
        made = make(*given)  # type: ignore[arg-type]
        made._app.router.routes.append(Route("/v1/pause", pause, methods=["POST"]))  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(api, "_make_app", with_another)
    careless = Door()
    try:
        assert set(careless.unguarded()) == {"POST /v1/pause"}
    finally:
        careless.door.close()
