"""The hook before install and upgrade: it meets the conditions of the learner, and what it runs says what is wrong."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.chart import runner
from tests.chart.chart import (
    EXAMPLES,
    ROOT,
    Manifest,
    container,
    environment,
    example,
    learner,
    of_kind,
    only,
    render,
    rendered,
    with_,
)
from tests.servers.careless_s3 import careless_s3

ANNOTATION = "helm.sh/hook"
HELM_WAITS = 300
"""Seconds, unless it is told otherwise."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_before_anything_is_changed(name: str) -> None:
    """What it needs comes before it, it ends before Helm loses patience, and its words are shown and stay."""
    hooks = [
        each
        for each in rendered(name)
        if each["metadata"].get("annotations", {}).get(ANNOTATION) == "pre-install,pre-upgrade"
    ]
    weights = {each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in hooks}

    assert {"Job", "ServiceAccount"} <= weights.keys() <= {"Job", "ServiceAccount", "Secret"}
    assert all(weight < weights["Job"] for kind, weight in weights.items() if kind != "Job")
    for job in of_kind(hooks, "Job", hooks=True):
        annotations = job["metadata"]["annotations"]
        assert job["spec"]["backoffLimit"] == 0
        assert job["spec"]["activeDeadlineSeconds"] < HELM_WAITS
        assert "hook-failed" not in annotations["helm.sh/hook-delete-policy"]  # its words stay readable
        assert annotations["helm.sh/hook-output-log-policy"] == "hook-failed"


def test_one_for_each_learner() -> None:
    names = [job["metadata"]["name"] for job in of_kind(rendered("shards"), "Job", hooks=True)]

    assert names == ["headrace-books-doctor", "headrace-music-doctor", "headrace-film-doctor"]


def test_none_if_not_wanted() -> None:
    manifests = render(with_(example("embedded"), {"doctor": {"enabled": False}}))

    assert [
        each["kind"]
        for each in manifests
        if each["metadata"].get("annotations", {}).get(ANNOTATION, "").startswith("pre-")
    ] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_under_the_conditions_of_the_learner(name: str) -> None:
    """The same image, user, rights, read-only root, volumes and settings: it starts where the learner starts."""
    manifests = rendered(name)
    for job, each in zip(of_kind(manifests, "Job", hooks=True), of_kind(manifests, "StatefulSet"), strict=True):
        here, there = job["spec"]["template"], each["spec"]["template"]
        own, others = container(here), container(there)
        assert own["args"] == ["doctor"]
        for part in ("image", "imagePullPolicy", "securityContext", "volumeMounts"):
            assert own[part] == others[part], part
        assert here["spec"]["securityContext"] == there["spec"]["securityContext"]
        kept = [volume for volume in here["spec"]["volumes"] if volume["name"] != "data"]
        assert kept == there["spec"]["volumes"]
        differ = {name for name, value in environment(there).items() if environment(here).get(name) != value}
        # A RayCluster of the chart's own is not there yet.
        assert differ == RAY_OF_OURS[name]
        more = environment(here).keys() - environment(there).keys()
        assert [name for name in more if "_BACKUP_" not in name] == []  # it looks where copies go, too


