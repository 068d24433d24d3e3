"""The chart on a real Kubernetes API server: validated, admitted, installed, upgraded, rolled back, removed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import cluster, runner
from tests.chart.chart import (
    CHART,
    EXAMPLES,
    MONITORING,
    RAY,
    RELEASE,
    Manifest,
    container,
    example,
    learner,
    of_kind,
    only,
    pods,
    render,
    rendered,
    with_,
)
from tests.chart.cluster import Space, kubelet
from tests.servers.kube.server import Kube, Refused

pytestmark = pytest.mark.services
SECRETS = {
    "store": {"access": "key", "secret": "not-a-secret"},
    "store-copy": {"access": "other-key", "secret": "not-a-secret-either"},
    "headrace": {"password": "p", "user.crt": "c", "user.key": "k"},
    "clicks-cluster-ca-cert": {"ca.crt": "c"},
    "admin": {"token": "t"},
    "ray": {"auth_token": "t"},
}
"""What the examples name."""


@pytest.fixture(scope="module", autouse=True)
def known(kube: Kube) -> None:
    """Others' kinds are known, but to the tests that are about their absence."""
    for group in cluster.FOREIGN:
        cluster.know(kube, group)


@pytest.fixture
def space(kube: Kube) -> Space:
    """A new namespace, with what the examples name in it."""
    made = Space(kube)
    for name, data in SECRETS.items():
        made.secret(name, **data)
    made.make({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": {"ca.crt": "c"}})
    return made


def objects(name: str) -> set[str]:
    """What an example makes, less the hooks."""
    return {
        f"{each['kind']}/{each['metadata']['name']}"
        for each in rendered(name)
        if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_installed_upgraded_rolled_back_removed(name: str, space: Space) -> None:
    """Every example, with no word of Pod Security; claims and selectors outlive the upgrade; then nothing stays."""
    installed = space.install(example(name))
    assert installed.returncode == 0, installed.stderr
    assert "Warning" not in installed.stderr
    assert space.all_names() == objects(name)
    before = {each: space.get("StatefulSet", each) for each in space.names("StatefulSet")}

    upgraded = space.upgrade(with_(example(name), {"settings": {"HEADRACE_STREAM_DRAIN_SECONDS": 61}}))
    assert upgraded.returncode == 0, upgraded.stderr
    for each, old in before.items():
        new = space.get("StatefulSet", each)
        for part in ("selector", "serviceName", "volumeClaimTemplates"):
            assert new["spec"].get(part) == old["spec"].get(part), part
        assert new["metadata"]["uid"] == old["metadata"]["uid"]
        assert new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 81

    rolled = space.helm("rollback", RELEASE, "1", "--no-hooks")
    assert rolled.returncode == 0, rolled.stderr
    for each, old in before.items():
        assert space.get("StatefulSet", each)["spec"] == old["spec"]

    removed = space.helm("uninstall", RELEASE, "--no-hooks")
    assert removed.returncode == 0, removed.stderr
    assert space.all_names() == set()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_is_admitted(name: str, space: Space) -> None:
    """Pod Security admission, at restricted, takes each pod that a controller would make: hooks', jobs', Ray's too."""
    found = list(pods(rendered(name)))
    for maker, pod in found:
        admitted = space.bare(maker, pod)
        assert admitted["spec"]["securityContext"]["runAsNonRoot"] is True

    assert len(found) >= 3


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
        ({"podSecurityContext": {"seccompProfile": None}}, "seccompProfile"),
        ({"podSecurityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
        ({"securityContext": {"capabilities": {"drop": []}}}, "capabilities"),
        ({"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "hostPath"),
    ],
)
def test_what_breaks_the_standard_is_not_admitted(over: dict[str, Any], word: str, space: Space) -> None:
    """So the test above can fail: each of these values makes a pod that the same admission refuses."""
    pod = learner(render(with_(example("embedded"), over)))

    with pytest.raises(Refused, match=f"violates PodSecurity.*{word}"):
        space.bare("learner", pod)


@pytest.mark.parametrize("name", EXAMPLES)
def test_server_side_apply_takes_every_object(name: str, space: Space) -> None:
    """What Helm 4 does, hooks included. A list with one name twice would be refused."""
    for each in rendered(name):
        manifest = copy.deepcopy(each)
        del manifest["metadata"]["namespace"]
        applied = applying(space, manifest)
        assert applied["kind"] == each["kind"]


def applying(space: Space, manifest: Manifest) -> Manifest:
    path = space.path(
        manifest["kind"], manifest["metadata"]["name"], "?fieldManager=test&dryRun=All&fieldValidation=Strict"
    )
    return space.kube.call("PATCH", path, manifest, "application/apply-patch+yaml")


def test_server_side_apply_refuses_a_name_twice(space: Space) -> None:
    """So the test above can fail."""
    manifest = copy.deepcopy(only(rendered("embedded"), "StatefulSet"))
    del manifest["metadata"]["namespace"]
    variables = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    variables.append(dict(variables[0]))

    with pytest.raises(Refused, match="duplicate entries"):
        applying(space, manifest)


def test_a_field_that_does_not_exist_is_refused(space: Space) -> None:
    """The validation that all manifests pass here is strict."""
    manifest = copy.deepcopy(only(rendered("embedded"), "StatefulSet"))
    del manifest["metadata"]["namespace"]
    manifest["spec"]["template"]["spec"]["enableServiceLink"] = False

    with pytest.raises(Refused, match="enableServiceLink"):
        applying(space, manifest)


def test_a_new_version_of_the_chart_keeps_the_volume(space: Space, tmp_path: Path) -> None:
    """Upgraded to another version with another image, the claim's template and the StatefulSet are the same ones."""
    chart = next_chart(tmp_path)
    assert space.install(example("directory")).returncode == 0
    before = space.get("StatefulSet", RELEASE)

    done = space.helm("upgrade", RELEASE, str(chart), "--no-hooks", values=example("directory"))
    after = space.get("StatefulSet", RELEASE)

    assert done.returncode == 0, done.stderr
    assert after["metadata"]["labels"]["helm.sh/chart"] == "headrace-9.9.9"
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"]["volumeClaimTemplates"] == before["spec"]["volumeClaimTemplates"]
    assert container(after["spec"]["template"])["image"] == "headrace:9.9.8"


@pytest.mark.parametrize(
    ("old", "new"), [("headrace/shard:", "headrace/part:"), ("app.kubernetes.io/component:", "component:")]
)
def test_changed_selectors_would_be_refused(old: str, new: str, space: Space, tmp_path: Path) -> None:
    """Why the names and labels of a released version are on record."""
    chart = next_chart(tmp_path)
    names = chart / "templates/_names.tpl"
    names.write_text(names.read_text().replace(old, new))
    assert space.install(example("embedded")).returncode == 0

    done = space.helm("upgrade", RELEASE, str(chart), "--no-hooks", values=example("embedded"))

    assert done.returncode != 0
    assert "field is immutable" in done.stderr


def next_chart(folder: Path) -> Path:
    chart = folder / "headrace"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": "9.9.9", "appVersion": "9.9.8"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    return chart


def test_monitoring_comes_with_the_cluster_that_knows_it(kube: Kube, space: Space) -> None:
    """Installed where its kinds are unknown, nothing of it is made; upgraded where they are known, all of it is."""
    own = {"ServiceMonitor", "PrometheusRule", "ConfigMap"}
    cluster.forget(kube, "monitoring.coreos.com")
    try:
        done = space.install(example("embedded"))
        assert done.returncode == 0, done.stderr
        assert "Nothing watches it" in done.stdout
        assert {each.partition("/")[0] for each in space.all_names()} & own == set()
    finally:
        cluster.know(kube, "monitoring.coreos.com")

    assert space.upgrade(example("embedded")).returncode == 0
    assert {each.partition("/")[0] for each in space.all_names()} >= own


def test_kuberay_without_its_operator_is_refused(kube: Kube, space: Space) -> None:
    cluster.forget(kube, "ray.io")
    try:
        done = space.install(example("kuberay"))
    finally:
        cluster.know(kube, "ray.io")

    assert done.returncode != 0
    assert "ray.mode=kuberay: this cluster does not know ray.io/v1: install the KubeRay operator" in done.stderr
    assert space.all_names() == set()


def test_a_missing_secret_is_named_before_anything_is_made(kube: Kube) -> None:
    """Each that is missing, and each key in one that is there: with the command that makes it."""
    bare = Space(kube)
    bare.secret("store", access="a", secrt="s")
    done = bare.install(example("strimzi"))
    said = " ".join(done.stderr.split())

    assert done.returncode != 0
    assert f"Secret store in namespace {bare.name} has no key secret, only access, secrt" in said
    assert (
        f"secrets.HEADRACE_KAFKA_SASL_PASSWORD.existingSecret: there is no Secret headrace in namespace {bare.name}"
        in said
    )
    assert f"kubectl create secret generic headrace -n {bare.name} --from-file=password=FILE" in said
    assert f"tls.storeCa.existingConfigMap: there is no ConfigMap authorities in namespace {bare.name}" in said
    assert "HEADRACE_STORE_ACCESS_KEY" not in said
    assert bare.all_names() == set()
    assert bare.helm("list", "--all", "--short").stdout == ""


def test_the_look_for_secrets_can_be_left_out(kube: Kube) -> None:
    """For who may not read Secrets, or makes them later."""
    bare = Space(kube)

    assert bare.install(with_(example("strimzi"), {"checkSecrets": False})).returncode == 0


def test_who_may_not_read_secrets_is_told_why(kube: Kube) -> None:
    """The look is one more right that an installer needs; without it Helm's own error names what it may not do."""
    bare = Space(kube)
    done = bare.helm(
        "install", RELEASE, str(CHART), "--no-hooks", "--kube-context", "deployer", values=example("embedded")
    )

    assert done.returncode != 0
    assert "forbidden" in done.stderr


def exit_status(space: Space, pod: Manifest) -> int:
    """Run the pod's command with the product's own code; secrets come from the API server."""
    import base64

    def secret(name: str, key: str) -> str:
        return base64.b64decode(space.get("Secret", name)["data"][key]).decode()

    return runner.run(pod, secret).returncode


UNREACHABLE = {
    "settings": {
        "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:9",
        "HEADRACE_STORE_ENDPOINT": "http://127.0.0.1:9",
        "HEADRACE_STORE_ATTEMPTS": 1,
    },
    "ray": {"mode": "external", "address": "ray://127.0.0.1:9"},
    "secrets": {"HEADRACE_STORE_ACCESS_KEY": {"value": "by-value"}, "HEADRACE_STORE_SECRET_KEY": {"value": "by-value"}},
}


def test_an_unreachable_broker_fails_the_installation(kube: Kube) -> None:
    """Helm waits for the doctor, who really runs, fails, and ends it: no learner was made, and none crashes."""
    bare = Space(kube)
    with kubelet(bare, lambda pod: exit_status(bare, pod)) as ran:
        done = bare.install(with_({}, UNREACHABLE), "--timeout", "90s")

    assert ran == ["headrace-doctor"]
    assert done.returncode != 0
    assert "pre-install" in done.stderr
    assert "headrace-doctor" in done.stderr
    # The Job stays, for its words; the copy of the secret does not.
    assert bare.all_names() == {"Job/headrace-doctor"}


def test_a_content_doctor_lets_the_installation_on(kube: Kube) -> None:
    """And leaves nothing of its own behind. The same before an upgrade; its no keeps what runs as it is."""
    bare = Space(kube)
    with kubelet(bare, lambda _: 0) as ran:
        done = bare.install(with_({}, UNREACHABLE), "--timeout", "90s")
    assert done.returncode == 0, done.stderr
    assert ran == ["headrace-doctor"]
    assert {each for each in bare.all_names() if "doctor" in each} == set()

    before = bare.get("StatefulSet", RELEASE)
    wrong = with_(UNREACHABLE, {"settings": {"HEADRACE_KAFKA_TOPIC": "gone"}})
    with kubelet(bare, lambda pod: int("gone" in json.dumps(pod))):
        done = bare.upgrade(wrong, "--timeout", "90s")
    assert done.returncode != 0
    assert "pre-upgrade" in done.stderr
    assert bare.get("StatefulSet", RELEASE)["spec"] == before["spec"]


def test_hooks_are_admitted_as_they_are(space: Space) -> None:
    """The doctor's account and Job, and the pod of `helm test`, each as a real object."""
    for name in EXAMPLES:
        for each in [*of_kind(rendered(name), "Job", hooks=True), *of_kind(rendered(name), "Pod", hooks=True)]:
            manifest = {**each, "metadata": {**each["metadata"], "namespace": space.name}}
            assert space.kube.make(f"{space.path(each['kind'])}?dryRun=All&fieldValidation=Strict", manifest)


def test_apis_of_the_tests_are_those_of_the_chart() -> None:
    """What the module's fixtures make known is what the templates ask for."""
    assert {f"{group}/v1" for group in cluster.FOREIGN} == {MONITORING, RAY}
