"""The schema of the chart's values: `python helm/schema.py` makes helm/headrace/values.schema.json anew.

What is under `settings` and `secrets` comes from Headrace's own options, so the two cannot say different things. No
key is let through that is not written here: a slip of the pen is refused by name, before anything is made.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import AfterValidator

from stream.settings.fields import Option, check_brokers, check_url
from stream.settings.settings import OPTIONS

FILE: Final = Path(__file__).parent / "headrace" / "values.schema.json"
SAFE: Final = (1 << 53) - 1
"""Helm reads numbers as floats: a larger one would come out as another."""
SIZE: Final = r"^[0-9]+(\.[0-9]+)?\s*([KMGTkmgt]i?[Bb]|[Bb])?$"
PRIORITIES: Final = r"^\s*[^=,\s]+\s*=\s*-?[0-9.]+\s*(,\s*[^=,\s]+\s*=\s*-?[0-9.]+\s*)*$"
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
PATTERNS: Final[Mapping[Any, str]] = {
    check_brokers: rf"^\s*{_HOST}:[0-9]{{1,5}}\s*(,\s*{_HOST}:[0-9]{{1,5}}\s*)*$",
    check_url: rf"^(https?://)?{_HOST}(:[0-9]{{1,5}})?(/[^@?\s]*)?$",
}
"""Of what is checked by code."""
OTHERS: Final = {"RAY_AUTH_TOKEN": "Token of the Ray cluster, which Ray itself reads."}
"""Secrets that are no setting of Headrace's."""

Schema = dict[str, Any]


def closed(**properties: Schema) -> Schema:
    """An object that has these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def text(pattern: str = "") -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {})}


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def count(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def maybe(schema: Schema) -> Schema:
    """The same, or nothing."""
    return {**schema, "type": [schema["type"], "null"]}


def strings() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


BOOL: Final[Schema] = {"type": "boolean"}
KUBERNETES: Final[Schema] = {"type": "object"}
"""A piece of Kubernetes' own: its API server knows better than we."""
NAME: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|[kKMGTPE]i?)?$"
SCHEDULE: Final = r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+( +\S+){4})$"
DURATION: Final = r"^([0-9]+(ms|s|m|h))+$"


def setting(option: Option) -> Schema:
    """What may stand for one setting: its type and its range. Empty text counts as not set."""
    return {"description": f"{option.info.description} Allowed: {option.allowed}."} | _kind(option)


def _kind(option: Option) -> Schema:
    kind = option.info.annotation
    if typing.get_origin(kind) is typing.Literal:
        return one_of(*sorted({"", *map(str, typing.get_args(kind))}))
    if option.extra["unit"] == "bytes":
        # The range is that of plain numbers; the doctor knows it of text, too.
        return {"type": ["integer", "string"], "pattern": f"{SIZE}|^$"} | _bounds(option)
    if kind is str:
        return {"type": "string"} | _pattern(option) | _bounds(option)
    if kind in _TYPES:
        return {"type": _TYPES[kind]} | _bounds(option)
    return {"type": "string", "pattern": f"{PRIORITIES}|^$"}


_TYPES: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number"}
_WORDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "max_length": "maxLength",
}


def _bounds(option: Option) -> Schema:
    """The bounds of the option, in the schema's words."""
    found = {
        word: getattr(bound, name)
        for bound in option.info.metadata
        for name, word in _WORDS.items()
        if getattr(bound, name, None) is not None
    }
    return found | ({"maximum": min(found["maximum"], SAFE)} if "maximum" in found else {})


def _pattern(option: Option) -> Schema:
    """The pattern that the option's own validator matches, if it has one. Go knows no lookahead, so that goes."""
    for validator in option.info.metadata:
        if isinstance(validator, AfterValidator):
            function = validator.func
            compiled = inspect.getclosurevars(function).nonlocals.get("compiled")
            own = f"^({compiled.pattern.removeprefix(_LOOKAHEAD)})$" if compiled else PATTERNS.get(function)
            return {"pattern": f"{own}|^$"} if own else {}
    return {}


_LOOKAHEAD: Final = r"(?!\.{1,2}$)"


def secret(description: str) -> Schema:
    return closed(existingSecret=text(NAME), key=text(r"^[-._a-zA-Z0-9]*$"), value=text()) | {
        "description": description
    }


def settings() -> Schema:
    """All settings. Secrets among them are let through here and refused by the templates, with the remedy."""
    return closed(**{option.names[0]: {} if option.secret else setting(option) for option in OPTIONS})


def secrets() -> Schema:
    own = {option.names[0]: option.info.description or "" for option in OPTIONS if option.secret}
    return closed(**{name: secret(description) for name, description in (own | OTHERS).items()})


def shards() -> Schema:
    shard = closed(
        # 15: see headrace.fullname.
        name=text(r"^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$"),
        topic={"$ref": "#/properties/settings/properties/HEADRACE_KAFKA_TOPIC"},
        prefix={"$ref": "#/properties/settings/properties/HEADRACE_STORE_PREFIX"},
        lineage={"$ref": "#/properties/settings/properties/HEADRACE_STORE_LINEAGE"},
        group={"$ref": "#/properties/settings/properties/HEADRACE_KAFKA_GROUP"},
        settings={"$ref": "#/properties/settings"},
        resources=KUBERNETES,
    )
    return listed(shard | {"required": ["name", "topic"]})


def probe() -> Schema:
    return closed(
        initialDelaySeconds=count(0),
        periodSeconds=count(1),
        timeoutSeconds=count(1),
        failureThreshold=count(1),
        successThreshold=count(1),
        terminationGracePeriodSeconds=count(1),
    )


