"""The log: one line each, readable by the one it is for, and no secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
import structlog
from pydantic import SecretStr

from stream.log import configure

SECRET = 'pl"anted-secret'
early = structlog.get_logger()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def written(
    style: Literal["console", "json"], level: Literal["debug", "info", "warning", "error"] = "info"
) -> io.StringIO:
    out = io.StringIO()
    configure(level, style, [SECRET, "abc"], out)
    return out


def entries(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_lines() -> None:
    """One JSON object a line: event first, then level and UTC time, then the fields with their types."""
    out = written("json")
    early.info("batch learned", seq=7, loss=0.5, rows={"items": 3})
    line = entries(out)[0]

    assert list(line) == ["event", "level", "time", "seq", "loss", "rows"]
    assert line | {"time": ""} == {
        "event": "batch learned",
        "level": "info",
        "time": "",
        "seq": 7,
        "loss": 0.5,
        "rows": {"items": 3},
    }
    age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
    assert abs(age.total_seconds()) < 5


def test_console_line() -> None:
    """For people: one line with what happened and the fields, without colours where no terminal is."""
    out = written("console")
    early.warning("store is slow", seconds=2.5)
    text = out.getvalue()

    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "warning" in text
    assert "store is slow" in text
    assert "seconds=2.5" in text


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_secret_is_written(style: Literal["console", "json"]) -> None:
    """Planted secrets are masked in text, fields, nested values, URLs, tracebacks and what libraries log."""
    out = written(style)
    early.info(f"connecting with {SECRET}", other=SECRET, nested={"deep": [SECRET]}, held=SecretStr("in-a-secret-str"))
    early.info("by name", sasl_password="unknown-one", access_key="unknown-two", headers={"x": 1})
    early.info("by url", endpoint="http://user:unknown-three@host:9000/x")
    logging.getLogger("some.library").warning("login %s failed", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        early.exception("it failed")
    text = out.getvalue()

    for secret in ("anted-secret", "in-a-secret-str", "unknown-one", "unknown-two", "unknown-three"):
        assert secret not in text
    assert "host:9000" in text
    assert "ValueError" in text
    assert "headers" in text


def test_short_secret_masks_nothing_else() -> None:
    """A secret of three letters is not hunted in all text."""
    out = written("json")
    early.info("abcdef")

    assert entries(out)[0]["event"] == "abcdef"


def test_levels() -> None:
    """What is below the level is not written, be it ours or a library's."""
    out = written("json", "warning")
    early.info("no")
    early.warning("yes")
    logging.getLogger("some.library").info("no")
    logging.getLogger("some.library").error("yes too")

    assert [entry["event"] for entry in entries(out)] == ["yes", "yes too"]


def test_chatty_libraries() -> None:
    """At info, what the Kafka and S3 clients say at info stays away; their warnings come through as JSON."""
    out = written("json")
    logging.getLogger("kafka.conn").info("chatter")
    logging.getLogger("botocore.auth").warning("matter %d", 1)

    assert [(entry["event"], entry["level"]) for entry in entries(out)] == [("matter 1", "warning")]


def test_kafka_client_repeats_itself() -> None:
    """While a broker is away, Kafka's client is heard once per module, not several times a second; others always."""
    out = io.StringIO()
    configure("info", "json", [], out)
    for _ in range(5):
        logging.getLogger("kafka.client").error("Connection failed")
        logging.getLogger("kafka.other").warning("Bootstrap failed")
        logging.getLogger("another").error("Connection failed")

    told = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert (told.count("Connection failed"), told.count("Bootstrap failed")) == (1 + 5, 1)


def test_context() -> None:
    """What is bound to the context, such as the lineage, is on every line."""
    out = written("json")
    structlog.contextvars.bind_contextvars(lineage="main")
    early.info("one")

    assert entries(out)[0]["lineage"] == "main"


def test_odd_values() -> None:
    """Values that JSON has not, and text that is no UTF-8, break no line."""
    out = written("json")
    early.info("odd", object=object(), raw=b"\xff\x00", text="\ud800 line\nbreak")
    early.info("no number", loss=float("nan"))
    early.info("no text", rows={(1, 2): 3})
    out.getvalue().encode(errors="strict")

    assert [entry["event"] for entry in entries(out)] == ["odd", "no number", "no text"]
    assert entries(out)[1]["loss"] == "nan"


def test_configured_again() -> None:
    """A second call replaces the first: no line is doubled."""
    first, second = written("json"), written("json")
    early.info("once")

    assert (first.getvalue(), len(entries(second))) == ("", 1)


def test_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines go to standard error; standard output belongs to results."""
    configure("info", "json")
    early.info("here")
    captured = capsys.readouterr()

    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "here"
