"""The admin door: who may ask, what is answered, and that asking twice is asking once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stream import versions
from stream.admin import AdminConfig, AdminDoor, Desk
from stream.errors import StoreUnavailable
from stream.naming import Layout
from stream.settings.settings import Settings
from stream.versions import Request, Result, RetrainRefused
from stream.wiring import admin_desk
from tests.fakes import MemoryStore

LAYOUT = Layout("pre", "main")
TOKEN = "a token of many letters"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Asked:
    """A running door in front of a store."""

    store: MemoryStore = field(default_factory=MemoryStore)
    progress: dict[str, Any] | None = None
    port: int = 0

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str] = AUTHORIZED, body: bytes | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, headers=dict(headers), data=body
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {}


@pytest.fixture
def asked() -> Iterator[Asked]:
    found = Asked()
    desk = Desk(
        lambda request: versions.ask(found.store, LAYOUT, request),
        lambda: versions.newest(found.store, LAYOUT),
        lambda: versions.overview(found.store, LAYOUT),
        lambda: found.progress,
    )
    door = AdminDoor(AdminConfig("127.0.0.1", 0, TOKEN), desk)
    found.port = door.start()
    yield found
    door.close()


def test_a_retrain_is_asked_for(asked: Asked) -> None:
    """The request lies in the store when the answer comes, as the body says."""
    body = b'{"since": "2024-01-02T00:00:00Z", "epochs": 3, "reason": "drift"}'
    status, answer = asked("POST", "/v1/retrain", body=body)
    found = versions.read(asked.store, LAYOUT.of_version(2)).request

    assert (status, answer["version"], answer["result"]) == (202, 2, None)
    assert found is not None
    assert (found.since_ms, found.epochs, found.reason, found.by) == (
        1_704_153_600_000,
        3,
        "drift",
        "POST /v1/retrain",
    )


def test_one_at_a_time(asked: Asked) -> None:
    """While one runs another is refused, and says which; when it is over, the next one may begin."""
    assert asked("POST", "/v1/retrain")[0] == 202
    status, answer = asked("POST", "/v1/retrain")
    assert status == 409
    assert "version 2 is being trained" in answer["detail"]
    versions.close(asked.store, LAYOUT.of_version(2), Result("kept", "worse"))
    assert asked("POST", "/v1/retrain")[1]["version"] == 3


def test_the_same_key_is_the_same_retrain(asked: Asked) -> None:
    """A client that heard no answer asks again, while it runs and after."""
    headers = AUTHORIZED | {"Idempotency-Key": "cron-2024-01-02"}
    first = asked("POST", "/v1/retrain", headers)
    assert asked("POST", "/v1/retrain", headers) == first
    versions.close(asked.store, LAYOUT.of_version(2), Result("kept", "worse"))
    assert asked("POST", "/v1/retrain", headers)[1]["result"]["outcome"] == "kept"
    assert versions.numbers(asked.store, LAYOUT) == [1, 2]


def test_what_nobody_would_begin_is_not_accepted(tmp_path: Path) -> None:
    """Where nothing is trained a request would lie for ever, and keep every other one out."""
    settings = Settings.load({"store.location": str(tmp_path), "retrain.enabled": False})
    desk = admin_desk(settings, MemoryStore(), LAYOUT, lambda: None)

    with pytest.raises(RetrainRefused, match="HEADRACE_RETRAIN_ENABLED=false"):
        desk.ask(Request("a"))


def test_progress_is_shown(asked: Asked) -> None:
    """Running or not, how far, and how the last one ended."""
    assert asked("GET", "/v1/retrain")[1]["running"] is False
    versions.ask(asked.store, LAYOUT, Request("a"))
    asked.progress = {"ratio": 0.5, "doing": "epoch 2"}
    answer = asked("GET", "/v1/retrain")[1]
    assert (answer["running"], answer["version"], answer["progress"]["ratio"]) == (True, 2, 0.5)
    versions.close(asked.store, LAYOUT.of_version(2), Result("failed", "no memory"))
    answer = asked("GET", "/v1/retrain")[1]
    assert (answer["running"], answer["progress"], answer["result"]["why"]) == (False, None, "no memory")


def test_versions_are_listed(asked: Asked) -> None:
    versions.ask(asked.store, LAYOUT, Request("a"))
    answer = asked("GET", "/v1/models")[1]
    assert answer["serving"]["version"] == 1
    assert [each["version"] for each in answer["versions"]] == [2, 1]


STRANGERS: dict[str, dict[str, str]] = {
    "nothing": {},
    "another token": {"Authorization": "Bearer another token of letters"},
    "a beginning": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "empty": {"Authorization": "Bearer "},
    "no ASCII": {"Authorization": "Bearer t\u00f6ken"},
}


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/retrain"), ("GET", "/v1/retrain"), ("GET", "/v1/models")])
@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_told_nothing(asked: Asked, headers: dict[str, str], method: str, path: str) -> None:
    """Without the token nothing is begun and nothing is told, not even whether something runs."""
    status, answer = asked(method, path, headers)

    assert status == 401
    assert TOKEN not in answer["detail"]
    assert asked.store.objects == {}


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"since=2024", "a JSON object with since, epochs, reason is expected"),
    "unknown field": (b'{"epoch": 3}', "epoch"),
    "epochs is a text": (b'{"epochs": "3"}', "epochs"),
    "epochs too many": (b'{"epochs": 100000}', "epochs=100000"),
    "epochs below zero": (b'{"epochs": -1}', "epochs=-1"),
    "since is no time": (b'{"since": "yesterday"}', "since='yesterday'"),
    "since is absurd": (b'{"since": "3024-01-01T00:00:00Z"}', "since="),
    "reason too long": (b'{"reason": "' + b"x" * 2000 + b'"}', "reason"),
    "deep": (b"[" * 10_000, "expected"),
}


@pytest.mark.parametrize(("body", "said"), BAD.values(), ids=BAD)
def test_a_bad_body_is_refused_by_name(asked: Asked, body: bytes, said: str) -> None:
    status, answer = asked("POST", "/v1/retrain", body=body)

    assert status == 400
    assert said in answer["detail"]
    assert asked.store.objects == {}


def test_other_bad_requests(asked: Asked) -> None:
    assert asked("POST", "/v1/retrain", body=b" " * 20_000)[0] == 413
    assert asked("POST", "/v1/retrain", AUTHORIZED | {"Idempotency-Key": "x" * 201})[0] == 400
    assert asked("DELETE", "/v1/retrain")[0] == 405
    assert asked("GET", "/v1/other")[0] == 404
    assert asked.store.objects == {}


def test_a_store_that_is_away_is_said(asked: Asked) -> None:
    """Nothing is promised that is not written."""

    def away(_call: str, _key: str) -> None:
        raise StoreUnavailable("connection refused")

    asked.store.trouble = away
    status, answer = asked("POST", "/v1/retrain")

    assert status == 503
    assert "connection refused" in answer["detail"]
