"""Looking into a lineage without a service, and into a service without a lineage."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from model import snapshot
from stream import api, inspect
from stream.api import Answer, Health, HttpConfig, HttpDoor
from stream.errors import ConfigError, LearnerLost, StoreRefused, StoreUnavailable
from stream.events import Recommendation
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from tests.fakes import MemoryStore
from tests.forge import Forge, flipped, grow
from tests.rigs import LAYOUT, folded


@pytest.fixture(scope="module")
def grown() -> MemoryStore:
    store = MemoryStore()
    grow(store, 200)
    return store


@pytest.fixture
def forge(grown: MemoryStore) -> Forge:
    return Forge(grown.copy())


def test_checkpoints_are_listed_newest_first(forge: Forge) -> None:
    """A row says when, how much was learned, how well, and how large it is."""
    rows = inspect.checkpoints(forge.store, LAYOUT)
    newest, model = rows[0], folded(forge.store)

    assert [row["seq"] for row in rows] == sorted((row["seq"] for row in rows), reverse=True)
    assert len(rows) == len(forge.manifests())
    assert newest["state"] == "ok"
    assert newest["events"] == forge.read(forge.manifests()[-1])["totals"]["trained"]
    assert (newest["users"], newest["items"]) == tuple(model.status()["rows"][name] for name in ("users", "items"))
    assert newest["loss"] == pytest.approx(model._learner.quality()["loss"], abs=1e-4)
    assert newest["size"] == sum(
        info.size for info in forge.store.list(LAYOUT.checkpoint(newest["seq"])) if "MANIFEST" not in info.key
    )
    assert newest["occupancy"] == model.status()["occupancy"]
    assert newest["when"] is not None
    assert json.loads(json.dumps(rows)) == rows


def test_damaged_checkpoints_are_listed_as_such(forge: Forge) -> None:
    """A MANIFEST that cannot be read, a part missing or of another size; what is half-written is no checkpoint."""
    first, second, third = forge.manifests()
    forge.store.put(first, b"{")
    forge.store.delete(forge.read(second)["parts"][0]["key"])
    forge.store.put(forge.read(third)["parts"][1]["key"], b"short")
    forge.store.put(f"{LAYOUT.checkpoint(4)}users.0123456789abcdef.safetensors", b"half")

    rows = inspect.checkpoints(forge.store, LAYOUT)[::-1]

    assert len(rows) == len(forge.manifests())
    assert rows[0]["state"].startswith(f"damaged: {first} cannot be read")
    assert rows[1]["state"] == f"damaged: {forge.read(second)['parts'][0]['key']} is missing"
    assert rows[2]["state"] == f"damaged: {forge.read(third)['parts'][1]['key']} has another size"


def test_no_parts_are_read_for_the_list(forge: Forge) -> None:
    """The list of checkpoints costs a MANIFEST each, whatever their size."""
    forge.store.calls.clear()
    inspect.checkpoints(forge.store, LAYOUT)

    read = {key for call, key in forge.store.calls if call != "list"}
    assert read == set(forge.manifests())


def test_recommendations_are_those_of_the_model(forge: Forge) -> None:
    """From the store comes what the live model would have answered."""
    live = folded(forge.store)

    answer = inspect.recommend_from_store(forge.store, LAYOUT, "u3", 5)

    assert answer.known is True
    assert answer.items == [(item.product_id, item.score) for item in live.recommend("u3", 5)]
    assert answer.model["seq"] == live.status()["seq"]


def test_unknown_user_gets_the_popular_items_and_is_told(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody's answer is passed off as personal."""
    live = folded(forge.store)

    answer = inspect.recommend_from_store(forge.store, LAYOUT, "nobody", 3)
    inspect.show(answer, {}, as_json=False)

    assert answer.known is False
    assert answer.items == [(item.product_id, item.score) for item in live.recommend("nobody", 3)]
    assert "nobody is not known to the model: these are the most popular items." in capsys.readouterr().out


def test_damaged_checkpoint_is_passed_over(forge: Forge) -> None:
    """The newest checkpoint that verifies answers, bit by bit as it was written."""
    newest, before = forge.manifests()[-1], forge.manifests()[-2]
    part = max(forge.read(newest)["parts"], key=lambda each: each["size"])["key"]
    forge.store.put(part, flipped(forge.store.get(part).data))

    answer = inspect.recommend_from_store(forge.store, LAYOUT, "u3", 5)

    assert answer.model["seq"] == forge.read(before)["seq"]


def test_all_checkpoints_damaged_is_an_error(forge: Forge) -> None:
    """Then nothing is answered, and the error says what to do."""
    for key in forge.manifests():
        forge.store.put(key, b"{")

    with pytest.raises(StoreRefused, match=r"none of the .*headrace verify"):
        inspect.recommend_from_store(forge.store, LAYOUT, "u3", 5)


