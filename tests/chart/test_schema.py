"""The schema of the values: made from the settings, it agrees with them, and refuses by name what it does not know."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # Ray brings it; a stub for one test would be one more pin
import pytest
import yaml

from helm import schema
from stream.errors import ConfigError
from stream.settings.fields import Option
from stream.settings.settings import OPTIONS, Settings
from tests.chart.chart import CHART, EXAMPLES, LEAST, example, refused, with_

WHOLE = json.loads(schema.FILE.read_text())
SETTINGS = WHOLE["properties"]["settings"]["properties"]
JUDGED_ELSEWHERE = {
    "HEADRACE_RAY_ADDRESS": "refused by the templates, whatever it says",
    **{
        f"HEADRACE_{name}_FILE": "a path in the pod"
        for name in ("STORE_CA", "BACKUP_CA", "KAFKA_SSL_CA", "KAFKA_SSL_CERT", "KAFKA_SSL_KEY")
    },
}
"""Settings of which the schema says no more than that they are text."""
SPOKEN = [option for option in OPTIONS if not option.secret and option.names[0] not in JUDGED_ELSEWHERE]


def test_committed_is_what_the_settings_make() -> None:
    """After a change of an option: `python -m helm.schema`."""
    made = {"$schema": WHOLE["$schema"], "title": WHOLE["title"], **schema.values()}

    assert json.loads(json.dumps(made)) == WHOLE


def test_every_object_is_closed() -> None:
    """Whatever object has keys of ours refuses all others; what is Kubernetes' own is named in values.yaml."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def open_ones(part: Any, path: str) -> Iterator[str]:
        if isinstance(part, dict):
            if "properties" in part and part.get("additionalProperties", True) is not False and path != "extraEnv":
                yield path
            for name, below in part.get("properties", {}).items():
                yield from open_ones(below, f"{path}.{name}".strip("."))
            yield from open_ones(part.get("items"), path)

    assert list(open_ones(WHOLE, "")) == []
    assert WHOLE["properties"].keys() - {"global"} == values.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_shipped_is_right(name: str) -> None:
    """The chart's own values, and each example over them."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    jsonschema.validate(values, WHOLE)
    jsonschema.validate(with_(values, example(name)), WHOLE)


def probes(option: Option) -> Iterator[Any]:
    """Values on both sides of what an option allows."""
    bounds = {
        name: getattr(bound, name)
        for bound in option.info.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(bound, name)
    }
    bounds = {name: value for name, value in bounds.items() if value is not None}
    whole = option.info.annotation is int
    for name, limit in bounds.items():
        yield limit
        outward = -1 if name in {"ge", "gt"} else 1
        yield limit + outward if whole else limit + outward * max(abs(limit), 1) * 0.001
    if option.info.annotation in {int, float} and option.extra["unit"] != "bytes":
        yield from ("many", True)
    if option.info.annotation is int:
        yield 1.5
    if option.info.annotation is bool:
        yield from (True, False, "perhaps")
    if option.field == "type_priorities":
        yield from ("purchase=1, cart=0.5", "cancel=-0.5", "purchase", "=1", "purchase=x", "a=1,,b=2")
    if option.extra["unit"] == "bytes":
        yield from ("1GiB", "100 MB", "8Mi", "a lot", "-1", "1e6")
    if option.info.annotation is str or isinstance(schema.setting(option).get("enum"), list):
        yield from (
            "",
            "clicks",
            "Clicks/2",
            "a b",
            "kafka:9092",
            "kafka",
            "http://x:1",
            "http://u:p@x",
            "purchase=1",
            "/tmp",
            "x" * 300,
        )
        yield from ("info", "json", "latest", "PLAINTEXT", "stop")


def taken(option: Option, value: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether Headrace takes the value, as the chart would write it. What is wrong with others does not count."""
    name = option.names[0]
    text = value if isinstance(value, str) else json.dumps(value)
    with monkeypatch.context() as patch:
        for variable in [variable for variable in os.environ if "HEADRACE" in variable]:
            patch.delenv(variable)
        patch.setenv(name, text)
        try:
            Settings.load()
        except ConfigError as error:
            return not any(line.startswith(f"{name}=") and ": must be" in line for line in str(error).splitlines())
    return True


