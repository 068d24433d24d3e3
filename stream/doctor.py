"""The doctor: is everything there that a run needs? One line each, with what to do about it. Never raises.

It writes and removes small probe objects in the store, starts and stops a Ray, and changes nothing else.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from botocore.exceptions import ClientError

from stream import actor
from stream.backup import note
from stream.errors import ConfigError, HeadraceError
from stream.kafka.link import KafkaSettings, topic_partitions
from stream.naming import Layout
from stream.probe import probe
from stream.settings.settings import Settings
from stream.store.s3 import S3Store
from stream.wiring import kafka_settings, open_backup, open_store, ray_config, s3_settings

State = Literal["ok", "warn", "fail"]

SKEW_SECONDS_MAX: Final = 60.0
GRACE_SECONDS_MIN: Final = 120.0
"""What a request may be under way: a client's time-outs and tries together, and a sleeper's first request after it."""
DISK_BYTES_MIN: Final = 1 << 30
LEARNER_BYTES: Final = 1 << 30
KAFKA_SECONDS: Final = 5.0
# No clock that runs right is before the day this was written.
WRITTEN: Final = 1_795_392_000.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy`: what to do, empty when all is well."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def diagnose(arguments: Mapping[str, object] | None = None) -> Iterator[Check]:
    """All checks, beginning with the configuration itself; without a valid one its problems are all."""
    try:
        settings = Settings.load(arguments)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield Check("configuration", "fail", problem, "correct it; docs/settings.md lists all settings")
        return
    yield from checks(settings)


def checks(settings: Settings) -> Iterator[Check]:
    """Look at everything, one after another; the slow ones answer or time out within some seconds each."""
    for name, examine in _EXAMINATIONS.items():
        try:
            yield from examine(settings)
        except HeadraceError as error:
            yield Check(name, "fail", _one_line(str(error)), _REMEDIES[name])
        except Exception as error:  # noqa: BLE001 - a doctor who falls ill at one finding helps nobody
            yield Check(name, "fail", _one_line(f"{type(error).__name__}: {error}"), _REMEDIES[name])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _configuration(settings: Settings) -> Iterator[Check]:
    given = [row for row in settings.effective() if row.source != "default"]
    yield Check("configuration", "ok", f"valid; {len(given)} set, the rest by default (`headrace config` shows them)")
    if (grace := settings.stream.gc_grace_seconds) < GRACE_SECONDS_MIN:
        detail = f"what is collected is only {grace:g} s old: a request that comes later than that finds its slot empty"
        remedy = f"set HEADRACE_STREAM_GC_GRACE_SECONDS to {GRACE_SECONDS_MIN:g} or more (3600 by default)"
        yield Check("collection", "warn", detail, remedy)


def _kafka(settings: Settings) -> Iterator[Check]:
    link = replace(kafka_settings(settings), start_seconds_max=KAFKA_SECONDS)
    partitions = topic_partitions(link, link.topic)
    yield Check("kafka", "ok", f"a broker answers at {link.bootstrap_servers}")
    yield _topic(link, partitions)
    yield _dead_letters(link, settings.kafka.dead_letter_topic)


def _topic(link: KafkaSettings, partitions: list[int]) -> Check:
    if partitions:
        return Check("topic", "ok", f"{link.topic} has {len(partitions)} partitions")
    create = f"kafka-topics.sh --bootstrap-server {link.servers[0]} --create --topic {link.topic} --partitions 4"
    return Check(
        "topic", "fail", f"there is no topic {link.topic}", f"create it: {create}; or set HEADRACE_KAFKA_TOPIC"
    )


def _dead_letters(link: KafkaSettings, topic: str) -> Check:
    partitions = topic_partitions(link, topic)
    if partitions:
        return Check("dead-letter topic", "ok", f"{topic} has {len(partitions)} partitions")
    return Check("dead-letter topic", "ok", f"{topic} does not exist yet; the first start makes it")


def _store(settings: Settings) -> Iterator[Check]:
    store = open_store(settings)
    probe(store, Layout(settings.store.prefix, settings.store.lineage or "main"))
    where = f"{settings.store.bucket} at {settings.store.endpoint or 'AWS'}" if settings.store.is_s3 else repr(store)
    yield Check("store", "ok", f"{where}: reads, writes, and refuses the second writer")


def _backup(settings: Settings) -> Iterator[Check]:
    """Only where copies are made. The copy's store must be one that a service could go on with."""
    if not settings.backup.to:
        return
    target = open_backup(settings)
    layout = Layout(settings.store.prefix, settings.store.lineage or "main")
    probe(target, layout)
    known = note.read(target, layout)
    held = f"a copy up to plan {known.note.seq}, of {known.note.at}" if known is not None else "no copy yet"
    yield Check("backup", "ok", f"{settings.backup.to}: {held}; a service could go on there")


def _clock(settings: Settings) -> Iterator[Check]:
    now = time.time()
    if now < WRITTEN:
        yield Check("clock", "fail", f"the clock says {time.ctime(now)}, which is past", _REMEDIES["clock"])
    elif not settings.store.is_s3:
        yield Check("clock", "ok", f"{time.ctime(now)}; nothing to compare it with")
    else:
        yield _skew(_store_seconds(settings) - now)


def _skew(seconds: float) -> Check:
    if abs(seconds) > SKEW_SECONDS_MAX:
        detail = f"the store's clock is {seconds:+.0f} s from ours; S3 refuses requests from 900 s on"
        return Check("clock", "fail" if abs(seconds) > 900 else "warn", detail, _REMEDIES["clock"])
    return Check("clock", "ok", f"within {abs(seconds):.1f} s of the store's")


