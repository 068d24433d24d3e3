"""Alert and recording rules: right to promtool, about metrics that exist, tried both ways, each with its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.metrics import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/headrace/rules/headrace.rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")
OTHERS = {"process_start_time_seconds"}
"""Of the process itself: prometheus-client's."""
SUFFIXES = {"counter": [""], "gauge": [""], "info": [""], "histogram": ["_bucket", "_count", "_sum"]}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


@pytest.mark.parametrize(
    "asked", [["check", "rules", str(RULES)], ["test", "rules", str(CASES)]], ids=["check", "test"]
)
def test_promtool(asked: list[str]) -> None:
    """Well formed; and each alert rings in its case and is silent in the other, with the words it should say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is absent: apt-get install -y --no-install-recommends prometheus")
    done = subprocess.run([promtool, *asked], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_is_tried_both_ways() -> None:
    """A rule that was never seen to ring may never ring, and one never seen silent may always."""
    tried: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            tried.setdefault(expected["alertname"], set()).add(bool(expected.get("exp_alerts")))

    assert tried == {alert["alert"]: {True, False} for alert in alerts()}


def exposed() -> set[str]:
    """Names of all series that the service's own metrics have."""
    return {f"{metric.name}{suffix}" for metric in METRICS for suffix in SUFFIXES[metric.kind]}


def test_metrics_exist() -> None:
    """No rule asks for a metric that the service does not have, or that no rule records."""
    known = exposed()
    known |= {rule["record"] for rule in rules() if "record" in rule} | OTHERS
    asked = {name for rule in rules() for name in re.findall(r"\b(?:headrace|process)[a-z0-9_:]+", rule["expr"])}

    assert asked - known == set()
    assert len(asked) > 30


def test_each_has_a_runbook() -> None:
    """The annotation names a section that says what it means, where to look, what to do, when to ignore it."""
    page = (ROOT / "docs/runbooks.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))

    assert sections.keys() == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        name = alert["alert"]
        assert alert["annotations"]["runbook"] == f"{name} in docs/runbooks.md of the repository"
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        for word in ("**Means**", "**Look", "do**" if "**Look and do**" in sections[name] else "**Do", "**Ignore**"):
            assert word in sections[name], (name, word)
