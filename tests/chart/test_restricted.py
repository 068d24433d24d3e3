"""Every pod passes the restricted Pod Security Standard, and can run with its root read-only.

The rules stand here as the standard words them; tests/chart/test_api_server.py has the real admission judge the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chart.chart import EXAMPLES, Manifest, container, learner, pods, rendered

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def breaches(spec: Manifest) -> Iterator[str]:
    """What the standard forbids in a pod's spec, baseline and restricted, as far as a pod of this chart could do it."""
    whole = spec.get("securityContext", {})
    yield from (f"host{name}" for name in ("Network", "PID", "IPC") if spec.get(f"host{name}"))
    for volume in spec.get("volumes", []):
        yield from (f"volume {kind}" for kind in volume.keys() - {"name"} - VOLUMES)
    for each in [*spec["containers"], *spec.get("initContainers", [])]:
        own = each.get("securityContext", {})
        both = whole | own
        yield from ("hostPort" for port in each.get("ports", []) if port.get("hostPort"))
        if own.get("privileged"):
            yield "privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add", []):
            yield "capabilities"
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield "runAsNonRoot"
        if both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            yield "seccompProfile"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_is_restricted(name: str) -> None:
    """Learner, doctor, jobs, test and Ray's pods alike; and as uid and gid 10001, whose files the image has."""
    found = list(pods(rendered(name)))

    assert len(found) >= 3
    for maker, pod in found:
        assert list(breaches(pod["spec"])) == [], maker
        assert pod["spec"]["securityContext"]["runAsUser"] == pod["spec"]["securityContext"]["fsGroup"] == 10001, maker


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_root_is_read_only(name: str) -> None:
    """What must be written has its place: /tmp, /dev/shm, HOME and the cache of kernels lie on volumes."""
    for maker, pod in pods(rendered(name)):
        found = container(pod)
        assert found["securityContext"]["readOnlyRootFilesystem"] is True, maker
        if found["name"] == "test":
            continue
        places = tuple(each["mountPath"] for each in found["volumeMounts"])
        own = {each["name"]: each.get("value", "") for each in found["env"]}
        assert {"/tmp", "/dev/shm"} <= set(places), maker
        for variable in ("HOME", "TMPDIR", "NUMBA_CACHE_DIR"):
            assert own[variable].startswith(places), (maker, variable)


SINS: dict[str, Callable[[Any], object]] = {
    "hostNetwork": lambda spec: spec.update(hostNetwork=True),
    "volume hostPath": lambda spec: spec["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    "hostPort": lambda spec: spec["containers"][0]["ports"].append({"containerPort": 1, "hostPort": 1}),
    "privileged": lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
    "allowPrivilegeEscalation": lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities": lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
    "runAsNonRoot": lambda spec: spec["securityContext"].pop("runAsNonRoot"),
    "seccompProfile": lambda spec: spec["securityContext"].pop("seccompProfile"),
}


@pytest.mark.parametrize("sin", SINS)
def test_the_rules_find_a_breach(sin: str) -> None:
    """Each rule of this file was seen to say no."""
    spec = copy.deepcopy(learner(rendered("embedded"))["spec"])
    SINS[sin](spec)

    assert list(breaches(spec)) == [sin]
