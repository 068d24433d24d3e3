"""What the chart makes: in each mode, for each example, and for what an operator may ask of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.settings.settings import Settings
from tests.chart.chart import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    LEAST,
    MONITORING,
    RAY,
    RELEASE,
    SPACE,
    Manifest,
    container,
    environment,
    example,
    helm,
    is_hook,
    learner,
    matches,
    of_kind,
    only,
    pods,
    render,
    rendered,
    template,
    with_,
)

STORE = {
    name: {"secretKeyRef": {"name": "store", "key": key}}
    for name, key in {"HEADRACE_STORE_ACCESS_KEY": "access", "HEADRACE_STORE_SECRET_KEY": "secret"}.items()
}
"""The store's keys as the examples name them."""
COPY = {
    name: {"secretKeyRef": {"name": "store-copy", "key": key}}
    for name, key in {"HEADRACE_BACKUP_ACCESS_KEY": "access", "HEADRACE_BACKUP_SECRET_KEY": "secret"}.items()
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_whole(name: str) -> None:
    """Named once, in the release's namespace, with the labels that tools look for; every pod can be scheduled."""
    manifests = rendered(name)
    named = Counter((each["kind"], each["metadata"]["name"]) for each in manifests)

    assert [each for each, times in named.items() if times > 1] == []
    for each in manifests:
        labels = each["metadata"]["labels"]
        assert each["metadata"]["namespace"] == SPACE
        assert labels["app.kubernetes.io/name"] == "headrace"
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"].startswith("headrace-")
    for maker, pod in pods(manifests):
        assert container(pod)["resources"]["requests"].keys() >= {"cpu", "memory"}, maker
        assert container(pod)["resources"]["limits"]["memory"], maker
        assert container(pod)["image"] == "headrace:0.1.0", maker


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_named_is_there(name: str) -> None:
    """Accounts, Secrets and volumes that a pod names are made by the chart, at that time, or named by the operator."""
    manifests = rendered(name)
    given = set(re.findall(r"existing(?:Secret|ConfigMap): ([\w-]+)", (CHART / f"examples/{name}.yaml").read_text()))
    cluster = {f"{RELEASE}-ray"}  # the operator's own Secret
    for owner in manifests:
        known = [each for each in manifests if is_hook(each) <= is_hook(owner) or is_test(owner)]
        made = {
            (each["kind"], each["metadata"]["name"])
            for each in known
            if is_hook(each) == is_hook(owner) or is_test(owner)
        }
        for maker, pod in pods([owner]):
            spec = pod["spec"]
            volumes = {each["name"] for each in spec.get("volumes", [])}
            claims = {each["metadata"]["name"] for each in owner["spec"].get("volumeClaimTemplates", [])}
            assert ("ServiceAccount", spec["serviceAccountName"]) in made, maker
            assert {each["name"] for each in container(pod).get("volumeMounts", [])} == volumes | claims, maker
            for value in environment(pod).values():
                if isinstance(value, dict) and "fieldRef" not in value:
                    assert value["secretKeyRef"]["name"] in given | cluster | {n for k, n in made if k == "Secret"}, (
                        maker
                    )


def is_test(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("annotations", {}).get("helm.sh/hook") == "test")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_service_takes_its_environment(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each pod of ours, learner or job, starts: Headrace's own settings accept every variable it is given."""
    for maker, pod in pods(rendered(name)):
        if container(pod)["name"] not in {"headrace", "doctor"}:
            continue
        with monkeypatch.context() as patch:
            for variable, value in environment(pod).items():
                text = "some-secret-of-20-and-more" if isinstance(value, dict) else value
                if variable.endswith("_FILE"):
                    text = str(tmp_path / "file")
                    Path(text).touch()
                patch.setenv(variable, text)
            settings = Settings.load()

        assert settings.store.access_key.get_secret_value() in {"", "some-secret-of-20-and-more"}, maker


def test_settings_arrive_as_they_were_written() -> None:
    """Helm reads numbers as floats; the variable must not become 5e+06, nor true become True. Empty is not set."""
    given = {
        "HEADRACE_MODEL_USERS_MAX": 5000000,
        "HEADRACE_MODEL_SEED": 9007199254740991,
        "HEADRACE_MODEL_LEARNING_RATE": 0.05,
        "HEADRACE_STREAM_BATCH_AGE_SECONDS": 2,
        "HEADRACE_STREAM_ARCHIVE": False,
        "HEADRACE_STREAM_BATCH_BYTES": "4MiB",
        "HEADRACE_STORE_LINEAGE": "",
    }
    found = environment(learner(render(with_(LEAST, {"settings": given}))))

    assert {name: found.get(name) for name in given} == {
        "HEADRACE_MODEL_USERS_MAX": "5000000",
        "HEADRACE_MODEL_SEED": "9007199254740991",
        "HEADRACE_MODEL_LEARNING_RATE": "0.05",
        "HEADRACE_STREAM_BATCH_AGE_SECONDS": "2",
        "HEADRACE_STREAM_ARCHIVE": "false",
        "HEADRACE_STREAM_BATCH_BYTES": "4MiB",
        "HEADRACE_STORE_LINEAGE": None,
    }


def test_embedded_ray_stays_in_the_pod() -> None:
    """No address, no cluster, and the shared memory that Ray starts in."""
    manifests = rendered("embedded")
    pod = learner(manifests)

    assert of_kind(manifests, "RayCluster") == []
    assert [name for name in environment(pod) if "RAY" in name] == []
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}} in pod["spec"]["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(pod)["volumeMounts"]


def test_external_ray_is_joined_with_its_token() -> None:
    manifests = rendered("external-ray")
    found = environment(learner(manifests))

    assert of_kind(manifests, "RayCluster") == []
    assert found["HEADRACE_RAY_ADDRESS"] == "ray://ray-head.ray:10001"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "ray", "key": "auth_token"}}