STRICTER: Mapping[str, list[Any]] = {
    # Helm reads numbers as floats: beyond 2^53 a seed would come out as another.
    "HEADRACE_MODEL_SEED": [(1 << 63) - 1],
    # A comma too many.
    "HEADRACE_MODEL_TYPE_PRIORITIES": ["a=1,,b=2"],
}
"""What Headrace takes and the schema does not."""


def is_text_of_a_size(option: Option, value: Any) -> bool:
    """A size with a unit: its range is the doctor's business. And a fraction of a byte, which Headrace rounds down."""
    return option.extra["unit"] == "bytes" and (
        isinstance(value, float) or bool(re.match(r"\d", str(value)) and isinstance(value, str))
    )


@pytest.mark.parametrize("option", SPOKEN, ids=lambda option: option.names[0])
def test_schema_and_settings_agree(option: Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every bound, and on either side of it, the schema takes what Headrace takes and nothing else."""
    name = option.names[0]
    judge = jsonschema.Draft202012Validator(SETTINGS[name])
    tried = list(probes(option))
    differ = [value for value in tried if judge.is_valid(value) != taken(option, value, monkeypatch)]

    assert tried
    assert [value for value in differ if not is_text_of_a_size(option, value)] == STRICTER.get(name, [])


REFUSED: dict[str, tuple[Any, ...]] = {
    "a typo in a key": ({"ressources": {}}, "ressources"),
    "a typo in a nested key": ({"persistence": {"enable": True}}, "/persistence", "enable"),
    "a typo in a setting": ({"settings": {"HEADRACE_STREAM_BATCH_ROW": 1}}, "/settings", "HEADRACE_STREAM_BATCH_ROW"),
    "a number out of range": ({"settings": {"HEADRACE_STREAM_BATCH_ROWS": 0}}, "HEADRACE_STREAM_BATCH_ROWS", "minimum"),
    "text for a number": (
        {"settings": {"HEADRACE_STREAM_BATCH_ROWS": "many"}},
        "HEADRACE_STREAM_BATCH_ROWS",
        "integer",
    ),
    "a size of Kubernetes": (
        {"settings": {"HEADRACE_STREAM_BATCH_BYTES": "8Mi"}},
        "HEADRACE_STREAM_BATCH_BYTES",
        "pattern",
    ),
    "a broker without a port": (
        {"settings": {"HEADRACE_KAFKA_BOOTSTRAP": "kafka"}},
        "HEADRACE_KAFKA_BOOTSTRAP",
        "pattern",
    ),
    "a word that is none": ({"settings": {"HEADRACE_STREAM_START": "first"}}, "HEADRACE_STREAM_START", "earliest"),
    "a mode that is none": ({"ray": {"mode": "remote"}}, "/ray/mode", "kuberay"),
    "an address without Ray Client": ({"ray": {"mode": "external", "address": "head:6379"}}, "/ray/address"),
    "replicas": ({"replicas": 2}, "replicas"),
    "a setting in a shard": (
        {"shards": [{"name": "a", "topic": "t", "settings": {"HEADRACE_MODEL_DIM": 3}}]},
        "/shards/0/settings/HEADRACE_MODEL_DIM",
    ),
    "a shard without a topic": ({"shards": [{"name": "a"}]}, "/shards/0", "topic"),
    "a secret that is none": ({"secrets": {"HEADRACE_STORE_KEY": {"value": "x"}}}, "/secrets", "HEADRACE_STORE_KEY"),
    "a budget of nothing": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
    "a schedule that is none": ({"cronJobs": {"full": {"schedule": "daily"}}}, "/cronJobs/full/schedule"),
    "a probe's path": ({"probes": {"liveness": {"path": "/readyz"}}}, "/probes/liveness", "path"),
    "yes for auto": ({"monitoring": {"rules": {"enabled": "yes"}}}, "/monitoring/rules/enabled", "auto"),
    "a name with capitals": ({"fullnameOverride": "Headrace"}, "/fullnameOverride"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_refused_by_name(case: str) -> None:
    """Helm itself says which key it is, and what is wrong with it."""
    over, *words = REFUSED[case]
    said = refused(with_(LEAST, over))

    assert "schema" in said
    for word in words:
        assert word in said
