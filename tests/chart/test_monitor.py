"""The one alert that the chart words by itself: each learner that should be there is missed by its own name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.chart import LEAST, SPACE, only, render, rendered, with_

SWITCHES = {"rules": {"enabled": True}, "serviceMonitor": {"enabled": True}}


def test_a_missing_shard_rings(tmp_path: Path) -> None:
    """promtool, on the rendered rules: two of three are scraped; the alert names the third, and nobody else."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is absent: apt-get install -y --no-install-recommends prometheus")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(only(rendered("shards"), "PrometheusRule")["spec"]))
    lost, words = f"{SPACE}/headrace-music-0", "Prometheus has found no {} for five minutes."
    there = [f'headrace_build_info{{instance="{SPACE}/headrace-{name}-0"}}' for name in ("books", "film")]
    case = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": "1x30"} for series in there],
                "alert_rule_test": [
                    {
                        "alertname": "HeadraceAbsent",
                        "eval_time": "10m",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "critical", "instance": lost},
                                "exp_annotations": {
                                    "summary": "No Headrace is scraped",
                                    "description": words.format(lost),
                                    "runbook": "HeadraceAbsent in docs/runbooks.md of the repository",
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "case.yaml")], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("scraped", "expression"),
    [(True, 'absent(headrace_build_info{instance="clicks/headrace-0"})'), (False, "absent(headrace_build_info)")],
)
def test_by_name_only_where_the_chart_gives_the_name(scraped: bool, expression: str) -> None:  # noqa: FBT001
    """Who scrapes by other means names targets in another way: any service will do then."""
    parts = {**SWITCHES, "serviceMonitor": {"enabled": scraped}}
    rule = only(render(with_(LEAST, {"monitoring": parts})), "PrometheusRule")
    absent = [
        each for group in rule["spec"]["groups"] for each in group["rules"] if each.get("alert") == "HeadraceAbsent"
    ]

    assert [each["expr"] for each in absent] == [expression]


def test_relabelings_of_ones_own_come_last() -> None:
    """So that they can change what the chart's made; and what was scraped can be dropped."""
    more = {
        "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
        "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "headrace_step_.*", "action": "drop"}],
    }
    parts = {**SWITCHES, "serviceMonitor": {"enabled": True, **more}}
    (endpoint,) = only(render(with_(LEAST, {"monitoring": parts})), "ServiceMonitor")["spec"]["endpoints"]

    assert endpoint["relabelings"][-1:] == more["relabelings"]
    assert [each["targetLabel"] for each in endpoint["relabelings"]] == ["instance", "shard", "node"]
    assert endpoint["metricRelabelings"] == more["metricRelabelings"]