def test_checkpoint_of_another_format_is_passed_over(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that this version cannot read is an error for a person, not a crash."""
    monkeypatch.setattr(snapshot, "FORMAT", 99)

    with pytest.raises(StoreRefused, match="headrace verify"):
        inspect.recommend_from_store(forge.store, LAYOUT, "u3", 5)


def test_no_checkpoint_yet_is_an_error(grown: MemoryStore) -> None:
    """Asked before the first checkpoint, the command says when there will be one."""
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        inspect.recommend_from_store(grown, Layout("headrace", "other"), "u3", 5)
    assert inspect.checkpoints(grown, Layout("headrace", "other")) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.csv", "product_id,name\ni1,Milk\ni2,\n3,Bread\n"),
        ("names.jsonl", '{"product_id":"i1","name":"Milk"}\n{"product_id":"3","name":"Bread","more":1}\n'),
    ],
)
def test_names_stand_beside_ids(
    tmp_path: Path, name: str, content: str, forge: Forge, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names come from the file that the caller gives; an item without one keeps its id."""
    path = tmp_path / name
    path.write_text(content)
    names = inspect.load_names(path)
    answer = inspect.recommend_from_store(forge.store, LAYOUT, "u3", 30)

    inspect.show(answer, names, as_json=False)
    table = capsys.readouterr().out
    inspect.show(answer, names, as_json=True)
    printed = json.loads(capsys.readouterr().out)

    assert names == {"i1": "Milk", "3": "Bread"}
    assert "Milk" in table
    assert {item["product_id"]: item["name"] for item in printed["items"]}["i1"] == "Milk"
    assert [(item["product_id"], item["score"]) for item in printed["items"]] == answer.items


@pytest.fixture
def running() -> Iterator[tuple[str, dict[str, Any]]]:
    """The real HTTP door before a small model; its address, and a place to make the model fail."""
    trouble: dict[str, Any] = {}

    def recommend(user: str, top_n: int) -> Answer:
        if "error" in trouble:
            raise trouble["error"]
        time.sleep(trouble.get("sleep", 0))
        return Answer([Recommendation(f"{user} {place}", -place) for place in range(top_n)], 7, 1.5)

    meter = PrometheusMeter()
    door = HttpDoor(HttpConfig(port=0), meter, lambda: Health(live=True, ready=True), recommend)
    yield f"http://127.0.0.1:{door.start()}", trouble
    door.close()


def test_running_service_answers(running: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """A user whose id needs quoting, the items in order, the model's number and age."""
    answer = inspect.recommend_from_service(running[0] + "/", "a & b/ü", 2)
    inspect.show(answer, {}, as_json=False)

    assert answer.items == [("a & b/ü 0", 0.0), ("a & b/ü 1", -1.0)]
    assert answer.model == {"seq": 7, "age_seconds": 1.5, "version": 1}
    assert answer.known is None
    assert "The model had learned plan 7, 2 s ago." in capsys.readouterr().out


def test_refused_question_says_why(running: tuple[str, dict[str, Any]]) -> None:
    """What the service says of a bad question reaches the person who asked it."""
    with pytest.raises(ConfigError, match=f"n must be a whole number from 1 to {api.ITEMS_MAX}"):
        inspect.recommend_from_service(running[0], "u1", api.ITEMS_MAX + 1)


def test_service_in_trouble_says_so(running: tuple[str, dict[str, Any]]) -> None:
    """An error of the service that may pass is told as one, with its reason."""
    running[1]["error"] = LearnerLost("the learner is gone")

    with pytest.raises(StoreUnavailable, match=r"503.*the learner is gone.*Try again"):
        inspect.recommend_from_service(running[0], "u1", 3)


def test_slow_service_is_not_waited_for(running: tuple[str, dict[str, Any]]) -> None:
    """The caller's patience has an end."""
    running[1]["sleep"] = 2
    started = time.monotonic()

    with pytest.raises(StoreUnavailable, match="no answer"):
        inspect.recommend_from_service(running[0], "u1", 3, timeout_seconds=0.2)
    assert time.monotonic() - started < 1.5


def test_absent_service_is_an_error() -> None:
    """Nobody listens there: the error says what to start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(StoreUnavailable, match="headrace run"):
        inspect.recommend_from_service(f"http://127.0.0.1:{port}", "u1", 3)


@pytest.mark.parametrize("url", ["localhost:8080", "file:///etc/passwd", "http://", ""])
def test_no_address_of_a_service(url: str) -> None:
    """Only http and https addresses are asked."""
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        inspect.recommend_from_service(url, "u1", 3)


@pytest.mark.parametrize("body", [b"<html>", b'{"items": 1}', b"[]", b'{"items":[{"product_id":"a"}],"model":{}}'])
def test_another_program_at_that_port(body: bytes) -> None:
    """Whatever else answers there is recognised as not being Headrace."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ConfigError, match="right port"):
            inspect.recommend_from_service(f"http://127.0.0.1:{server.server_port}", "u1", 3)
        thread.join()