def test_kuberay_makes_a_cluster_with_a_token() -> None:
    """Of the learner's own image, a worker for each learner, and the token from the operator's Secret."""
    manifests = rendered("kuberay")
    cluster = only(manifests, "RayCluster")
    found = environment(learner(manifests))
    head, worker = (pod for maker, pod in pods(manifests) if maker.startswith("RayCluster"))

    assert found["HEADRACE_RAY_ADDRESS"] == "ray://headrace-ray-head-svc:10001"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "headrace-ray", "key": "auth_token"}}
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [1]
    assert container(head)["image"] == container(worker)["image"] == container(learner(manifests))["image"]
    assert environment(head)["GRPC_ENABLE_FORK_SUPPORT"] == "0"
    # The operator's own probes ask an agent that the image does not have.
    assert container(head)["livenessProbe"]["tcpSocket"] == {"port": 6379}
    assert container(worker)["livenessProbe"]["tcpSocket"]["port"] == int(
        cluster["spec"]["workerGroupSpecs"][0]["rayStartParams"]["node-manager-port"]
    )


def test_a_worker_for_each_shard() -> None:
    values = with_(example("shards"), {"ray": {"mode": "kuberay"}})
    (group,) = only(render(values, apis=[RAY]), "RayCluster")["spec"]["workerGroupSpecs"]

    assert group["replicas"] == group["maxReplicas"] == 3


def test_secrets_of_the_operator_are_named_only() -> None:
    """Each secret from its own Secret and key; the chart makes none."""
    manifests = rendered("strimzi")
    found = environment(learner(manifests))

    assert of_kind(manifests, "Secret") == of_kind(manifests, "Secret", hooks=True) == []
    assert {name: value for name, value in found.items() if isinstance(value, dict)} == {
        **STORE,
        "HEADRACE_KAFKA_SASL_PASSWORD": {"secretKeyRef": {"name": "headrace", "key": "password"}},
        "HEADRACE_ADMIN_TOKEN": {"secretKeyRef": {"name": "admin", "key": "token"}},
    }


def test_secrets_given_by_value_stand_in_a_secret_only() -> None:
    """Readable nowhere else, there for the hook that comes before everything, and a new one restarts the learner."""
    given = {name: {"value": f"{name}-s3cr3t"} for name in (*STORE, "HEADRACE_ADMIN_TOKEN")}
    values = with_(LEAST, {"secrets": given, "admin": {"enabled": True}})
    manifests = render(values)
    other = render(with_(values, {"secrets": {"HEADRACE_ADMIN_TOKEN": {"value": "another"}}}))
    own, early = only(manifests, "Secret"), only(manifests, "Secret", hooks=True)
    doctor = only(manifests, "Job", hooks=True)["spec"]["template"]

    assert "s3cr3t" not in json.dumps(manifests)
    assert (
        own["data"] == early["data"] == {name: base64.b64encode(f"{name}-s3cr3t".encode()).decode() for name in given}
    )
    for pod, secret in ((learner(manifests), own), (doctor, early)):
        found = environment(pod)["HEADRACE_STORE_SECRET_KEY"]
        assert found == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "HEADRACE_STORE_SECRET_KEY"}}
    assert learner(manifests)["metadata"] != learner(other)["metadata"]


