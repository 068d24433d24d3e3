"""Values that are right one by one and wrong together: refused before anything is made, with the key and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.chart import LEAST, RAY, refused, render, with_

SECRET = {"existingSecret": "store"}
BOTH = {"secrets": {"HEADRACE_STORE_ACCESS_KEY": SECRET, "HEADRACE_STORE_SECRET_KEY": SECRET}}
LOGIN = {"HEADRACE_KAFKA_SASL_MECHANISM": "PLAIN", "HEADRACE_KAFKA_SASL_USERNAME": "u"}
PASSWORD = {"HEADRACE_KAFKA_SASL_PASSWORD": {"existingSecret": "kafka"}}
TWO = [{"name": "a", "topic": "a"}, {"name": "b", "topic": "b"}]
DIRECTORY = {"settings": {"HEADRACE_STORE": "/var/lib/headrace/store"}, "persistence": {"enabled": True}}

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no broker": (
        {"settings": {"HEADRACE_KAFKA_BOOTSTRAP": ""}},
        "settings.HEADRACE_KAFKA_BOOTSTRAP is empty",
        "host:port",
    ),
    "a secret among the settings": (
        {"settings": {"HEADRACE_STORE_SECRET_KEY": "x"}},
        "settings.HEADRACE_STORE_SECRET_KEY is a secret",
        "secrets.HEADRACE_STORE_SECRET_KEY.existingSecret",
    ),
    "a secret among a shard's settings": (
        {"shards": [{"name": "a", "topic": "a", "settings": {"HEADRACE_KAFKA_SASL_PASSWORD": "x"}}]},
        "shards[a].settings.HEADRACE_KAFKA_SASL_PASSWORD is a secret",
        "secrets.HEADRACE_KAFKA_SASL_PASSWORD.existingSecret",
    ),
    "a shard's topic among its settings": (
        {"shards": [{"name": "a", "topic": "a", "settings": {"HEADRACE_KAFKA_TOPIC": "b"}}]},
        "shards[a].settings.HEADRACE_KAFKA_TOPIC would not count",
        "say shards[a].topic",
    ),
    "Ray's address among the settings": (
        {"settings": {"HEADRACE_RAY_ADDRESS": "ray://x:1"}},
        "settings.HEADRACE_RAY_ADDRESS is set by the chart",
        "ray.mode and ray.address",
    ),
    "a port of the pod": (
        {"settings": {"HEADRACE_HTTP_PORT": 9090}},
        "HEADRACE_HTTP_PORT is set by the chart",
        "service.port",
    ),
    "no probes": (
        {"settings": {"HEADRACE_HTTP_ENABLED": False}},
        "HEADRACE_HTTP_ENABLED is set by the chart",
        "probes",
    ),
    "half a login at the store": (
        {"secrets": {"HEADRACE_STORE_ACCESS_KEY": SECRET}},
        "secrets.HEADRACE_STORE_ACCESS_KEY and secrets.HEADRACE_STORE_SECRET_KEY",
        "give both, or neither",
    ),
    "a secret from two places": (
        with_(BOTH, {"secrets": {"HEADRACE_STORE_ACCESS_KEY": {"value": "x"}}}),
        "secrets.HEADRACE_STORE_ACCESS_KEY has both",
        "keep one",
    ),
    "SASL without its password": (
        {"settings": {"HEADRACE_KAFKA_SECURITY": "SASL_SSL", **LOGIN}},
        "HEADRACE_KAFKA_SECURITY=SASL_SSL needs",
        "secrets.HEADRACE_KAFKA_SASL_PASSWORD",
    ),
    "a password that is not sent": (
        {"secrets": PASSWORD},
        "HEADRACE_KAFKA_SECURITY=PLAINTEXT sends none",
        "set it to SASL_SSL",
    ),
    "rejects that loop": (
        {"settings": {"HEADRACE_KAFKA_TOPIC": "t", "HEADRACE_KAFKA_DEAD_LETTER_TOPIC": "t"}},
        "settings.HEADRACE_KAFKA_DEAD_LETTER_TOPIC is the topic of the clicks",
        "name another",
    ),
    "an authority from two places": (
        {"tls": {"kafkaCa": {"existingSecret": "a", "existingConfigMap": "b"}}},
        "tls.kafkaCa has both",
        "keep one",
    ),
    "the copy's authority from two places": (
        {"tls": {"backupCa": {"existingSecret": "a", "existingConfigMap": "b"}}},
        "tls.backupCa has both",
        "keep one",
    ),
    "an admin door without a token": (
        {"admin": {"enabled": True}},
        "admin.enabled",
        "secrets.HEADRACE_ADMIN_TOKEN.existingSecret",
    ),
    "external Ray without an address": (
        {"ray": {"mode": "external"}},
        "ray.mode=external needs ray.address",
        "ray://HOST:10001",
    ),
    "an address that is not used": (
        {"ray": {"address": "ray://x:1"}},
        "ray.mode=embedded does not use it",
        "set ray.mode to external",
    ),
    "a token that is not used": (
        {"secrets": {"RAY_AUTH_TOKEN": {"existingSecret": "ray"}}},
        "secrets.RAY_AUTH_TOKEN is for ray.mode=external",
        "remove it",
    ),
    "KubeRay without its operator": (
        {"ray": {"mode": "kuberay"}},
        "does not know ray.io/v1",
        "install the KubeRay operator",
    ),
    "too little shared memory": (
        {"shm": {"sizeLimit": "128Mi"}},
        "shm.sizeLimit=128Mi is less than HEADRACE_RAY_OBJECT_STORE_BYTES=256MiB",
        "Raise the one or lower the other",
    ),
    "too large an object store": (
        {"settings": {"HEADRACE_RAY_OBJECT_STORE_BYTES": 1073741824}},
        "HEADRACE_RAY_OBJECT_STORE_BYTES=1073741824",
        "Raise the one or lower the other",
    ),
    "less memory than the model may take": (
        {"settings": {"HEADRACE_MODEL_MEMORY_BYTES": "4GiB"}},
        "resources.limits.memory=4Gi is less than HEADRACE_MODEL_MEMORY_BYTES=4GiB",
        "Raise the limit or lower the budget",
    ),
    "a shard with less memory than its model may take": (
        {
            "settings": {"HEADRACE_MODEL_MEMORY_BYTES": "3GiB"},
            "shards": [
                {"name": "a", "topic": "a"},
                {"name": "b", "topic": "b", "resources": {"limits": {"memory": "2Gi"}}},
            ],
        },
        "resources.limits.memory=2Gi is less than",
        "Raise the limit",
    ),
    "a worker with less memory than the model may take": (
        {"settings": {"HEADRACE_MODEL_MEMORY_BYTES": "3.6GiB"}, "ray": {"mode": "kuberay"}},
        "ray.kuberay.workers.resources.limits.memory=4Gi is less than HEADRACE_MODEL_MEMORY_BYTES=3.6GiB and ray",
        "Raise the limit or lower the budget",
    ),
    "a worker with less memory than a shard's model may take": (
        {
            "ray": {"mode": "kuberay"},
            "shards": [
                {"name": "a", "topic": "a"},
                {"name": "b", "topic": "b", "settings": {"HEADRACE_MODEL_MEMORY_BYTES": "4GiB"}},
            ],
        },
        "ray.kuberay.workers.resources.limits.memory=4Gi is less than HEADRACE_MODEL_MEMORY_BYTES=4GiB",
        "Raise the limit or lower the budget",
    ),
    "a directory that goes with the pod": (
        {"settings": {"HEADRACE_STORE": "/data"}},
        "settings.HEADRACE_STORE=/data is a directory that goes with its pod",
        "set persistence.enabled",
    ),
    "a directory beside the volume": (
        with_(DIRECTORY, {"settings": {"HEADRACE_STORE": "/var/lib/headrace-other"}}),
        "goes with its pod",
        "below persistence.mountPath=/var/lib/headrace",
    ),
    "a directory that a job does not see": (
        with_(DIRECTORY, {"cronJobs": {"full": {"enabled": True}}}),
        "cronJobs.full.enabled",
        "use s3, or disable it",
    ),
    "a directory that another pod does not see": (
        with_(DIRECTORY, {"ray": {"mode": "external", "address": "ray://x:1"}}),
        "a learner in another pod does not see",
        "ray.mode embedded",
    ),
    "two shards of one name": ({"shards": [TWO[0], TWO[0]]}, "two are called a", "a name of its own"),
    "two shards at one place": (
        {"shards": [{**TWO[0], "prefix": "same"}, {**TWO[1], "prefix": "same"}]},
        "a and b keep their state at the same place (warehouse/same)",
        "different prefixes",
    ),
    "too little patience": (
        {"settings": {"HEADRACE_STREAM_DRAIN_SECONDS": 60}, "terminationGracePeriodSeconds": 60},
        "terminationGracePeriodSeconds=60 is too short for HEADRACE_STREAM_DRAIN_SECONDS=60",
        "set 65 or more",
    ),
    "a retrain that nobody would do": (
        {"settings": {"HEADRACE_RETRAIN_ENABLED": False}, "cronJobs": {"retrain": {"enabled": True}}},
        "cronJobs.retrain.enabled: with settings.HEADRACE_RETRAIN_ENABLED=false",
        "disable the other",
    ),
    "copies without a place": (
        {"cronJobs": {"backup": {"enabled": True}}},
        "cronJobs.backup.enabled: settings.HEADRACE_BACKUP_TO must name the bucket",
        "as s3://BUCKET",
    ),
    "copies into the job's own pod": (
        {"settings": {"HEADRACE_BACKUP_TO": "/copy"}, "cronJobs": {"backup": {"enabled": True}}},
        "cronJobs.backup.enabled: settings.HEADRACE_BACKUP_TO must name the bucket",
        "a directory goes with the job's pod",
    ),
    "half a key of the copy": (
        {"secrets": {"HEADRACE_BACKUP_SECRET_KEY": {"existingSecret": "copy"}}},
        "secrets.HEADRACE_BACKUP_ACCESS_KEY and secrets.HEADRACE_BACKUP_SECRET_KEY",
        "give both, or neither",
    ),
    "a variable twice": (
        {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "extraEnv has A twice",
        "keep one",
    ),
    "a setting as a variable": (
        {"extraEnv": [{"name": "HEADRACE_MODEL_DIM", "value": "8"}]},
        "extraEnv has HEADRACE_MODEL_DIM",
        "settings.HEADRACE_MODEL_DIM",
    ),
    "a secret as a variable": (
        {"extraEnv": [{"name": "RAY_AUTH_TOKEN", "value": "t"}]},
        "extraEnv has RAY_AUTH_TOKEN",
        "secrets.RAY_AUTH_TOKEN",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_work_is_refused(case: str) -> None:
    """Nothing is rendered; the sentence names the key and what to do. And nothing else is wrong with the case."""
    over, what, remedy = CASES[case]
    said = refused(with_(LEAST, over), apis=[] if case == "KubeRay without its operator" else [RAY])

    assert what in said
    assert remedy in said.partition(what)[2]
    assert said.partition("The values cannot work:")[2].count(" - ") == 1


def test_everything_is_said_at_once() -> None:
    """One correction after another would cost an installation each."""
    over = {"admin": {"enabled": True}, "shm": {"sizeLimit": "1Mi"}, "ray": {"address": "ray://x:1"}}
    said = refused(with_(LEAST, over)).partition("The values cannot work:")[2]

    assert said.count(" - ") == 3
    for word in ("admin.enabled", "shm.sizeLimit", "ray.address"):
        assert word in said


def test_a_bad_release_name_is_explained() -> None:
    """Names of Services begin with a letter; Helm allows releases that do not."""
    said = refused(LEAST, release="4u")

    assert '"4u-headrace"' in said
    assert "fullnameOverride" in said


def test_the_same_values_put_right() -> None:
    """The cases are refused for what they say, not for what they stand on."""
    for over in (
        DIRECTORY,
        BOTH,
        {"shards": TWO},
        {"settings": {"HEADRACE_KAFKA_SECURITY": "SASL_SSL", **LOGIN}, "secrets": PASSWORD},
    ):
        assert render(with_(LEAST, over))
    for settings in ({}, {"HEADRACE_MODEL_MEMORY_BYTES": "3GiB"}):
        assert render(with_(LEAST, {"ray": {"mode": "kuberay"}, "settings": settings}), apis=[RAY])