def _store_seconds(settings: Settings) -> float:
    """What the store's clock says, seconds since the epoch, from the Date of a reply."""
    client = S3Store(s3_settings(settings)).client
    try:
        reply: Mapping[str, Any] = client.head_bucket(Bucket=settings.store.bucket)
    except ClientError as error:  # a refusal has a date too; what is refused is another check's finding
        reply = cast("Mapping[str, Any]", error.response)
    return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()


def _ray(settings: Settings) -> Iterator[Check]:
    import ray

    config = ray_config(settings)
    where = config.address or "embedded"
    ours = not ray.is_initialized()
    try:
        actor.connect(config)
        resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield _cpus(where, resources.get("CPU", 0.0))
    finally:
        if ours:
            actor.disconnect()


def _cpus(where: str, cpus: float) -> Check:
    if cpus < 1:
        return Check(
            "ray", "fail", f"{where}: no CPU, the learner needs one", "add a node, or free a CPU (`ray status`)"
        )
    return Check("ray", "ok", f"{where}: answers, with {cpus:g} CPUs")


def _disk(settings: Settings) -> Iterator[Check]:
    """Checkpoints are written to the temporary folder before they go to the store; a local store needs room too."""
    folders = {"disk": tempfile.gettempdir()}
    if not settings.store.is_s3:
        folders["disk of the store"] = settings.store.location
    for name, folder in folders.items():
        free = shutil.disk_usage(_existing(Path(folder))).free
        enough = free >= DISK_BYTES_MIN
        detail = f"{free / 2**30:.1f} GiB free in {folder}"
        yield Check(
            name, "ok" if enough else "warn", detail, "" if enough else f"free {folder}, or point TMPDIR elsewhere"
        )


def _existing(path: Path) -> Path:
    """The path or its nearest parent that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _memory(settings: Settings) -> Iterator[Check]:
    needed = settings.stream.buffer_high_bytes * 2 + settings.ray.object_store_bytes + LEARNER_BYTES
    free = _available_bytes()
    detail = f"{free / 2**30:.1f} GiB available, {needed / 2**30:.1f} GiB wanted for buffers, Ray and the model"
    if free >= needed:
        yield Check("memory", "ok", detail)
    else:
        yield Check("memory", "warn", detail, _REMEDIES["memory"])
    yield from _shared_memory(settings)


def _shared_memory(settings: Settings) -> Iterator[Check]:
    room = Path("/dev/shm")  # noqa: S108 - Ray's own place for its object store
    if settings.ray.address or not room.exists():
        return
    free, wanted = shutil.disk_usage(room).free, settings.ray.object_store_bytes
    detail = f"{free / 2**20:.0f} MiB free in {room}, Ray's object store takes {wanted / 2**20:.0f} MiB"
    remedy = "raise it (docker run --shm-size, an emptyDir of medium Memory), or lower HEADRACE_RAY_OBJECT_STORE_BYTES"
    yield Check("shared memory", "ok", detail) if free >= wanted else Check("shared memory", "warn", detail, remedy)


def _available_bytes() -> int:
    """What this process may still take: of the machine, or of its container where that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


def _kernels(_settings: Settings) -> Iterator[Check]:
    """Asks numba itself where it would put a kernel: it raises when there is no place."""
    from numba.core.caching import FunctionCache

    from model import kernels

    place = FunctionCache(kernels.compiled).cache_path  # type: ignore[no-untyped-call]
    tempfile.TemporaryFile(dir=_existing(Path(place))).close()
    yield Check("kernel cache", "ok", f"compiled kernels are kept in {place}")


def _http(settings: Settings) -> Iterator[Check]:
    if not settings.http.enabled:
        yield Check("http", "warn", "off: no metrics, no health, no recommendations", "set HEADRACE_HTTP_ENABLED=true")
        return
    host, port = settings.http.host, settings.http.port
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with closing(socket.create_server(address[:2], family=family)):
        yield Check("http", "ok", f"{host} port {port} is free")


_EXAMINATIONS: Final[Mapping[str, Callable[[Settings], Iterator[Check]]]] = {
    "configuration": _configuration,
    "kafka": _kafka,
    "store": _store,
    "backup": _backup,
    "clock": _clock,
    "ray": _ray,
    "http": _http,
    "disk": _disk,
    "memory": _memory,
    "kernel cache": _kernels,
}
_REMEDIES: Final[Mapping[str, str]] = {
    "configuration": "see docs/settings.md",
    "kafka": "start a broker, or set HEADRACE_KAFKA_BOOTSTRAP, HEADRACE_KAFKA_SECURITY and HEADRACE_KAFKA_SASL_*",
    "store": "start the store and make the bucket, or correct HEADRACE_STORE_ENDPOINT, "
    "HEADRACE_STORE_BUCKET, HEADRACE_STORE_ACCESS_KEY and HEADRACE_STORE_SECRET_KEY",
    "backup": "make the bucket, or correct HEADRACE_BACKUP_TO, HEADRACE_BACKUP_ENDPOINT, "
    "HEADRACE_BACKUP_ACCESS_KEY and HEADRACE_BACKUP_SECRET_KEY",
    "clock": "set this machine's clock by NTP (timedatectl set-ntp true), or the store's",
    "ray": "unset RAY_ADDRESS to run Ray inside this machine; or start the cluster (ray start --head "
    "--ray-client-server-port=10001) and, if it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
    "http": "stop what listens there (another Headrace?), or set HEADRACE_HTTP_PORT and HEADRACE_HTTP_HOST",
    "disk": "set TMPDIR to a folder that can be written",
    "memory": "give it more, or lower HEADRACE_STREAM_BUFFER_HIGH_BYTES and HEADRACE_RAY_OBJECT_STORE_BYTES",
    "kernel cache": "set NUMBA_CACHE_DIR to a folder that can be written: every start would compile for a minute",
}