def test_jobs_get_the_stores_keys_alone() -> None:
    """What needs no Kafka has no login of it, and would be refused with half of one."""
    manifests = rendered("strimzi")
    jobs = {maker: environment(pod) for maker, pod in pods(of_kind(manifests, "CronJob"))}

    assert jobs.keys() == {
        f"CronJob/headrace-{name}" for name in ("train-incremental", "train-full", "retrain", "backup")
    }
    for maker, found in jobs.items():
        copies = maker.endswith("backup")
        secrets = {name: value for name, value in found.items() if "secretKeyRef" in value}
        assert secrets == (STORE | COPY if copies else STORE)
        assert ("HEADRACE_BACKUP_TO" in found) == copies
        assert [name for name in found if "KAFKA" in name or "HTTP" in name or "ADMIN" in name] == []
        assert found["HEADRACE_STORE_CA_FILE"] == "/etc/headrace/store-ca/ca.crt"


def test_the_doctor_looks_where_copies_go() -> None:
    """So that an upgrade stops at a bucket that is not there; where no copies are made nobody asks for it."""
    manifests = rendered("strimzi")
    pod = next(pod for maker, pod in pods(of_kind(manifests, "Job", hooks=True)) if "doctor" in maker)
    found = environment(pod)

    assert found["HEADRACE_BACKUP_TO"] == "s3://clicks-copy"
    assert {name: found[name] for name in COPY} == COPY
    assert [name for name in environment(learner(manifests)) if "BACKUP" in name] == []


def test_cron_jobs_run_what_they_are_called() -> None:
    """Off unless asked for; one at a time; a wrong setting is not tried again."""
    manifests = rendered("strimzi")
    jobs = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "CronJob")}
    args = {name: container(spec["jobTemplate"]["spec"]["template"])["args"] for name, spec in jobs.items()}

    assert of_kind(rendered("embedded"), "CronJob") == []
    assert args == {
        "headrace-train-incremental": ["train", "--incremental"],
        "headrace-train-full": ["train", "--full"],
        "headrace-retrain": [
            *("retrain", "--wait", "--reason", "schedule"),
            *("--key", "$(RETRAIN_JOB)", "--epochs", "15"),
        ],
        "headrace-backup": ["backup", "--json"],
    }
    retrain = jobs["headrace-retrain"]["jobTemplate"]["spec"]["template"]
    assert environment(retrain)["RETRAIN_JOB"] == {
        "fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}
    }
    for name, spec in jobs.items():
        job = spec["jobTemplate"]["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["timeZone"] == "Europe/Berlin"
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        failing = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
        final = {"headrace-retrain": [1, 2], "headrace-backup": [2, 4]}.get(name, [2])
        assert [rule["onExitCodes"]["values"] for rule in failing] == [final]


@pytest.mark.parametrize(("drain", "asked", "grace"), [(25, None, 45), (60.5, None, 81), (25, 300, 300), (25, 30, 30)])
def test_there_is_time_to_drain(drain: float, asked: int | None, grace: int) -> None:
    """The kubelet's patience is longer than the drain, and follows the setting."""
    values = with_(
        LEAST, {"settings": {"HEADRACE_STREAM_DRAIN_SECONDS": drain}, "terminationGracePeriodSeconds": asked}
    )
    pod = learner(render(values))

    assert pod["spec"]["terminationGracePeriodSeconds"] == grace


def test_probes_ask_what_the_pages_mean() -> None:
    """A restart for a loop that stands still, never for learning that waits; and time enough to open."""
    found = container(learner(rendered("embedded")))
    startup = found["startupProbe"]

    assert {"name": "http", "containerPort": 8080, "protocol": "TCP"} in found["ports"]
    assert startup["httpGet"] == found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    assert environment(learner(rendered("embedded")))["HEADRACE_HTTP_HOST"] == "0.0.0.0"


def test_answers_go_on_while_nothing_is_learned() -> None:
    """The Service leads to the pod whether it is ready or not: ready is about learning, and answers have their age."""
    for service in of_kind(rendered("embedded"), "Service"):
        assert service["spec"]["publishNotReadyAddresses"] is True, service["metadata"]["name"]


def test_services_lead_to_their_learner_alone() -> None:
    """Each learner's two Services select its pod and no other pod; what is scraped is one of them."""
    manifests = rendered("shards")
    monitor = only(manifests, "ServiceMonitor")["spec"]
    labels = {maker: pod["metadata"].get("labels", {}) for maker, pod in pods(manifests)}
    for each in of_kind(manifests, "StatefulSet"):
        name = each["metadata"]["name"]
        own = [service for service in of_kind(manifests, "Service") if service["metadata"]["name"].startswith(name)]
        reached = [
            [maker for maker, has in labels.items() if matches(service["spec"]["selector"], has)] for service in own
        ]

        assert each["spec"]["serviceName"] in {service["metadata"]["name"] for service in own}
        assert reached == [[f"StatefulSet/{name}"]] * 2
        scraped = [
            service for service in own if matches(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
        ]
        assert [service["metadata"]["name"] for service in scraped] == [f"{name}-headless"]
        assert [port["name"] for port in scraped[0]["spec"]["ports"]] == [monitor["endpoints"][0]["port"]]


def test_shards_share_nothing() -> None:
    """Topic, place of the state, group: each has its own, given or derived; what is not its own is the chart's."""
    manifests = rendered("shards")
    found = {
        each["metadata"]["name"]: environment(each["spec"]["template"]) for each in of_kind(manifests, "StatefulSet")
    }
    names = ("KAFKA_TOPIC", "STORE_PREFIX", "KAFKA_GROUP", "STORE_LINEAGE", "MODEL_DIM")

    assert {name: [own.get(f"HEADRACE_{each}") for each in names] for name, own in found.items()} == {
        "headrace-books": ["clicks-books", "headrace/books", "headrace-books", None, None],
        "headrace-music": ["clicks-music", "headrace/music", "headrace-music", None, "32"],
        "headrace-film": ["clicks-film", "film/2026", "film", "second", None],
    }
    for kind, hooks in (("CronJob", False), ("Job", True)):
        places = [environment(pod)["HEADRACE_STORE_PREFIX"] for _, pod in pods(of_kind(manifests, kind, hooks=hooks))]
        assert places == ["headrace/books", "headrace/music", "film/2026"], kind


def test_one_pod_for_a_learner() -> None:
    """No value makes two; a broken revision does not keep the next from being tried."""
    for each in of_kind(rendered("shards"), "StatefulSet"):
        assert each["spec"]["replicas"] == 1
        assert each["spec"]["podManagementPolicy"] == "Parallel"
        assert each["spec"]["updateStrategy"] == {"type": "RollingUpdate"}


def test_drains_take_learners_one_by_one() -> None:
    """The budget counts all learners and nothing else, and one that is not ready blocks nobody."""
    manifests = rendered("shards")
    budget = only(manifests, "PodDisruptionBudget")["spec"]
    counted = [maker for maker, pod in pods(manifests) if matches(budget["selector"]["matchLabels"], labels(pod))]

    assert sorted(counted) == [f"StatefulSet/headrace-{name}" for name in ("books", "film", "music")]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def labels(pod: Manifest) -> dict[str, str]:
    return dict(pod["metadata"].get("labels", {}))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_port_is_closed_but_the_named(name: str) -> None:
    """One policy closes all pods of the release; others open the learner's doors, and Ray's to its own."""
    manifests = rendered(name)
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "NetworkPolicy")}
    closing = policies.pop("headrace")

    assert (closing["policyTypes"], closing["ingress"]) == (["Ingress"], [])
    for maker, pod in pods(manifests):
        assert matches(closing["podSelector"]["matchLabels"], labels(pod)), maker
        opened = [p for p, spec in policies.items() if matches(spec["podSelector"]["matchLabels"], labels(pod))]
        wanted = {"StatefulSet": ["headrace-learner"], "RayCluster": ["headrace-ray"]}.get(maker.split("/")[0], [])
        assert opened == wanted, maker
    ports = [[port["port"] for port in rule["ports"]] for rule in policies["headrace-learner"]["ingress"]]
    assert ports == ([[8080], [8081]] if name == "strimzi" else [[8080]])


