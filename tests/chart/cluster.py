"""Work with the chart on a real API server: releases by Helm, objects by their manifests."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from tests.chart.chart import CHART, RELEASE, Manifest, helm
from tests.servers.kube.server import Kube, Refused

PATHS: Final = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "PrometheusRule": "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules",
    "RayCluster": "/apis/ray.io/v1/namespaces/{}/rayclusters",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}
FOREIGN: Final = {
    "monitoring.coreos.com": ("ServiceMonitor", "PrometheusRule"),
    "ray.io": ("RayCluster",),
}


class Space:
    """A namespace of one's own, which enforces the restricted Pod Security Standard."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.name = kube.namespace(f"t-{uuid.uuid4().hex[:8]}")

    def path(self, kind: str, name: str = "", tail: str = "") -> str:
        return "".join([PATHS[kind].format(self.name), f"/{name}" if name else "", tail])

    def get(self, kind: str, name: str) -> Manifest:
        return self.kube.get(self.path(kind, name))

    def make(self, manifest: Manifest) -> Manifest:
        return self.kube.make(self.path(manifest["kind"]), manifest)

    def secret(self, name: str, **data: str) -> None:
        self.make({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    def names(self, kind: str) -> set[str]:
        """Of the objects of the release; none where the cluster does not know the kind."""
        try:
            found = self.kube.get(f"{self.path(kind)}?labelSelector=app.kubernetes.io/name=headrace")["items"]
        except Refused:
            return set()
        return {each["metadata"]["name"] for each in found}

    def all_names(self) -> set[str]:
        """Of every kind that the chart makes."""
        return {f"{kind}/{name}" for kind in PATHS for name in self.names(kind)}

    def helm(self, *argv: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Helm in this namespace."""
        more = [] if values is None else ["--values", "-"]
        where = ["--kubeconfig", str(self.kube.kubeconfig), "--namespace", self.name]
        return helm(*argv, *where, *more, given=json.dumps(values or {}))

    def install(self, values: Mapping[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
        """Without hooks, unless `more` is told otherwise: nothing here runs a Job."""
        return self.helm("install", RELEASE, str(CHART), *(more or ["--no-hooks"]), values=values)

    def upgrade(self, values: Mapping[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
        return self.helm("upgrade", RELEASE, str(CHART), *(more or ["--no-hooks"]), values=values)

    def bare(self, maker: str, pod: Manifest) -> Manifest:
        """The pod that a controller would make of a template, admitted as it would be. Raises Refused."""
        name = "".join(letter if letter.isalnum() else "-" for letter in maker.lower())
        spec = dict(pod["spec"])
        claims = {each["name"] for each in spec["containers"][0].get("volumeMounts", [])}
        claims -= {each["name"] for each in spec.get("volumes", [])}
        spec["volumes"] = [
            *spec.get("volumes", []),
            *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
        ]
        metadata = {**pod.get("metadata", {}), "name": name, "namespace": self.name}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        return self.kube.make(f"{self.path('Pod')}?dryRun=All", whole)


def know(kube: Kube, group: str) -> None:
    """Make the cluster know the kinds of others, as far as that they exist. Waits until it does."""
    for kind in FOREIGN[group]:
        plural = f"{kind.lower()}s"
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        spec = {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [version],
        }
        body = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": spec,
        }
        kube.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    _until(lambda: _knows(kube, group))


def forget(kube: Kube, group: str) -> None:
    """The other way round. Waits until they are gone."""
    for kind in FOREIGN[group]:
        kube.call("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.lower()}s.{group}")
    _until(lambda: not _knows(kube, group))


def _knows(kube: Kube, group: str) -> bool:
    try:
        return {each["kind"] for each in kube.get(f"/apis/{group}/v1")["resources"]} >= set(FOREIGN[group])
    except Refused:
        return False


def _until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the API server did not come to know it")
        time.sleep(0.1)


@contextmanager
def kubelet(space: Space, judge: Callable[[Manifest], int]) -> Iterator[list[str]]:
    """Stands for what runs Jobs: `judge` gets each Job's pod and answers its exit status. Yields their names."""
    seen: list[str] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            try:
                for job in space.kube.get(space.path("Job"))["items"]:
                    name = job["metadata"]["name"]
                    if job["metadata"]["uid"] not in done:
                        done.add(job["metadata"]["uid"])
                        seen.append(name)
                        _finish(space, name, judge(job["spec"]["template"]))
            except BaseException as error:  # noqa: BLE001 - it is raised where it can be seen
                failed.append(error)
                return

    done: set[str] = set()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def _finish(space: Space, name: str, status: int) -> None:
    """Write into the Job's status what a controller would, in the order in which it must be."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def condition(kind: str, reason: str) -> dict[str, str]:
        return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now, "lastProbeTime": now}

    if status == 0:
        early = [condition("SuccessCriteriaMet", "CompletionsReached")]
        last = [*early, condition("Complete", "CompletionsReached")]
        counts: dict[str, Any] = {"succeeded": 1}
        more: dict[str, Any] = {"completionTime": now}
    else:
        early = [condition("FailureTarget", "BackoffLimitExceeded")]
        last = [*early, condition("Failed", "BackoffLimitExceeded")]
        counts, more = {"failed": 1}, {}
    for conditions, also in ((early, {}), (last, more)):
        body = {"status": {"startTime": now, "conditions": conditions, **counts, **also}}
        path = space.path("Job", name, "/status")
        space.kube.call("PATCH", path, body, "application/merge-patch+json")