def ca() -> Schema:
    return closed(existingSecret=text(NAME), existingConfigMap=text(NAME), key=text(r"^[-._a-zA-Z0-9]+$"))


def cron(**more: Schema) -> Schema:
    return closed(enabled=BOOL, schedule=text(SCHEDULE), **more)


def ray() -> Schema:
    return closed(
        mode=one_of("embedded", "external", "kuberay"),
        # Ray Client alone: host:port wants a Ray on the same machine, which a pod is not.
        address=text(rf"^(ray://{_HOST}:[0-9]{{1,5}})?$"),
        kuberay=closed(
            rayVersion=text(r"^[0-9]+\.[0-9]+\.[0-9]+$"),
            head=closed(resources=KUBERNETES),
            workers=closed(replicas=maybe(count(1)), cpus=count(1), resources=KUBERNETES),
            shmSizeLimit=text(QUANTITY),
            nodeSelector=strings(),
            tolerations=listed(KUBERNETES),
            affinity=KUBERNETES,
        ),
    )


def monitoring() -> Schema:
    wanted = one_of("auto", True, False)
    return closed(
        labels=strings(),
        serviceMonitor=closed(
            enabled=wanted,
            interval=text(DURATION),
            scrapeTimeout=text(DURATION),
            relabelings=listed(KUBERNETES),
            metricRelabelings=listed(KUBERNETES),
        ),
        rules=closed(enabled=wanted, runbookUrl=text(r"^(https?://\S+)?$")),
        dashboards=closed(enabled=wanted, labels=strings(), annotations=strings()),
    )


def network_policy() -> Schema:
    peers = listed(KUBERNETES)
    return closed(
        enabled=BOOL,
        httpFrom=peers,
        adminFrom=peers,
        rayFrom=peers,
        egress=closed(enabled=BOOL, rules=listed(KUBERNETES)),
    )


def cron_jobs() -> Schema:
    return closed(
        incremental=cron(),
        full=cron(),
        retrain=cron(since=text(), epochs=maybe(count(1, 1000))),
        backup=cron(resources=KUBERNETES),
        timeZone=text(),
        suspend=BOOL,
        startingDeadlineSeconds=count(10),
        activeDeadlineSeconds=count(60),
        backoffLimit=count(0),
        successfulJobsHistoryLimit=count(0),
        failedJobsHistoryLimit=count(0),
        resources=KUBERNETES,
    )


def persistence() -> Schema:
    kept = one_of("Retain", "Delete")
    return closed(
        enabled=BOOL,
        mountPath=text(r"^/.+$"),
        size=text(QUANTITY),
        storageClassName=text(),
        accessModes=listed(one_of("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany")),
        annotations=strings(),
        retention=closed(whenDeleted=kept, whenScaled=kept),
    )


def values() -> Schema:
    """All of it."""
    return closed(
        **{"global": KUBERNETES},  # Helm's own: what a chart above this one hands down
        nameOverride=text(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"),
        fullnameOverride=text(r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$") | {"maxLength": 36},
        commonLabels=strings(),
        commonAnnotations=strings(),
        image=closed(
            repository=text(r"^\S+$"),
            tag=text(r"^[A-Za-z0-9_.-]*$"),
            digest=text(r"^(sha256:[0-9a-f]{64})?$"),
            pullPolicy=one_of("Always", "IfNotPresent", "Never"),
            pullSecrets=listed(closed(name=text(NAME))),
        ),
        settings=settings(),
        secrets=secrets(),
        checkSecrets=BOOL,
        tls=closed(
            storeCa=ca(),
            backupCa=ca(),
            kafkaCa=ca(),
            kafkaClient=closed(existingSecret=text(NAME), certKey=text(), keyKey=text()),
        ),
        shards=shards(),
        ray=ray(),
        admin=closed(enabled=BOOL),
        service=closed(
            type=one_of("ClusterIP", "NodePort", "LoadBalancer"), port=count(1, 65535), annotations=strings()
        ),
        resources=KUBERNETES,
        shm=closed(sizeLimit=text(QUANTITY)),
        tmp=closed(sizeLimit=text(QUANTITY)),
        persistence=persistence(),
        terminationGracePeriodSeconds=maybe(count(1)),
        probes=closed(startup=probe(), liveness=probe(), readiness=probe()),
        podDisruptionBudget=closed(
            enabled=BOOL, maxUnavailable={"type": ["integer", "string"], "minimum": 1, "pattern": r"^[0-9]+%$"}
        ),
        networkPolicy=network_policy(),
        serviceAccount=closed(create=BOOL, name=text(NAME), annotations=strings()),
        podSecurityContext=KUBERNETES,
        securityContext=KUBERNETES,
        nodeSelector=strings(),
        tolerations=listed(KUBERNETES),
        affinity=KUBERNETES,
        topologySpreadConstraints=listed(KUBERNETES),
        priorityClassName=text(NAME),
        podAnnotations=strings(),
        podLabels=strings(),
        jobPodAnnotations=strings(),
        jobPodLabels=strings(),
        extraEnv=listed(
            {"type": "object", "required": ["name"], "properties": {"name": text(r"^[A-Za-z_][A-Za-z0-9_]*$")}}
        ),
        extraVolumes=listed(KUBERNETES),
        extraVolumeMounts=listed(KUBERNETES),
        doctor=closed(enabled=BOOL, activeDeadlineSeconds=count(10), resources=KUBERNETES),
        cronJobs=cron_jobs(),
        monitoring=monitoring(),
        test=closed(resources=KUBERNETES),
    )


def main() -> None:
    """Write the schema."""
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart headrace",
        **values(),
    }
    FILE.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