def test_rays_ports_are_for_its_own() -> None:
    """The cluster's pods reach each other on all ports, learners the client port, and nobody else any."""
    manifests = rendered("kuberay")
    rules = next(p for p in of_kind(manifests, "NetworkPolicy") if p["metadata"]["name"] == "headrace-ray")["spec"][
        "ingress"
    ]
    callers = [
        ([port["port"] for port in rule.get("ports", [])], maker)
        for rule in rules
        for peer in rule["from"]
        for maker, pod in pods(manifests)
        if matches(peer["podSelector"]["matchLabels"], labels(pod))
    ]

    assert sorted(callers) == [
        ([], "RayCluster/headrace-ray/head"),
        ([], "RayCluster/headrace-ray/learners"),
        ([10001], "StatefulSet/headrace"),
    ]
    assert all(peer.keys() == {"podSelector"} for rule in rules for peer in rule["from"])


def test_who_may_ask_is_a_value() -> None:
    """Peers given replace the chart's; egress is limited only on request."""
    peer = {"podSelector": {"matchLabels": {"app": "shop"}}}
    rule = {"to": [peer], "ports": [{"port": 9092}]}
    policy = {"httpFrom": [peer], "egress": {"enabled": True, "rules": [rule]}}
    manifests = {
        each["metadata"]["name"]: each["spec"]
        for each in render(with_(LEAST, {"networkPolicy": policy}))
        if each["kind"] == "NetworkPolicy"
    }

    assert peer in manifests["headrace-learner"]["ingress"][0]["from"]
    assert len(manifests["headrace-learner"]["ingress"][0]["from"]) == 2  # and the pod of `helm test`
    assert manifests["headrace"]["egress"] == [rule]
    assert manifests["headrace"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_accounts_can_do_nothing(name: str) -> None:
    """No role is bound, no token is mounted, and no Service's address gets into the environment."""
    manifests = rendered(name)

    assert {each["kind"] for each in manifests} & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} == set()
    for account in of_kind(manifests, "ServiceAccount") + of_kind(manifests, "ServiceAccount", hooks=True):
        assert account["automountServiceAccountToken"] is False
    for maker, pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False, maker
        assert pod["spec"]["enableServiceLinks"] is False, maker


