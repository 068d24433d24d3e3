"""Render the chart with the real Helm, and find one's way in what comes out."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "headrace"
EXAMPLES: Final = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
MONITORING: Final = "monitoring.coreos.com/v1"
RAY: Final = "ray.io/v1"
SPACE: Final = "clicks"
KUBERNETES: Final = "1.34.0"
"""A Helm that Go built from its module takes clusters for ancient ones, unless it is told."""
RELEASE: Final = "headrace"

Manifest = dict[str, Any]
LEAST: Final[Mapping[str, Any]] = {"settings": {"HEADRACE_KAFKA_BOOTSTRAP": "kafka:9092"}}
"""What must be said in any case."""


def program() -> str:
    """Helm: HELM, or on the PATH, or fetched by `make test-chart`. Skips the test where there is none."""
    found = os.environ.get("HELM") or shutil.which("helm") or str(ROOT / ".cache" / "bin" / "helm")
    if not Path(found).is_file():
        pytest.skip("helm is absent: make test-chart fetches it with Go, or install it, or set HELM")
    return found


def helm(*argv: str, given: str = "", seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run it, `given` on its standard input, and let the caller look at how it ended."""
    return subprocess.run([program(), *argv], input=given, capture_output=True, text=True, check=False, timeout=seconds)


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text()))


def with_(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and `over` over them, as Helm puts two files together."""
    both = dict(values)
    for name, value in over.items():
        old = both.get(name)
        both[name] = with_(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return both


def template(
    values: Mapping[str, Any],
    *more: str,
    apis: Sequence[str] = (),
    release: str = RELEASE,
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    """`helm template`, however it ends. JSON is YAML too, so numbers reach Helm as they are."""
    asked = [part for api in apis for part in ("--api-versions", api)]
    where = ["--namespace", SPACE, "--kube-version", KUBERNETES]
    return _once("template", release, str(chart), *where, "--values", "-", *asked, *more, given=json.dumps(values))


# The same question has the same answer, and is asked by many tests.
_once = functools.cache(helm)


def render(values: Mapping[str, Any], **how: Any) -> list[Manifest]:
    """What the chart makes of the values, hooks included."""
    done = template(values, **how)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def refused(values: Mapping[str, Any], **how: Any) -> str:
    """What Helm says when it makes nothing of the values. Its own line breaks are taken away."""
    done = template(values, **how)
    assert done.returncode != 0, "it was rendered"
    return " ".join(done.stderr.split())


def rendered(name: str, **how: Any) -> list[Manifest]:
    """An example, on a cluster that knows everything."""
    return render(example(name), **({"apis": [MONITORING, RAY]} | how))


def of_kind(manifests: Sequence[Manifest], kind: str, *, hooks: bool = False) -> list[Manifest]:
    """Those of a kind: the chart's own, or its hooks."""
    return [each for each in manifests if each["kind"] == kind and is_hook(each) == hooks]


def only(manifests: Sequence[Manifest], kind: str, *, hooks: bool = False) -> Manifest:
    (found,) = of_kind(manifests, kind, hooks=hooks)
    return found


def is_hook(manifest: Manifest) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that will be, with the name of what makes it: its metadata and its spec."""
    for each in manifests:
        name = f"{each['kind']}/{each['metadata']['name']}"
        spec = each.get("spec", {})
        match each["kind"]:
            case "Pod":
                yield name, each
            case "StatefulSet" | "Job":
                yield name, spec["template"]
            case "CronJob":
                yield name, spec["jobTemplate"]["spec"]["template"]
            case "RayCluster":
                yield f"{name}/head", spec["headGroupSpec"]["template"]
                for group in spec["workerGroupSpecs"]:
                    yield f"{name}/{group['groupName']}", group["template"]


def container(pod: Manifest) -> Manifest:
    """The only one of a pod."""
    (found,) = pod["spec"]["containers"]
    return dict(found)


def environment(pod: Manifest) -> dict[str, Any]:
    """Variables by name: their text, or where it comes from."""
    found = {each["name"]: each.get("value", each.get("valueFrom")) for each in container(pod).get("env", [])}
    assert len(found) == len(container(pod).get("env", [])), "a name comes twice"
    return found


def learner(manifests: Sequence[Manifest]) -> Manifest:
    """The pod of the only learner."""
    return dict(only(manifests, "StatefulSet")["spec"]["template"])


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()
