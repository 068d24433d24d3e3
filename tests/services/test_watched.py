"""The service as it is watched: a real Prometheus scrapes it, knows its rules, and answers what the dashboards ask."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stream.demo.data import purchases
from tests.chart.test_dashboards import queries
from tests.chart.test_rules import RULES
from tests.servers.prometheus import Prometheus, prometheus
from tests.services.installation import Run

pytestmark = pytest.mark.services

SERIES_MAX = 40
"""More lines than that in one picture nobody reads, and a browser draws slowly."""


def test_every_panel_shows_something(run: Run, tmp_path: Path) -> None:
    """While it learns real purchases each query gives data, and not too many lines; and no rule is unwell."""
    clicks = purchases(tmp_path, 8_000, 1).path
    assert run.command("produce", str(clicks), "--json").returncode == 0
    run.changes = {"HEADRACE_RETRAIN_PROOF_SECONDS": "5", "HEADRACE_MODEL_EPOCHS": "1"}
    run.start()
    with prometheus(tmp_path, f"127.0.0.1:{run.port}", RULES) as monitor:
        run.wait_for(lambda: run.metric("headrace_checkpoint_seq") > 0)
        assert run.page("/v1/recommend?user=1")[0] == 200
        assert run.command("retrain", "--wait").returncode == 0
        time.sleep(5)  # rates want a few samples
        assert {name for name, query in queries() if not shows(monitor, query)} == set()
        unwell = [(rule["name"], rule["lastError"]) for rule in monitor.rules() if rule["health"] == "err"]
        assert unwell == []


def shows(monitor: Prometheus, query: str) -> bool:
    """Whether it gives data within half a minute. AssertionError when it gives too many series."""
    deadline = time.monotonic() + 30
    while not (found := monitor.query(query)) and time.monotonic() < deadline:
        time.sleep(1)
    assert len(found) <= SERIES_MAX, (query, len(found))
    return bool(found)
