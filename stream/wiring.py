"""From the settings to what each room wants to be told. Small builders, no decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import LearnerConfig
from stream import lineage, versions
from stream.actor import RayConfig
from stream.admin import AdminConfig, Desk
from stream.api import HttpConfig
from stream.batching import CutPolicy, PressurePolicy
from stream.breaker import BreakerPolicy
from stream.decode import DecodeRules
from stream.drifting import DriftPolicy
from stream.errors import ConfigError
from stream.kafka.link import KafkaSettings
from stream.loop import Rhythm
from stream.naming import Layout
from stream.policy import CheckpointPolicy
from stream.ports import ObjectStore
from stream.retrain.actor import Lessons
from stream.settings.settings import Settings
from stream.store.directory import DirectoryStore
from stream.store.s3 import S3Settings, S3Store
from stream.versions import Request, RetrainRefused, Version


def open_store(settings: Settings) -> ObjectStore:
    """The store, not yet asked anything. Raises `ConfigError` or `StoreRefused` when it cannot even be named."""
    store = settings.store
    return S3Store(s3_settings(settings)) if store.is_s3 else DirectoryStore(store.location)


def open_to_read(settings: Settings) -> ObjectStore:
    """The store, but none that would have to be made first: who only reads leaves nothing behind. Raises as above."""
    options = settings.store
    if not options.is_s3 and not Path(options.location).is_dir():
        raise ConfigError(f"there is no folder {options.location}: name the one that `headrace run` was given")
    return open_store(settings)


def open_backup(settings: Settings) -> ObjectStore:
    """Where `headrace backup` copies to. Raises `ConfigError` when it is not said."""
    backup = settings.backup
    if not backup.to:
        raise ConfigError("HEADRACE_BACKUP_TO is not set: name a bucket (s3://BUCKET) or a directory, or say --to")
    if not backup.to.startswith("s3://"):
        return DirectoryStore(backup.to)
    own = s3_settings(settings)
    keys = backup if backup.access_key.get_secret_value() else settings.store
    return S3Store(
        replace(
            own,
            bucket=backup.to.removeprefix("s3://"),
            endpoint=backup.endpoint or own.endpoint,
            access_key=keys.access_key.get_secret_value(),
            secret_key=keys.secret_key.get_secret_value(),
            region=backup.region or own.region,
            ca_file=backup.ca_file or own.ca_file,
        )
    )


def location(settings: Settings) -> str:
    """The bucket or directory, however it was named. Not by which endpoint: one store may have several."""
    store = settings.store
    return f"s3://{store.bucket}" if store.is_s3 else str(Path(store.location).resolve())


def s3_settings(settings: Settings) -> S3Settings:
    store = settings.store
    return S3Settings(
        bucket=store.bucket,
        endpoint=store.endpoint,
        access_key=store.access_key.get_secret_value(),
        secret_key=store.secret_key.get_secret_value(),
        region=store.region,
        ca_file=store.ca_file,
        connect_seconds=store.connect_seconds,
        read_seconds=store.read_seconds,
        attempts=store.attempts,
    )


def layout(settings: Settings, store: ObjectStore) -> Layout:
    """Keys of the lineage that is named, or else of the one that serves; where there is none, `main` becomes it.

    As the version of its model that serves sees them.
    """
    store_options = settings.store
    name = store_options.lineage or lineage.resolve(store, store_options.prefix, "main")
    return _serving(store, Layout(store_options.prefix, name))


def open_lineage(settings: Settings) -> tuple[ObjectStore, Layout]:
    """The store and a lineage to read. Raises `ConfigError` when nothing has been written there yet."""
    options = settings.store
    store = open_to_read(settings)
    current = lineage.read(store, options.prefix)
    if not options.lineage and current is None:
        raise ConfigError(
            f"nothing has been learned at {options.location} under prefix {options.prefix!r} yet: name another store "
            "or prefix (--store, HEADRACE_STORE, HEADRACE_STORE_PREFIX), or start `headrace run`"
        )
    return store, _serving(store, Layout(options.prefix, options.lineage or current.lineage))  # type: ignore[union-attr]


def _serving(store: ObjectStore, layout: Layout) -> Layout:
    """The lineage as the version that serves sees it."""
    return layout.of_version(versions.read_serving(store, layout).serving.version)


def kafka_settings(settings: Settings) -> KafkaSettings:
    kafka = settings.kafka
    return KafkaSettings(
        bootstrap_servers=kafka.bootstrap,
        topic=kafka.topic,
        group=kafka.group,
        security_protocol=kafka.security,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=kafka.sasl_password.get_secret_value(),
        ssl_cafile=kafka.ssl_ca_file,
        ssl_certfile=kafka.ssl_cert_file,
        ssl_keyfile=kafka.ssl_key_file,
        ssl_password=kafka.ssl_key_password.get_secret_value(),
        ssl_check_hostname=kafka.ssl_check_hostname,
    )


def learner_config(settings: Settings, dim: int) -> LearnerConfig:
    """`dim`: `model.dim` for the stream, `model.train_dim` for the batch job."""
    model = settings.model
    return LearnerConfig(
        dim=dim,
        sequence_length=model.sequence_length,
        learning_rate=model.learning_rate,
        negatives=model.negatives,
        seed=model.seed,
        type_priorities=model.type_priorities,
        default_type_priority=model.default_type_priority,
        users_max=model.users_max,
        items_max=model.items_max,
        memory_bytes=model.memory_bytes,
        admit_clicks=model.admit_clicks,
    )


def decode_rules(settings: Settings) -> DecodeRules:
    return DecodeRules(settings.stream.message_bytes_max, settings.model.default_event_type)


def rhythm(settings: Settings) -> Rhythm:
    stream = settings.stream
    return Rhythm(
        cut=CutPolicy(stream.batch_rows, stream.batch_bytes, stream.batch_age_seconds),
        pressure=PressurePolicy(stream.buffer_high_bytes, stream.buffer_low_bytes),
        checkpoint=CheckpointPolicy(
            stream.checkpoint_batches,
            stream.checkpoint_seconds,
            stream.checkpoints_kept,
            stream.gc_grace_seconds,
            stream.archive,
        ),
        breaker=BreakerPolicy(stream.breaker_share, stream.breaker_messages),
        in_flight=stream.plans_in_flight,
    )


def ray_config(settings: Settings) -> RayConfig:
    ray = settings.ray
    return RayConfig(ray.address or None, ray.namespace, ray.num_cpus, ray.object_store_bytes)


def spare_cpus(settings: Settings) -> float:
    """What an actor beside the live one reserves: in a Ray of our own nobody else wants a CPU, and it must not wait."""
    return 0.0 if ray_config(settings).is_ours else 1.0


def lessons(settings: Settings, store: ObjectStore) -> Lessons:
    """How new versions are trained."""
    retrain = settings.retrain
    return Lessons(
        store,
        learner_config(settings, settings.model.dim),
        settings.stream.dedupe_window,
        decode_rules(settings),
        settings.model.epochs,
        retrain.proof_clicks,
        retrain.proof_seconds,
        settings.train.clickstream_key if retrain.clickstream else "",
        spare_cpus(settings),
    )


def drift_policy(settings: Settings) -> DriftPolicy:
    retrain = settings.retrain
    return DriftPolicy(retrain.drift_score, retrain.drift_seconds, retrain.drift_pause_seconds)


def http_config(settings: Settings) -> HttpConfig:
    return HttpConfig(settings.http.host, settings.http.port, settings.model.top_n)


def admin_config(settings: Settings) -> AdminConfig:
    admin = settings.admin
    return AdminConfig(admin.host, admin.port, admin.token.get_secret_value())


def admin_desk(
    settings: Settings, store: ObjectStore, layout: Layout, progress: Callable[[], Mapping[str, Any] | None]
) -> Desk:
    """Who answers at the admin door: the store's records, and the training that runs here."""

    def ask(request: Request) -> Version:
        if not settings.retrain.enabled:
            raise RetrainRefused("nothing is trained here: HEADRACE_RETRAIN_ENABLED=false")
        return versions.ask(store, layout, request)

    return Desk(
        ask,
        lambda: versions.newest(store, layout),
        lambda: versions.overview(store, layout),
        progress,
    )
