"""Dashboards: what is committed is what the source makes; each panel is explained, in its place, about real metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from helm import dashboards
from tests.chart.test_rules import alerts, exposed, rules

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


def queries(**chosen: str) -> list[tuple[str, str]]:
    """(dashboard / panel, query), with what a browser would fill in: all, but of the variables `chosen`."""
    return [
        (f"{name} / {panel['title']}", filled(target["expr"], {"$__rate_interval": "30s"}, **chosen))
        for name, panel in panels()
        for target in panel["targets"]
    ]


def events(step: str) -> dict[str, str]:
    """The query of each kind of event, asked in steps of `step`."""
    asked = dashboards.board("overview")["annotations"]["list"]
    return {each["name"]: filled(each["expr"], {"$__interval": step}) for each in asked}


def filled(query: str, times: dict[str, str], **chosen: str) -> str:
    variables = {each["name"]: each.get("allValue", "") for each in dashboards.board("overview")["templating"]["list"]}
    for variable, value in (times | {f"${name}": value for name, value in (variables | chosen).items()}).items():
        query = query.replace(variable, value)
    return query


@pytest.mark.parametrize("name", dashboards.BOARDS)
def test_committed_is_what_the_source_makes(name: str) -> None:
    """After a change: `python helm/dashboards.py`."""
    assert json.loads((dashboards.FOLDER / f"{name}.json").read_text()) == dashboards.board(name)


def test_each_panel_is_explained_and_in_its_place() -> None:
    """A description, a unit, a runbook that exists where one is named; and no panel covers another."""
    names = {alert["alert"] for alert in alerts()}
    for name, panel in panels():
        assert panel["description"], (name, panel["title"])
        assert panel["fieldConfig"]["defaults"]["unit"], (name, panel["title"])
        assert set(re.findall(r"Runbook: (\w+)", panel["description"])) <= names, panel["description"]
    for name in dashboards.BOARDS:
        places = [panel["gridPos"] for panel in dashboards.board(name)["panels"]]
        assert all(place["x"] + place["w"] <= dashboards.WIDTH for place in places)
        assert not any(covers(a, b) for a, b in combinations(places, 2)), name


def test_limits_are_those_of_the_alerts() -> None:
    """A line, a colour, or a curve called alarm: each at the figure in the expression of the alert it stands for."""
    curves, lines = {}, {}
    for _, panel in panels():
        title = panel["title"]
        alert = (re.findall(r"Runbook: (\w+)", panel["description"]) or [""])[0]
        steps = [each["value"] for each in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])]
        if steps:
            assert limits(alert) & set(steps), (title, steps)
        if "thresholdsStyle" in panel["fieldConfig"]["defaults"].get("custom", {}):
            lines[title] = alert
            assert set(steps) - {None} <= limits(alert), (title, steps)
        for target in panel["targets"]:
            if "alarm" in target["legendFormat"]:
                curves[title] = alert
                assert float(target["expr"].partition(" * ")[0]) in limits(alert), target

    assert lines == {
        "From arrival to learned": "HeadraceFreshnessBudgetBurnsSlowly",
        "Drift": "HeadraceDrift",
        "Paused": "HeadraceLearningPaused",
        "Calls to the store repeated": "HeadraceStoreErrors",
    }
    assert curves == {
        "Loss": "HeadraceLossRises",
        "Tables": "HeadraceTableFull",
        "Memory": "HeadraceMemoryNearBudget",
    }


def limits(alert: str) -> set[float]:
    """What an alert compares with, and the series that are recorded for it: figures, products of two multiplied out."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    (expression,) = (rule["expr"] for rule in alerts() if rule["alert"] == alert)
    expressions = [expression, *(each for name, each in recorded.items() if name in expression)]
    found = re.findall(
        r'[<>=](?: ignoring \(\w+\))? ?"?([\d.]+)(?: \* ([\d.]+))?', " ".join(" ".join(expressions).split())
    )
    return {round(float(one) * float(other or 1), 6) for one, other in found}


def test_metrics_exist() -> None:
    """No panel and no annotation asks for a metric that the service does not have."""
    known = exposed() | PROCESS
    everything = [query for _, query in queries()] + list(events("60s").values())
    asked = {name for query in everything for name in re.findall(r"\b(?:headrace|process)_[a-z0-9_]+", query)}

    assert asked - known == set()


def covers(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