def test_an_account_of_ones_own_is_used() -> None:
    values = with_(LEAST, {"serviceAccount": {"create": False, "name": "mine"}})
    manifests = render(values)

    assert [each for each in manifests if each["kind"] == "ServiceAccount"] == []
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(manifests)} == {"mine"}


def test_monitoring_follows_the_cluster() -> None:
    """Made where its kinds are known, or when it must be; labelled for kube-prometheus-stack and its sidecar."""
    kinds = {"ServiceMonitor": 1, "PrometheusRule": 1, "ConfigMap": 3}

    def made(values: dict[str, Any], *apis: str) -> dict[str, int]:
        return {kind: n for kind in kinds if (n := len(of_kind(render(values, apis=apis), kind)))}

    def switched(*, on: bool) -> dict[str, Any]:
        parts = {part: {"enabled": on} for part in ("serviceMonitor", "rules", "dashboards")}
        return with_(LEAST, {"monitoring": parts})

    assert made(dict(LEAST)) == {}
    assert made(dict(LEAST), MONITORING) == kinds
    assert made(switched(on=True)) == kinds
    assert made(switched(on=False), MONITORING) == {}
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert only(rendered("embedded"), kind)["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    for each in of_kind(rendered("embedded"), "ConfigMap"):
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    """Word for word: nothing of them is taken for a template; runbooks get an address where there is one."""
    manifests = rendered("embedded")
    rules = yaml.safe_load((CHART / "rules/headrace.rules.yaml").read_text())
    boards = {name: text for each in of_kind(manifests, "ConfigMap") for name, text in each["data"].items()}
    url = "https://example.org/runbooks.md"
    linked = render(with_(LEAST, {"monitoring": {"rules": {"runbookUrl": url}}}), apis=[MONITORING])
    alerts = [
        rule for group in only(linked, "PrometheusRule")["spec"]["groups"] for rule in group["rules"] if "alert" in rule
    ]

    assert [with_absent(group) for group in only(manifests, "PrometheusRule")["spec"]["groups"]] == [
        with_absent(group) for group in rules["groups"]
    ]
    assert boards.keys() == {f"headrace-{path.name}" for path in (CHART / "dashboards").glob("*.json")}
    for name, text in boards.items():
        assert json.loads(text) == json.loads((CHART / "dashboards" / name.removeprefix("headrace-")).read_text())
    assert alerts
    assert all(each["annotations"]["runbook_url"] == f"{url}#{each['alert'].lower()}" for each in alerts)


def test_links_to_runbooks_can_be_opened() -> None:
    """With an address each panel that names a runbook leads to a section that is there; without one nothing is a link,
    as a browser would look for the repository's files in Grafana.
    """
    url = "https://example.org/docs/runbooks.md"
    monitoring = {"monitoring": {"rules": {"runbookUrl": url}}}
    sections = re.findall(r"^### (\w+)$", (CHART.parents[1] / "docs/runbooks.md").read_text(), re.MULTILINE)
    plain, linked = (boards(render(with_(LEAST, more), apis=[MONITORING])) for more in ({}, monitoring))

    for name, board in linked.items():
        before = plain[name]
        named = [re.findall(r"Runbook: (\w+)", panel["description"]) for panel in before["panels"]]
        there = [[link["url"] for link in panel.get("links", [])] for panel in board["panels"]]
        assert there == [[f"{url}#{each.lower()}" for each in names] for names in named]
        assert {each for names in named for each in names} <= set(sections)
        assert any(there)
        assert all("links" not in panel for panel in before["panels"])
        for panel in board["panels"]:
            panel.pop("links", None)
        assert board == before
        assert '"url"' not in json.dumps(before)
    alerts = [rule for rule in of_rules(render(LEAST, apis=[MONITORING])) if "alert" in rule]
    assert alerts
    for words in (rule["annotations"] for rule in alerts):
        assert "runbook_url" not in words
        assert "#" not in words["runbook"]


def boards(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The dashboards of the chart, by name."""
    return {name: json.loads(text) for each in of_kind(manifests, "ConfigMap") for name, text in each["data"].items()}


def of_rules(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for group in only(manifests, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def with_absent(group: dict[str, Any]) -> dict[str, Any]:
    """The group without the words of the one alert that the chart makes its own: see test_monitor.py."""
    own = {"alert": "HeadraceAbsent"}
    return {**group, "rules": [own if rule.get("alert") == "HeadraceAbsent" else rule for rule in group["rules"]]}


def test_extras_reach_every_pod_of_ours() -> None:
    """Variables, volumes, annotations, placement: added, and a variable that the chart sets for itself is replaced."""
    extra = {
        "extraEnv": [
            {"name": "NUMBA_CACHE_DIR", "value": "/cache"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "extraVolumes": [{"name": "cache", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "nodeSelector": {"disk": "fast"},
        "podAnnotations": {"team": "shop"},
        "commonLabels": {"cost": "shop"},
        "commonAnnotations": {"owner": "shop"},
        "image": {"pullSecrets": [{"name": "registry"}]},
        "priorityClassName": "high",
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    manifests = render(with_(example("strimzi"), extra))
    for maker, pod in pods(manifests):
        assert pod["spec"]["nodeSelector"] == {"disk": "fast"}, maker
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}], maker
        assert pod["spec"]["tolerations"] == extra["tolerations"], maker
        if container(pod)["name"] != "test":
            assert environment(pod)["NUMBA_CACHE_DIR"] == "/cache", maker
            assert environment(pod)["NODE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}, maker
            assert {"name": "cache", "mountPath": "/cache"} in container(pod)["volumeMounts"], maker

    assert learner(manifests)["metadata"]["annotations"]["team"] == "shop"
    assert learner(manifests)["spec"]["priorityClassName"] == "high"
    for each in manifests:
        assert each["metadata"]["labels"]["cost"] == "shop"
        assert each["metadata"]["annotations"]["owner"] == "shop"


TLS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "storeCa": ({"existingSecret": "s3", "key": "s3.pem"}, ["HEADRACE_STORE_CA_FILE"], "all"),
    "kafkaCa": ({"existingConfigMap": "brokers"}, ["HEADRACE_KAFKA_SSL_CA_FILE"], "service"),
    "kafkaClient": (
        {"existingSecret": "user", "certKey": "user.crt", "keyKey": "user.key"},
        ["HEADRACE_KAFKA_SSL_CERT_FILE", "HEADRACE_KAFKA_SSL_KEY_FILE"],
        "service",
    ),
}
"""Each certificate: where it comes from, the settings that name its files, and who is told of them."""
EXTRAS: dict[str, Any] = {
    "extraEnv": [{"name": "NUMBA_CACHE_DIR", "value": "/cache"}, {"name": "AWS_PROFILE", "value": "shop"}],
    "extraVolumes": [{"name": "cache", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
}
MODES = {
    "embedded": {"mode": "embedded"},
    "external": {"mode": "external", "address": "ray://x:1"},
    "kuberay": {"mode": "kuberay"},
}


@pytest.mark.parametrize("sharded", [0, 1], ids=["one", "shards"])
@pytest.mark.parametrize("part", [*TLS, "extras"])
@pytest.mark.parametrize("mode", MODES)
def test_what_the_store_needs_is_in_every_pod_that_asks_it(mode: str, part: str, sharded: int) -> None:
    """Ray's pods, too: the learner there makes its store anew, from the paths that the service's pod was told."""
    over = EXTRAS if part == "extras" else {"tls": {part: TLS[part][0]}}
    jobs = {name: {"enabled": True} for name in ("incremental", "full", "retrain", "backup")}
    values: dict[str, Any] = {"ray": MODES[mode], "cronJobs": jobs, **over}
    values["settings"] = {"HEADRACE_BACKUP_TO": "s3://copy"}
    values["shards"] = [{"name": name, "topic": name} for name in ("a", "b")] if sharded else []
    found = {
        maker: pod for maker, pod in pods(render(with_(LEAST, values), apis=[RAY])) if not maker.startswith("Pod/")
    }
    kinds = Counter(maker.split("/")[0] for maker in found)
    learners = 1 + sharded

    assert kinds == Counter(
        {"StatefulSet": learners, "Job": learners, "CronJob": 2 + 2 * learners}
        | ({"RayCluster": 2} if mode == "kuberay" else {})
    )
    for maker, pod in found.items():
        own = container(pod)
        if part == "extras":
            assert {each["name"]: each["value"] for each in EXTRAS["extraEnv"]}.items() <= environment(pod).items(), (
                maker
            )
            assert EXTRAS["extraVolumes"][0] in pod["spec"]["volumes"], maker
            assert EXTRAS["extraVolumeMounts"][0] in own["volumeMounts"], maker
            continue
        source, settings, told = TLS[part]
        wanted = {environment(learner_of(found))[name] for name in settings}
        assert set(files(pod, source)) == wanted, maker
        if maker.startswith(("StatefulSet", "Job")) or (told == "all" and maker.startswith("CronJob")):
            assert {environment(pod)[name] for name in settings} == wanted, maker


@pytest.mark.parametrize("enabled", [0, 1], ids=["by hand", "by schedule"])
def test_authorities_of_the_copy_go_with_its_keys(enabled: int) -> None:
    """Who copies is told of them, and the doctor where copies are made; nobody else. Beside the store's own."""
    source = {"existingSecret": "copy", "key": "copy.pem"}
    over = {
        "tls": {"backupCa": source, "storeCa": {"existingSecret": "s3"}},
        "settings": {"HEADRACE_BACKUP_TO": "s3://copy"},
        "cronJobs": {"backup": {"enabled": bool(enabled)}, "full": {"enabled": True}},
        "ray": MODES["kuberay"],
    }
    found = {
        maker: (environment(pod).get("HEADRACE_BACKUP_CA_FILE"), files(pod, source))
        for maker, pod in pods(render(with_(LEAST, over), apis=[RAY]))
        if not maker.startswith("Pod/")
    }
    told = {"Job/headrace-doctor", "CronJob/headrace-backup"} if enabled else set()

    assert {maker for maker, (named, lies) in found.items() if named or lies} == told
    for maker in told:
        assert found[maker] == ("/etc/headrace/backup-ca/copy.pem", ["/etc/headrace/backup-ca/copy.pem"]), maker


def learner_of(found: dict[str, Manifest]) -> Manifest:
    return next(pod for maker, pod in found.items() if maker.startswith("StatefulSet"))


def files(pod: Manifest, source: dict[str, str]) -> list[str]:
    """The paths at which the pod has what is in a Secret or ConfigMap."""
    name = source.get("existingSecret", source.get("existingConfigMap"))
    inside = {
        volume["name"]: kind["items"]
        for volume in pod["spec"]["volumes"]
        for kind in (volume.get("secret", volume.get("configMap", {})),)
        if name in {kind.get("secretName"), kind.get("name")}
    }
    mounts = [each for each in container(pod)["volumeMounts"] if each["name"] in inside]
    return [f"{each['mountPath']}/{item['path']}" for each in mounts for item in inside[each["name"]]]


@pytest.mark.parametrize("kind", ["Annotations", "Labels"])
def test_pods_that_end_are_marked_apart_from_those_that_stay(kind: str) -> None:
    """A mesh that puts a proxy beside a job keeps it from ending: jobs can opt out while the learner takes part."""
    given = {f"pod{kind}": {"mesh": "in", "a": "b"}, f"jobPod{kind}": {"mesh": "out"}}
    values = with_(example("strimzi"), {"ray": {"mode": "kuberay"}, **given})
    found = {maker: pod["metadata"][kind.lower()] for maker, pod in pods(render(values, apis=[RAY]))}
    stay = {"StatefulSet/headrace", "RayCluster/headrace-ray/head", "RayCluster/headrace-ray/learners"}

    assert {maker.split("/")[0] for maker in found.keys() - stay} == {"Job", "CronJob", "Pod"}
    for maker, marks in found.items():
        assert marks.get("mesh") == ("in" if maker in stay else "out"), maker
        assert marks.get("a") == ("b" if maker in stay else None), maker


def test_no_label_takes_a_pod_from_its_selectors() -> None:
    """Nor an annotation the test's pod from Helm. What is given under such a name does not count."""
    own = {f"app.kubernetes.io/{name}": "x" for name in ("name", "instance", "component")} | {"headrace/shard": "x"}
    over = {"jobPodAnnotations": {"helm.sh/hook": "x"}} | dict.fromkeys(
        ("podLabels", "jobPodLabels", "commonLabels"), own
    )
    values = with_(example("strimzi"), {"ray": {"mode": "kuberay"}})
    plain = {maker: labels(pod) for maker, pod in pods(render(values, apis=[RAY]))}
    manifests = render(with_(values, over), apis=[RAY])

    assert is_test(only(manifests, "Pod", hooks=True))
    for maker, pod in pods(manifests):
        assert matches({name: plain[maker][name] for name in own.keys() & plain[maker].keys()}, labels(pod)), maker
    for each in manifests:
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        if each["kind"] == "StatefulSet":
            assert matches(each["spec"]["selector"]["matchLabels"], labels(each["spec"]["template"]))


def test_learners_spread() -> None:
    """Over zones and nodes, counting this release's learners; a selector of one's own is left alone."""
    own = {
        "maxSkew": 2,
        "topologyKey": "rack",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}},
    }
    counted = {
        f"app.kubernetes.io/{name}": value
        for name, value in (("name", "headrace"), ("instance", RELEASE), ("component", "learner"))
    }
    default = learner(rendered("embedded"))["spec"]["topologySpreadConstraints"]

    assert [each["topologyKey"] for each in default] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert [each["labelSelector"] for each in default] == [{"matchLabels": counted}] * 2
    assert learner(render(with_(LEAST, {"topologySpreadConstraints": [own]})))["spec"]["topologySpreadConstraints"] == [
        own
    ]


