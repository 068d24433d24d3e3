"""From one version of the chart to the next: what stays, and what alone may differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import identity
from tests.chart.chart import CHART, EXAMPLES, Manifest, container, example, learner, only, render, rendered, with_

VERSIONS = sorted(path.stem for path in identity.FOLDER.glob("*.json"))
TOLD_BY_VERSION = ("helm.sh/chart", "app.kubernetes.io/version", "image")


@pytest.fixture(scope="module")
def next_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it will be when nothing but its version and the image's has changed."""
    chart = tmp_path_factory.mktemp("next") / "headrace"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": "9.9.9", "appVersion": "9.9.8"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    return chart


def flat(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf with its path; entries of a list by name where they have one."""
    if isinstance(part, dict) and part:
        for name, value in part.items():
            yield from flat(value, (*path, name))
    elif isinstance(part, list) and part:
        for number, value in enumerate(part):
            named = value.get("name", str(number)) if isinstance(value, dict) else str(number)
            yield from flat(value, (*path, named))
    else:
        yield path, part


def differing(old: list[Manifest], new: list[Manifest]) -> set[tuple[str, ...]]:
    """Paths at which two renderings differ, kind and name first."""
    one, other = (
        {p: v for each in side for p, v in flat(each, (each["kind"], each["metadata"]["name"]))} for side in (old, new)
    )
    return {path for path in one.keys() | other.keys() if one.get(path, ...) != other.get(path, ...)}


def test_the_present_version_is_on_record() -> None:
    """`python -m tests.chart.identity` once for each version, before it is released."""
    assert identity.version() in VERSIONS


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("version", VERSIONS)
def test_identities_stay(version: str, name: str) -> None:
    """What a released version made is still made, under the same name, with the same selectors, claims and peers."""
    before = json.loads((identity.FOLDER / f"{version}.json").read_text())[name]
    now = json.loads(json.dumps(identity.identities(name)))

    assert {each: now.get(each) for each in before} == before


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_new_version_changes_what_tells_it_and_nothing_else(name: str, next_version: Path) -> None:
    """Labels that say the version, and the image's tag. Nothing in a pod, a selector or a claim but the image."""
    paths = differing(rendered(name), rendered(name, chart=next_version))

    assert {path[-1] for path in paths} == set(TOLD_BY_VERSION)
    assert [path for path in paths if path[0] == "StatefulSet" and path[2] == "spec" and path[-1] != "image"] == []


def test_the_charts_version_restarts_nobody(next_version: Path) -> None:
    """With the image pinned, the learner's pod is the same to the letter."""
    values = with_(example("embedded"), {"image": {"tag": "1.0"}})

    assert learner(render(values, chart=next_version)) == learner(render(values))


def test_a_setting_changes_its_variable_alone() -> None:
    """In every pod that has it, and in nothing else."""
    paths = differing(
        rendered("strimzi"),
        render(
            with_(example("strimzi"), {"settings": {"HEADRACE_LOG_LEVEL": "debug"}}), apis=["monitoring.coreos.com/v1"]
        ),
    )

    assert {path[-2:] for path in paths} == {("HEADRACE_LOG_LEVEL", "name"), ("HEADRACE_LOG_LEVEL", "value")}
    assert {path[0] for path in paths} == {"StatefulSet", "Job", "CronJob"}


def test_a_drain_changes_the_patience_with_it() -> None:
    paths = differing(
        rendered("embedded"),
        render(
            with_(example("embedded"), {"settings": {"HEADRACE_STREAM_DRAIN_SECONDS": 90}}),
            apis=["monitoring.coreos.com/v1"],
        ),
    )

    assert {path[-1] for path in paths if path[0] == "StatefulSet"} == {"value", "terminationGracePeriodSeconds"}


def test_claims_know_no_version() -> None:
    """A claim's template cannot be changed: it has the selector's labels, and not the chart's version."""
    claim = only(rendered("directory"), "StatefulSet")["spec"]["volumeClaimTemplates"][0]
    selector = only(rendered("directory"), "StatefulSet")["spec"]["selector"]["matchLabels"]

    assert claim["metadata"]["labels"] == selector


def test_the_image_is_the_charts_own_version() -> None:
    """Chart, image and package are released together, under one number."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()

    assert f'\nversion = "{about["appVersion"]}"\n' in project
    assert container(learner(rendered("embedded")))["image"].endswith(f":{about['appVersion']}")
