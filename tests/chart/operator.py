"""What the Prometheus operator makes of a ServiceMonitor, for one pod behind one of its Services.

After `generateServiceMonitorConfig` in prometheus-operator's `pkg/prometheus/promcfg.go`: the relabelings that decide
what is scraped and how it is called, in the operator's order. Discovery is left out: what it would have found of the
pod and the Service stands there as labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Config = dict[str, Any]
_UNSAFE = re.compile(r"[^a-zA-Z0-9_]")


def scrape_config(monitor: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]) -> Config:
    """Prometheus's configuration for the monitor's first endpoint, once a second. `targets`: made by `target`."""
    (endpoint,) = monitor["spec"]["endpoints"]
    name = monitor["metadata"]["name"]
    return {
        "job_name": f"serviceMonitor/{monitor['metadata'].get('namespace', 'default')}/{name}/0",
        "scrape_interval": "1s",
        "metrics_path": endpoint["path"],
        "static_configs": list(targets),
        "relabel_configs": [*_selected(monitor, endpoint), *_named(monitor, endpoint)],
        "metric_relabel_configs": [_snake(each) for each in endpoint.get("metricRelabelings", [])],
    }


def target(address: str, namespace: str, service: Mapping[str, Any], pod: str, port: str) -> Config:
    """One port of a pod behind a Service, as discovery by endpoints describes it."""
    labels = service["metadata"]["labels"]
    found = {
        "namespace": namespace,
        "service_name": service["metadata"]["name"],
        "endpoint_port_name": port,
        "endpoint_address_target_kind": "Pod",
        "endpoint_address_target_name": pod,
        "pod_name": pod,
        "pod_container_name": "headrace",
        "pod_phase": "Running",
        **{f"service_label_{_safe(name)}": value for name, value in labels.items()},
        **{f"service_labelpresent_{_safe(name)}": "true" for name in labels},
    }
    return {"targets": [address], "labels": {f"__meta_kubernetes_{name}": value for name, value in found.items()}}


def _selected(monitor: Mapping[str, Any], endpoint: Mapping[str, Any]) -> list[Config]:
    """Keep what the selector and the port name; drop pods that are over."""
    wanted = monitor["spec"]["selector"]["matchLabels"]
    rules = [
        {
            "source_labels": [_meta(f"service_label_{_safe(name)}"), _meta(f"service_labelpresent_{_safe(name)}")],
            "regex": f"({re.escape(value)});true",
            "action": "keep",
        }
        for name, value in wanted.items()
    ]
    return [
        *rules,
        {"source_labels": [_meta("endpoint_port_name")], "regex": endpoint["port"], "action": "keep"},
        {"source_labels": [_meta("pod_phase")], "regex": "(Failed|Succeeded)", "action": "drop"},
    ]


def _named(monitor: Mapping[str, Any], endpoint: Mapping[str, Any]) -> list[Config]:
    """The labels that every series gets: the operator's, then the monitor's own."""
    spec = monitor["spec"]
    plain = {
        "namespace": "namespace",
        "service_name": "service",
        "pod_name": "pod",
        "pod_container_name": "container",
    }
    rules: list[Config] = [{"source_labels": [_meta(name)], "target_label": label} for name, label in plain.items()]
    for name in spec.get("targetLabels", []):
        source = _meta(f"service_label_{_safe(name)}")
        rules.append({"source_labels": [source], "regex": "(.+)", "target_label": _safe(name)})
    rules.append({"source_labels": [_meta("service_name")], "target_label": "job"})
    if "jobLabel" in spec:
        source = _meta(f"service_label_{_safe(spec['jobLabel'])}")
        rules.append({"source_labels": [source], "regex": "(.+)", "target_label": "job"})
    rules.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    return rules + [_snake(each) for each in endpoint.get("relabelings", [])]


def _meta(name: str) -> str:
    return f"__meta_kubernetes_{name}"


def _safe(name: str) -> str:
    """A Kubernetes name as a label of Prometheus."""
    return _UNSAFE.sub("_", name)


def _snake(relabeling: Mapping[str, Any]) -> Config:
    """The operator's camelCase names as Prometheus has them."""
    return {re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", name): value for name, value in relabeling.items()}
