"""Every option that an operator can set: name, default, unit, range and meaning. `settings.py` reads them.

An option `field` of group `group` is set by HEADRACE_GROUP_FIELD; the names of the batch contract are aliases.
Sizes are plain integers of bytes, and may be written with a unit (`8MiB`); durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr

from model.config import LearnerConfig
from stream.settings.fields import (
    BUCKET,
    FILE,
    KEY,
    MEMORY_MIN,
    MIB,
    NAME,
    TOPIC,
    Bytes,
    File,
    Group,
    Key,
    Name,
    Priorities,
    Topic,
    check_backup_place,
    check_brokers,
    check_location,
    check_memory,
    check_ray_address,
    check_url,
    lower,
    matching,
    option,
)


class StoreOptions(Group):
    """Where plans, staged clicks and checkpoints are kept."""

    location: Annotated[str, AfterValidator(check_location)] = option(
        "Kind of store: `s3`, or a local directory for trials on one machine.",
        "s3",
        env="HEADRACE_STORE",
        allowed="s3, a directory's path, or file:///path",
        min_length=1,
    )
    endpoint: Annotated[str, AfterValidator(check_url)] = option(
        "Address of the S3 API; empty means AWS. Without a scheme, http:// is assumed.",
        "",
        aliases=("MINIO_ENDPOINT",),
        allowed="empty, host:port, or an http(s) URL without user, password or query",
    )
    access_key: SecretStr = option(
        "Access key; empty leaves it to the AWS credential chain (profile, instance or pod role).",
        SecretStr(""),
        aliases=("MINIO_ACCESS_KEY",),
    )
    secret_key: SecretStr = option(
        "Secret key; set both keys or neither.", SecretStr(""), aliases=("MINIO_SECRET_KEY",)
    )
    bucket: Annotated[str, matching(BUCKET.pattern, otherwise="not a bucket name")] = option(
        "Bucket, which must exist.",
        "warehouse",
        aliases=("CLICKSTREAM_S3_BUCKET",),
        allowed="3 to 63 lower-case letters, digits, '.' or '-'",
    )
    region: Name = option("Region that requests are signed for.", "us-east-1", allowed=NAME)
    prefix: Annotated[str, matching(r"([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?", otherwise="not a prefix")] = option(
        "Prefix of every key of the stream. Two installations on one bucket need two.",
        "headrace",
        allowed="empty, or names of letters, digits, '.', '_' or '-' joined by '/'",
        max_length=200,
    )
    lineage: Annotated[str, matching(r"[A-Za-z0-9._-]{0,100}", otherwise="not a name")] = option(
        "Name of the model's history; empty takes the one that serves, or begins `main`. A new name starts an empty "
        "model from offsets of its own.",
        "",
        allowed=f"empty, or {NAME}",
    )
    ca_file: File = option("CA bundle (PEM) that the endpoint's certificate is checked by.", "", allowed=FILE)
    connect_seconds: float = option("Longest wait for a connection.", 3.0, unit="s", ge=0.1, le=60)
    read_seconds: float = option("Longest wait for a reply.", 10.0, unit="s", ge=0.1, le=300)
    attempts: int = option("Tries of one call, the first included.", 3, ge=1, le=10)

    @property
    def is_s3(self) -> bool:
        return self.location == "s3"

    def problems(self) -> Iterable[str]:
        if bool(self.access_key.get_secret_value()) != bool(self.secret_key.get_secret_value()):
            yield "HEADRACE_STORE_ACCESS_KEY and HEADRACE_STORE_SECRET_KEY: set both, or neither"


class BackupOptions(Group):
    """Where `headrace backup` copies a lineage to. What is empty is as in the store itself."""

    to: Annotated[str, AfterValidator(check_backup_place)] = option(
        "Bucket or directory of the copy: one that holds no lineage of its own.",
        "",
        allowed="empty, s3://BUCKET, a directory's path, or file:///path",
    )
    endpoint: Annotated[str, AfterValidator(check_url)] = option(
        "Address of the S3 API of the copy.",
        "",
        allowed="empty, host:port, or an http(s) URL without user, password or query",
    )
    access_key: SecretStr = option("Access key for the copy.", SecretStr(""))
    secret_key: SecretStr = option("Secret key for the copy; set both keys or neither.", SecretStr(""))
    region: Annotated[str, matching(r"[A-Za-z0-9._-]{0,100}", otherwise="not a name")] = option(
        "Region of the copy.", "", allowed=f"empty, or {NAME}"
    )
    ca_file: File = option("CA bundle (PEM) for the endpoint of the copy.", "", allowed=FILE)

    def problems(self) -> Iterable[str]:
        if bool(self.access_key.get_secret_value()) != bool(self.secret_key.get_secret_value()):
            yield "HEADRACE_BACKUP_ACCESS_KEY and HEADRACE_BACKUP_SECRET_KEY: set both, or neither"


class KafkaOptions(Group):
    """Where the clicks come from."""

    bootstrap: Annotated[str, AfterValidator(check_brokers)] = option(
        "Brokers to ask first.", "localhost:9092", allowed="host:port, several joined by commas"
    )
    topic: Topic = option("Topic of the clicks.", "clickstream", allowed=TOPIC)
    group: Name = option("Consumer group that offsets are reported to, for lag tools only.", "headrace", allowed=NAME)
    dead_letter_topic: Topic = option(
        "Topic of the rejects, with their original bytes.",
        default_factory=lambda data: f"{data.get('topic', 'clickstream')}.dlq",
        initial="{topic}.dlq",
        allowed=TOPIC,
    )
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = option("Security protocol.", "PLAINTEXT")
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = option("SASL mechanism.", "")
    sasl_username: str = option("SASL user.", "", min_length=0, max_length=1000)
    sasl_password: SecretStr = option("SASL password.", SecretStr(""))
    ssl_ca_file: File = option("CA bundle (PEM) that brokers' certificates are checked by.", "", allowed=FILE)
    ssl_cert_file: File = option("Client certificate (PEM) for mutual TLS.", "", allowed=FILE)
    ssl_key_file: File = option("Client key (PEM) for mutual TLS.", "", allowed=FILE)
    ssl_key_password: SecretStr = option("Password of the client key.", SecretStr(""))
    ssl_check_hostname: bool = option("Compare the broker's name with its certificate.", default=True)

    def problems(self) -> Iterable[str]:
        if self.dead_letter_topic == self.topic:
            yield f"HEADRACE_KAFKA_DEAD_LETTER_TOPIC={self.topic} is the topic of the clicks: rejects would loop"
        login = (self.sasl_mechanism, self.sasl_username, self.sasl_password.get_secret_value())
        if self.security.startswith("SASL") and not all(login):
            yield (
                f"HEADRACE_KAFKA_SECURITY={self.security} needs HEADRACE_KAFKA_SASL_MECHANISM, "
                "HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD"
            )
        if any(login) and not self.security.startswith("SASL"):
            yield (
                f"HEADRACE_KAFKA_SASL_* is set, but HEADRACE_KAFKA_SECURITY={self.security} sends no login: "
                "use SASL_SSL or SASL_PLAINTEXT, or unset them"
            )
        if bool(self.ssl_cert_file) != bool(self.ssl_key_file):
            yield "HEADRACE_KAFKA_SSL_CERT_FILE and HEADRACE_KAFKA_SSL_KEY_FILE: set both, or neither"


class StreamOptions(Group):
    """How the stream is cut, buffered and checkpointed."""

    start: Literal["earliest", "latest"] = option("Where a lineage without any state begins to read.", "earliest")
    resume_from: Literal["stop", "earliest"] = option(
        "What to do when Kafka's retention has passed the offset that comes next: stop with exit code 5, or go on from "
        "the earliest offset held and record the lost ones in a plan of its own.",
        "stop",
    )
    batch_rows: int = option("Cut a batch at this many messages.", 5000, unit="messages", ge=1, le=100_000)
    batch_bytes: Bytes = option("Cut a batch at this size.", 8 * MIB, unit="bytes", ge=1 << 10, le=256 * MIB)
    batch_age_seconds: float = option("Cut a batch once its oldest message is this old.", 1.0, unit="s", ge=0.01, le=60)
    buffer_high_bytes: Bytes = option(
        "Pause reading at this much in memory.", 64 * MIB, unit="bytes", ge=1 << 12, le=8 << 30
    )
    buffer_low_bytes: Bytes = option(
        "Resume reading below this.",
        default_factory=lambda data: data.get("buffer_high_bytes", 64 * MIB) // 2,
        initial="half of buffer_high_bytes",
        unit="bytes",
        ge=0,
        le=8 << 30,
    )
    message_bytes_max: Bytes = option(
        "A larger message is rejected unread.", 64 << 10, unit="bytes", ge=128, le=16 * MIB
    )
    plans_in_flight: int = option("Plans handed to the learner and not yet learned.", 4, unit="plans", ge=1, le=64)
    checkpoint_batches: int = option("Checkpoint after this many plans.", 200, unit="plans", ge=1, le=1_000_000)
    checkpoint_seconds: float = option(
        "Checkpoint after this time, if anything was learned.", 300, unit="s", ge=1, le=86_400
    )
    checkpoints_kept: int = option("Newest checkpoints to keep.", 3, unit="checkpoints", ge=1, le=1000)
    gc_grace_seconds: float = option(
        "Age below which nothing is collected, so that readers finish, and late requests meet what they were sent to. "
        "Under two minutes for trials only.",
        3600,
        unit="s",
        ge=0,
        le=31 * 86_400,
    )
    archive: bool = option("Keep learned clicks as an archive when their plans are collected.", default=True)
    breaker_share: float = option(
        "Pause learning when more than this share of recent messages is rejected, until fresh ones are clicks again or "
        "`headrace resume`: a tracker deployed broken must not empty the topic into the dead letters. 0: never.",
        0.5,
        ge=0,
        le=1,
    )
    breaker_messages: int = option(
        "How many recent messages that share is of.", 1000, unit="messages", ge=100, le=100_000
    )
    dedupe_window: int = option("Event ids remembered to drop duplicates.", 100_000, unit="ids", ge=0, le=10_000_000)
    drain_seconds: float = option(
        "Time that SIGTERM leaves for the last checkpoint. Keep it below the orchestrator's grace period.",
        25,
        unit="s",
        ge=1,
        le=3600,
    )

    def problems(self) -> Iterable[str]:
        if self.buffer_low_bytes >= self.buffer_high_bytes:
            yield f"HEADRACE_STREAM_BUFFER_LOW_BYTES={self.buffer_low_bytes} must be below " + self._high
        if self.batch_bytes > self.buffer_high_bytes:
            yield f"HEADRACE_STREAM_BATCH_BYTES={self.batch_bytes} must be at most " + self._high
        if self.message_bytes_max > self.batch_bytes:
            yield (
                f"HEADRACE_STREAM_MESSAGE_BYTES_MAX={self.message_bytes_max} must be at most "
                f"HEADRACE_STREAM_BATCH_BYTES={self.batch_bytes}"
            )

    @property
    def _high(self) -> str:
        return f"HEADRACE_STREAM_BUFFER_HIGH_BYTES={self.buffer_high_bytes}"


_MODEL = LearnerConfig()
"""The model's own defaults are the product's: there is one place to change them."""


class ModelOptions(Group):
    """The model and how it learns. What shapes the state (dim, sequence_length, seed, the caps of its tables) is fixed
    for a lineage.
    """

    dim: int = option("Width of the embeddings of the stream's model.", _MODEL.dim, ge=4, le=512, multiple_of=4)
    train_dim: int = option("Width of the embeddings in `headrace train`.", 32, ge=4, le=512, multiple_of=4)
    sequence_length: int = option(
        "Last clicks of a user that the model sees.",
        _MODEL.sequence_length,
        unit="clicks",
        ge=1,
        le=100,
        aliases=("SEQUENCE_LENGTH",),
    )
    top_n: int = option(
        "Items in a recommendation when none is said.", 10, unit="items", ge=1, le=1000, aliases=("TOP_N",)
    )
    learning_rate: float = option("Step of row-wise AdaGrad.", _MODEL.learning_rate, gt=0, le=10)
    negatives: int = option("Negatives shared by a block of samples.", _MODEL.negatives, ge=8, le=8192)
    epochs: int = option("Passes of a full training.", 15, unit="epochs", ge=1, le=1000)
    seed: int = option("Seed of everything random.", _MODEL.seed, ge=0, le=(1 << 63) - 1)
    type_priorities: Priorities = option(
        "How much a click of each type counts at the start; the model learns on from there. Below 0: it takes back, as "
        "`cancel` does.",
        dict(_MODEL.type_priorities),
        allowed="type=number pairs joined by commas, numbers from -100 to 100 but 0",
    )
    default_type_priority: float = option(
        "The same for types that are not named.", _MODEL.default_type_priority, gt=0, le=100
    )
    default_event_type: str = option("Type of a click that names none.", "view", min_length=1, max_length=64)
    users_max: int = option(
        "Most users that have a row; near it only those who come again get one, and the least active go.",
        _MODEL.users_max,
        unit="rows",
        ge=1000,
        le=1 << 30,
    )
    items_max: int = option("The same for items.", _MODEL.items_max, unit="rows", ge=1000, le=1 << 30)
    memory_bytes: Annotated[Bytes, AfterValidator(check_memory)] = option(
        "What the learner's process may take: lowers both of the above by one factor where full tables would not fit. "
        "0 is no budget.",
        _MODEL.memory_bytes,
        unit="bytes",
        allowed=f"0, or a size from {MEMORY_MIN >> 20}MiB to 1TiB",
    )
    admit_clicks: int = option(
        "From half of a table's cap on, an id gets a row once it was clicked so often.",
        _MODEL.admit_clicks,
        unit="clicks",
        ge=1,
        le=255,
    )


class TrainOptions(Group):
    """`headrace train`: the batch contract."""

    incremental: bool = option("Learn only what is new.", default=False, aliases=("INCREMENTAL_MODE",))
    incremental_epochs: int = option(
        "Passes over the new clicks.", 3, unit="epochs", ge=1, le=1000, aliases=("INCREMENTAL_EPOCHS",)
    )
    incremental_lr_decay: float = option(
        "Factor on the learning rate in incremental mode.", 0.5, gt=0, le=1, aliases=("INCREMENTAL_LR_DECAY",)
    )
    clickstream_key: Key = option(
        "Object with all clicks.", "data/clickstream.json", allowed=KEY, aliases=("CLICKSTREAM_S3_KEY",)
    )
    new_clickstream_key: Key = option(
        "Object with the new clicks.", "data/clickstream_new.json", allowed=KEY, aliases=("NEW_CLICKSTREAM_S3_KEY",)
    )
    model_key: Key = option(
        "Object that the model is written to, for other programs.",
        "models/prio_aware_recommendation_model.pkl",
        allowed=KEY,
        aliases=("MODEL_OUTPUT_KEY",),
    )
    max_reject_share: float = option("Share of bad lines above which nothing is trained.", 0.1, ge=0, le=1)

    def problems(self) -> Iterable[str]:
        keys = {self.clickstream_key, self.new_clickstream_key, self.model_key}
        if len(keys) < 3:
            yield "CLICKSTREAM_S3_KEY, NEW_CLICKSTREAM_S3_KEY and MODEL_OUTPUT_KEY must name three different objects"


class RayOptions(Group):
    """The process that holds the live model."""

    address: Annotated[str, AfterValidator(check_ray_address)] = option(
        "Ray cluster to attach to; empty starts Ray inside this machine.",
        "",
        aliases=("RAY_ADDRESS",),
        allowed="empty, auto, local, host:port, or ray://host:port",
    )
    namespace: Name = option("Ray namespace of the learner.", "headrace", allowed=NAME)
    num_cpus: int = option("CPUs that an embedded Ray offers.", 2, unit="CPUs", ge=1, le=1024)
    object_store_bytes: Bytes = option(
        "Shared memory of an embedded Ray.", 256 * MIB, unit="bytes", ge=80 * MIB, le=64 << 30
    )


class HttpOptions(Group):
    """Metrics, health and recommendations over HTTP."""

    enabled: bool = option("Serve HTTP at all.", default=True)
    host: Annotated[str, matching(r"[A-Za-z0-9._:-]{1,255}", otherwise="not a host")] = option(
        "Address to listen on. The door has no login and tells what people bought, so it opens to this machine only "
        "unless told otherwise; in a container say 0.0.0.0.",
        "127.0.0.1",
        allowed="an IP address or a host name",
    )
    port: int = option("Port to listen on; 0 takes a free one.", 8080, ge=0, le=65535)


class AdminOptions(Group):
    """The door by which a retrain is asked for over HTTP. It is open only if there is a token."""

    host: Annotated[str, matching(r"[A-Za-z0-9._:-]{1,255}", otherwise="not a host")] = option(
        "Address to listen on.", "127.0.0.1", allowed="an IP address or a host name"
    )
    port: int = option("Port to listen on; 0 takes a free one.", 8081, ge=0, le=65535)
    token: SecretStr = option(
        "Bearer token that whoever asks must bring; empty keeps the door shut. At least 16 characters.", SecretStr("")
    )

    def problems(self) -> Iterable[str]:
        if 0 < len(self.token.get_secret_value()) < 16:
            yield "HEADRACE_ADMIN_TOKEN has less than 16 characters: `openssl rand -hex 32` makes a good one"


class RetrainOptions(Group):
    """A full retrain beside the live model (`headrace retrain`), and when what it makes takes over."""

    enabled: bool = option(
        "Train new versions here when asked: it takes one and a half times the memory of the live model's rows "
        "meanwhile.",
        default=True,
    )
    margin: float = option(
        "A new version takes over unless its MRR is below the live one's by more than this share of it.",
        0.02,
        ge=0,
        le=0.5,
    )
    proof_clicks: int = option(
        "New clicks that both must have ranked before that is decided.", 2000, unit="clicks", ge=1, le=1_000_000
    )
    proof_seconds: float = option("How long these are waited for.", 600, unit="s", ge=0, le=86_400)
    clickstream: bool = option(
        "Learn the batch contract's object of all clicks first, those from before the stream began.", default=True
    )
    drift_score: float = option(
        "Retrain by itself when a signal of drift (headrace_drift_score) is so many standard deviations from its "
        "long-term mean, and stays there; 4 is where the alert rings. 0: never.",
        0.0,
        ge=0,
        le=1000,
    )
    drift_seconds: float = option("How long it must stay there.", 900, unit="s", ge=0, le=604_800)
    drift_pause_seconds: float = option(
        "Not so soon after the last retrain, whoever asked for that.", 86_400, unit="s", ge=60, le=31_536_000
    )
    versions_kept: int = option(
        "Newest versions whose checkpoints stay, to go back to.", 3, unit="versions", ge=3, le=1000
    )


class LogOptions(Group):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = option(
        "Least level that is written.", "info"
    )
    format: Annotated[Literal["console", "json"], BeforeValidator(lower)] = option(
        "For people, or JSON lines for machines.", "console"
    )
