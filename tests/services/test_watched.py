"""The service as it is watched: a real Prometheus scrapes it, knows its rules, and answers what the dashboards ask."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from stream.demo.data import purchases
from tests.chart.chart import SPACE, of_kind, only, rendered
from tests.chart.operator import scrape_config, target
from tests.chart.test_dashboards import events, queries
from tests.chart.test_rules import RULES
from tests.servers.prometheus import Prometheus, plain, prometheus
from tests.services.installation import Run

pytestmark = pytest.mark.services

SCRAPED_MAX = 500
"""Samples of one scrape: see test_metrics.test_cardinality_is_bounded."""
STEP = 5
"""Seconds between the points at which events are asked for: more than a scrape."""
SERIES_MAX = 40
"""More lines than that in one picture nobody reads, and a browser draws slowly."""


def test_every_panel_shows_something(run: Run, tmp_path: Path) -> None:
    """While it learns real purchases each query gives data (but what asks about an hour ago), and not too many lines;
    and no rule is unwell. What happened is marked once each: the start, the end of the retrain, and that another
    version serves.
    """
    clicks = purchases(tmp_path, 8_000, 1).path
    assert run.command("produce", str(clicks), "--json").returncode == 0
    run.changes = {"HEADRACE_RETRAIN_PROOF_SECONDS": "5", "HEADRACE_MODEL_EPOCHS": "1"}
    run.start()
    begun = time.time()
    with prometheus(tmp_path, [plain(f"127.0.0.1:{run.port}")], RULES) as monitor:
        run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
        assert run.page("/v1/recommend?user=1")[0] == 200
        assert run.command("retrain", "--wait").returncode == 0
        time.sleep(5)  # rates want a few samples
        soon = [(name, query) for name, query in queries() if "offset 1h" not in query]
        assert {name for name, query in soon if not shows(monitor, query)} == set()
        assert unwell(monitor) == []
        other = 1 if run.metric("headrace_model_version") == 2 else 2
        assert run.command("models", "promote", str(other)).returncode == 0
        run.wait_for(lambda: run.metric("headrace_model_version") == other)
        time.sleep(2 * STEP)
        marks = {name: monitor.marks(query, begun, STEP) for name, query in events(f"{STEP}s").items()}
        promotions = 2 if other == 1 else 1  # the retrain's own, if it was the better one
        assert {name: len(found) for name, found in marks.items() if name != "Alarms"} == {
            "Starts": 1,
            "Learner lost": 0,
            "Promotions": promotions,
            "Retrains": 1,
        }
        (scraped,) = monitor.query("max_over_time(scrape_samples_scraped[1m])")
        assert 200 < float(scraped["value"][1]) < SCRAPED_MAX


def test_as_the_chart_has_it_watched(run: Run, tmp_path: Path) -> None:
    """By the ServiceMonitor and the rules of the chart, two of three shards there: each learner is one series by its
    pod's name and its shard, whatever else its Services and the pod's ports offer; and the third is missed by name.
    """
    manifests = rendered("shards")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(only(manifests, "PrometheusRule")["spec"]))
    here = [service for service in of_kind(manifests, "Service") if "film" not in service["metadata"]["name"]]
    address = f"127.0.0.1:{run.port}"
    targets = [
        target(address, SPACE, service, f"{service['metadata']['name'].removesuffix('-headless')}-0", port)
        for service in here
        for port in ("http", "admin")
    ]
    assert run.command("produce", str(purchases(tmp_path, 4_000, 1).path), "--json").returncode == 0
    run.start()
    with prometheus(tmp_path, [scrape_config(only(manifests, "ServiceMonitor"), targets)], rules) as monitor:
        run.wait_for(lambda: run.metric("headrace_learned_seq") > 2)
        run.wait_for(lambda: len(monitor.query("headrace_model_info")) == 2)
        found = [series["metric"] for series in monitor.query("headrace_build_info")]
        names = ("job", "namespace", "instance", "shard", "service")
        assert sorted([each[name] for name in names] for each in found) == [
            ["headrace", SPACE, f"{SPACE}/headrace-{shard}-0", shard, f"headrace-{shard}-headless"]
            for shard in ("books", "music")
        ]
        run.wait_for(lambda: bool(missed(monitor)))
        assert missed(monitor) == [f"{SPACE}/headrace-film-0"]
        for chosen in ({}, {"shard": "books"}, {"version": "1"}):
            for _, query in queries(**chosen):
                shards = {series["metric"].get("shard") for series in monitor.query(query)}
                assert shards <= ({"books"} if "shard" in chosen else {"books", "music"}), query
        assert rank(monitor, version="1") == 2
        assert rank(monitor, version="2") == 0
        assert unwell(monitor) == []


def rank(monitor: Prometheus, **chosen: str) -> int:
    """How many lines the model's own curve has in the picture of ranks."""
    query = next(query for name, query in queries(**chosen) if name == "overview / Rank of the next click")
    return len(monitor.query(query))


def missed(monitor: Prometheus) -> list[str]:
    """Learners that the chart's alert misses."""
    (absent,) = [rule for rule in monitor.rules() if rule["name"] == "HeadraceAbsent"]
    return [alert["labels"]["instance"] for alert in absent["alerts"]]


def unwell(monitor: Prometheus) -> list[tuple[str, str]]:
    """Rules that cannot be evaluated, and why."""
    return [(rule["name"], rule["lastError"]) for rule in monitor.rules() if rule["health"] == "err"]


def shows(monitor: Prometheus, query: str) -> bool:
    """Whether it gives data within half a minute. AssertionError when it gives too many series."""
    deadline = time.monotonic() + 30
    while not (found := monitor.query(query)) and time.monotonic() < deadline:
        time.sleep(1)
    assert len(found) <= SERIES_MAX, (query, len(found))
    return bool(found)
