"""Dashboards: what is committed is what the source makes; each panel is explained, in place, and shows something."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from helm import dashboards
from stream.demo.data import purchases
from stream.metrics import METRICS
from tests.chart.test_rules import RULES, SUFFIXES, alerts
from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.prometheus import Prometheus, prometheus
from tests.servers.s3 import S3Server
from tests.services.installation import Run

SERIES_MAX = 40
"""More lines than that in one picture nobody reads, and a browser draws slowly."""
PROCESS = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_start_time_seconds",
}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each with the name of its dashboard."""
    for name in dashboards.BOARDS:
        yield from ((name, panel) for panel in dashboards.board(name)["panels"])


def queries() -> list[tuple[str, str]]:
    """(dashboard / panel, query), with what a browser would fill in."""
    filled = {"$job": ".+", "$instance": ".+", "$__rate_interval": "30s"}
    found = []
    for name, panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in filled.items():
                query = query.replace(variable, value)
            found.append((f"{name} / {panel['title']}", query))
    return found


@pytest.mark.parametrize("name", dashboards.BOARDS)
def test_committed_is_what_the_source_makes(name: str) -> None:
    """After a change: `python helm/dashboards.py`."""
    assert json.loads((dashboards.FOLDER / f"{name}.json").read_text()) == dashboards.board(name)


def test_each_panel_is_explained_and_in_its_place() -> None:
    """A description, a unit, a runbook that exists where one is named; and no panel covers another."""
    names = {alert["alert"].lower() for alert in alerts()}
    for name, panel in panels():
        assert panel["description"], (name, panel["title"])
        assert panel["fieldConfig"]["defaults"]["unit"], (name, panel["title"])
        for link in panel.get("links", []):
            assert link["url"].partition("#")[2] in names, link
    for name in dashboards.BOARDS:
        places = [panel["gridPos"] for panel in dashboards.board(name)["panels"]]
        assert all(place["x"] + place["w"] <= dashboards.WIDTH for place in places)
        assert not any(covers(a, b) for a, b in combinations(places, 2)), name


def test_metrics_exist() -> None:
    """No panel asks for a metric that the service does not have."""
    known = {f"{metric.name}{suffix}" for metric in METRICS for suffix in SUFFIXES[metric.kind]} | PROCESS
    asked = {name for _, query in queries() for name in re.findall(r"\b(?:headrace|process)_[a-z0-9_]+", query)}

    assert asked - known == set()


@pytest.mark.services
def test_every_panel_shows_something(kafka_broker: KafkaBroker, s3_server: S3Server, tmp_path: Path) -> None:
    """A real Prometheus on a service that learns real purchases: each query gives data, and not too many lines."""
    (port,) = process.free_ports(1)
    run = Run(kafka_broker.topic(4), s3_server.fresh_bucket(), kafka_broker, s3_server, tmp_path, port)
    clicks = purchases(tmp_path, 8_000, 1).path
    assert run.command("produce", str(clicks), "--json").returncode == 0
    run.start()
    try:
        with prometheus(tmp_path, f"127.0.0.1:{port}", RULES) as monitor:
            run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
            assert run.page("/v1/recommend?user=1")[0] == 200
            time.sleep(5)  # rates want a few samples
            assert {name for name, query in queries() if not shows(monitor, query)} == set()
            unwell = [(rule["name"], rule["lastError"]) for rule in monitor.rules() if rule["health"] == "err"]
            assert unwell == []
    finally:
        if run.running is not None:
            run.running.kill()
            run.running.wait()


def shows(monitor: Prometheus, query: str) -> bool:
    """Whether it gives data within half a minute. AssertionError when it gives too many series."""
    deadline = time.monotonic() + 30
    while not (found := monitor.query(query)) and time.monotonic() < deadline:
        time.sleep(1)
    assert len(found) <= SERIES_MAX, (query, len(found))
    return bool(found)


def covers(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