def test_a_volume_only_on_request() -> None:
    """Nothing needs one. With one, the doctor, who comes before it, has a place in its stead."""
    manifests = rendered("directory")
    claim = only(manifests, "StatefulSet")["spec"]["volumeClaimTemplates"][0]
    kept = only(manifests, "StatefulSet")["spec"]["persistentVolumeClaimRetentionPolicy"]
    doctor = only(manifests, "Job", hooks=True)["spec"]["template"]

    assert "volumeClaimTemplates" not in only(rendered("embedded"), "StatefulSet")["spec"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    assert kept == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert {"name": "data", "mountPath": "/var/lib/headrace"} in container(learner(manifests))["volumeMounts"]
    assert {"name": "data", "emptyDir": {}} in doctor["spec"]["volumes"]


def test_images_by_tag_and_by_digest() -> None:
    digest = f"sha256:{'a' * 64}"
    tagged = {"image": {"repository": "registry.example/headrace", "tag": "1.2"}}
    for over, wanted in (
        (tagged, "registry.example/headrace:1.2"),
        (with_(tagged, {"image": {"digest": digest}}), f"registry.example/headrace@{digest}"),
    ):
        assert {container(pod)["image"] for _, pod in pods(render(with_(LEAST, over)))} == {wanted}


def test_names_stay_within_bounds() -> None:
    """However long the release and the shards are called: a CronJob's name has 52 letters at most, others 63."""
    shard = {"name": "shard-of-fifteen"[:15], "topic": "t"}
    values = with_(LEAST, {"shards": [shard], "cronJobs": {"retrain": {"enabled": True}}})
    for each in render(values, release="r" * 53, apis=[MONITORING]):
        most = 52 if each["kind"] in {"CronJob", "StatefulSet"} else 63
        assert len(each["metadata"]["name"]) <= most, each["metadata"]["name"]
        assert each["metadata"]["name"].strip("-") == each["metadata"]["name"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "kuberay"])