RAY_OF_OURS: dict[str, set[str]] = {name: set() for name in EXAMPLES} | {
    "kuberay": {"HEADRACE_RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
}


def job_for(values: dict[str, Any]) -> Manifest:
    """The pod of the hook."""
    return dict(only(render(values), "Job", hooks=True)["spec"]["template"])


@pytest.fixture
def closed_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def local(closed_port: int, endpoint: str) -> dict[str, Any]:
    """Values that lead to this machine. Ray is one that is down, so that not every test starts one."""
    over = {
        "settings": {
            "HEADRACE_KAFKA_BOOTSTRAP": f"127.0.0.1:{closed_port}",
            "HEADRACE_STORE_ENDPOINT": endpoint,
            "HEADRACE_STORE_ATTEMPTS": 1,
        },
        "ray": {"mode": "external", "address": f"ray://127.0.0.1:{closed_port}"},
    }
    return with_(example("embedded"), over)


def findings(said: str) -> dict[str, str]:
    """The doctor's findings by their first word and name, each with its remedy."""
    found: dict[str, str] = {}
    name = ""
    for line in said.splitlines():
        if line[:4].strip() in {"ok", "warn", "FAIL"}:
            name = line.partition(":")[0]
        found[name] = found.get(name, "") + line
    return found


def test_an_unreachable_broker_and_a_bucket_without_rights(closed_port: int) -> None:
    """The rendered command with the rendered environment fails, and says of each which key it is and what to do."""
    with careless_s3("If-None-Match", "If-Match", "multipart") as store:
        store.failures += [(method, 403, "AccessDenied") for method in ("PUT", "GET", "HEAD", "DELETE", "POST")] * 20
        done = runner.run(job_for(local(closed_port, store.endpoint)), lambda _, key: f"secret-{key}")
    said = findings(done.stdout)

    assert done.returncode == 1, done.stderr
    assert "HEADRACE_KAFKA_BOOTSTRAP" in said["FAIL  kafka"]
    assert f"127.0.0.1:{closed_port}" in said["FAIL  kafka"]
    assert "HEADRACE_STORE_ACCESS_KEY" in said["FAIL  store"]
    assert "AccessDenied" in said["FAIL  store"]
    assert "ok    configuration" in said
    assert "secret-" not in done.stdout + done.stderr


def test_a_setting_that_only_headrace_can_judge(closed_port: int) -> None:
    """A size out of range passes the schema, as text; the doctor names it."""
    values = with_(local(closed_port, "http://127.0.0.1:1"), {"settings": {"HEADRACE_STREAM_BATCH_BYTES": "1TiB"}})
    done = runner.run(job_for(values), lambda _, key: key)

    assert done.returncode == 1
    assert "HEADRACE_STREAM_BATCH_BYTES='1TiB': must be a size, from 1KiB to 256MiB" in done.stdout


needs_jail = pytest.mark.skipif(not runner.can_jail(), reason="needs root, unshare and setpriv for mounts of its own")


def embedded(closed_port: int, **more: Any) -> dict[str, Any]:
    """With a Ray of one's own, which writes the most; no broker and no store."""
    return with_(local(closed_port, "http://127.0.0.1:1"), {"ray": {"mode": "embedded", "address": ""}, **more})


@needs_jail
def test_it_starts_with_a_read_only_root(closed_port: int) -> None:
    """Without capabilities, the root read-only: with the chart's volumes all that writes can."""
    done = runner.run_read_only(job_for(embedded(closed_port)), lambda _, key: key, writable=True)
    said = findings(done.stdout)

    assert done.returncode == 1, done.stderr  # no broker, no store
    for name in ("configuration", "ray", "http", "disk", "kernel cache"):
        assert f"ok    {name}" in said, done.stdout + done.stderr


@needs_jail
def test_what_cannot_write_is_named(closed_port: int) -> None:
    """Without the volume at /tmp the doctor fails and names the variable: what an image that wants more would do.

    Kernels have a place here: where they have none, Headrace does not get as far as to the doctor.
    """
    values = embedded(closed_port, extraEnv=[{"name": "NUMBA_CACHE_DIR", "value": "/dev/shm/kernels"}])
    done = runner.run_read_only(job_for(values), lambda _, key: key, writable=False)
    said = findings(done.stdout)

    assert done.returncode == 1, done.stderr
    assert "set TMPDIR to a folder that can be written" in said["FAIL  disk"], done.stdout + done.stderr
    assert "ok    kernel cache" in said


def test_the_learner_is_what_it_stands_for() -> None:
    """So that the tests above say something about the learner, too."""
    assert container(learner(rendered("embedded")))["args"] == ["run"]
    assert (ROOT / "stream/cli.py").is_file()