def test_lint_has_nothing_to_say(name: str) -> None:
    """`helm lint --strict`, for each example. It knows no cluster, so nothing that a RayCluster could be for."""
    done = helm(
        "lint", "--strict", "--kube-version", KUBERNETES, str(CHART), "--values", str(CHART / f"examples/{name}.yaml")
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes in a manifest: Helm shows them after an installation only."""
    chart = tmp_path_factory.mktemp("noted") / "headrace"
    shutil.copytree(CHART, chart)
    text = (chart / "templates/NOTES.txt").read_text()
    (chart / "templates/_notes.tpl").write_text(f'{{{{- define "notes" }}}}{text}{{{{ end -}}}}')
    body = 'kind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | quote }}\n'
    (chart / "templates/notes.yaml").write_text(body)
    return chart


def test_notes_say_the_next_command(noted: Path) -> None:
    """And what to mind: what is in the open, what is kept readable, what does not watch."""
    own = {"secrets": {name: {"existingSecret": "", "value": "v"} for name in STORE}}
    values = with_(with_(example("embedded"), own), {"networkPolicy": {"enabled": False}})
    said = only(render(values, chart=noted), "Notes")["text"]
    content = only(rendered("strimzi", chart=noted), "Notes")["text"]
    apart = only(rendered("kuberay", chart=noted), "Notes")["text"]

    assert "rollout status statefulset/headrace" in said
    assert "helm test headrace -n clicks" in said
    assert "secrets.HEADRACE_STORE_SECRET_KEY.existingSecret" in said
    assert "HEADRACE_KAFKA_SECURITY=SASL_SSL" in said
    assert "networkPolicy.enabled=false" in said
    assert "kube-prometheus-stack" in said
    assert (
        "HEADRACE_MODEL_MEMORY_BYTES is not set: tables grow to their caps, whatever resources.limits.memory=4Gi"
        in said
    )
    assert "whatever ray.kuberay.workers.resources.limits.memory=4Gi" in apart
    assert "helm test headrace -n clicks" in content
    assert "Mind:" not in content


def test_template_never_asks_a_cluster() -> None:
    """Rendering is the same with no cluster in reach: what Argo CD does."""
    done = template(example("embedded"), "--kubeconfig", "/nonexistent")

    assert done.returncode == 0, done.stderr
