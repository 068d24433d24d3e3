"""Settings: read once, checked with a message for the operator, secrets never shown, documented as they are."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from model.config import LearnerConfig
from stream import wiring
from stream.errors import ConfigError
from stream.settings.settings import FOREIGN_SECRETS, OPTIONS, Settings, settings_table

ROOT = Path(__file__).parents[2]
BATCH_CONTRACT = {
    "INCREMENTAL_MODE": ("train.incremental", False, "true", True),
    "INCREMENTAL_EPOCHS": ("train.incremental_epochs", 3, "4", 4),
    "INCREMENTAL_LR_DECAY": ("train.incremental_lr_decay", 0.5, "0.25", 0.25),
    "SEQUENCE_LENGTH": ("model.sequence_length", 10, "8", 8),
    "TOP_N": ("model.top_n", 10, "25", 25),
    "MINIO_ENDPOINT": ("store.endpoint", "", "minio:9000", "http://minio:9000"),
    "CLICKSTREAM_S3_BUCKET": ("store.bucket", "warehouse", "lake", "lake"),
    "CLICKSTREAM_S3_KEY": ("train.clickstream_key", "data/clickstream.json", "d/all.json", "d/all.json"),
    "NEW_CLICKSTREAM_S3_KEY": ("train.new_clickstream_key", "data/clickstream_new.json", "d/new.json", "d/new.json"),
    "MODEL_OUTPUT_KEY": ("train.model_key", "models/prio_aware_recommendation_model.pkl", "m/m.pkl", "m/m.pkl"),
    "RAY_ADDRESS": ("ray.address", "", "ray://head:10001", "ray://head:10001"),
}
SECRETS = {
    "MINIO_ACCESS_KEY": "AKIAPLANTEDACCESS",
    "MINIO_SECRET_KEY": "planted-store-secret",
    "HEADRACE_KAFKA_SASL_PASSWORD": "planted-kafka-password",
    "HEADRACE_KAFKA_SSL_KEY_PASSWORD": "planted-key-password",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine sets must not reach these tests."""
    named = [name for option in OPTIONS for name in option.names] + [n for n in os.environ if "HEADRACE" in n]
    for name in [*named, *FOREIGN_SECRETS]:
        monkeypatch.delenv(name, raising=False)


def read(settings: Settings, path: str) -> object:
    group, _, field = path.partition(".")
    return getattr(getattr(settings, group), field)


def refused(**arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.load(arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", BATCH_CONTRACT)
def test_batch_contract_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name of the batch contract has its default, and sets the value."""
    path, default, text, value = BATCH_CONTRACT[name]

    assert read(Settings.load(), path) == default

    monkeypatch.setenv(name, text)
    assert read(Settings.load(), path) == value


def test_minio_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's two keys arrive as secrets."""
    monkeypatch.setenv("MINIO_ACCESS_KEY", "who")
    monkeypatch.setenv("MINIO_SECRET_KEY", "what")
    store = Settings.load().store

    assert (store.access_key.get_secret_value(), store.secret_key.get_secret_value()) == ("who", "what")


@pytest.mark.parametrize("password", ["hunter2", "hun/ter2", "hunter@ter2", "hunter ter2", "hunter'ter2"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("name", ["MINIO_ENDPOINT", "HEADRACE_KAFKA_BOOTSTRAP", "RAY_ADDRESS"])
def test_login_in_endpoint(name: str, scheme: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint with a login in it is refused, and the refusal does not tell the login, whatever it consists of."""
    monkeypatch.setenv(name, f"{scheme}me:{password}@somewhere:9000")

    with pytest.raises(ConfigError, match=rf"{name}=.*@somewhere:9000") as refused:
        Settings.load()
    assert "hunter" not in str(refused.value)
    assert "ter2" not in str(refused.value)


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument over HEADRACE_ name over contract name over default, and each is told as the source."""
    sources = []
    for step in ("default", "MINIO_ENDPOINT", "HEADRACE_STORE_ENDPOINT", "argument"):
        if step.isupper():
            monkeypatch.setenv(step, step.lower().replace("_", "-") + ":1")
        arguments = {"store.endpoint": "argument:1"} if step == "argument" else {"store.endpoint": None}
        row = next(row for row in Settings.load(arguments).effective() if row.name == "HEADRACE_STORE_ENDPOINT")
        sources.append((row.value, row.source))

    assert sources == [
        ("", "default"),
        ("http://minio-endpoint:1", "MINIO_ENDPOINT"),
        ("http://headrace-store-endpoint:1", "HEADRACE_STORE_ENDPOINT"),
        ("http://argument:1", "argument"),
    ]


def test_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable leaves the default, as compose files write it."""
    monkeypatch.setenv("INCREMENTAL_EPOCHS", "")

    assert Settings.load().train.incremental_epochs == 3


@pytest.mark.parametrize("path", ["/no/such/file", "/" + "x" * 300, "/tmp"], ids=["missing", "too long", "folder"])
def test_a_file_that_cannot_be_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the path, the variable is named."""
    monkeypatch.setenv("HEADRACE_STORE_CA_FILE", path)

    assert "HEADRACE_STORE_CA_FILE=" in refused()


def test_every_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every numeric option a value below its range is refused, naming variable, value and range."""
    numeric = [option for option in OPTIONS if option.info.annotation in {int, float}]
    for option in numeric:
        monkeypatch.setenv(option.names[0], "-1")
        message = refused()
        monkeypatch.delenv(option.names[0])

        assert f"{option.names[0]}='-1': must be {option.allowed}" in message
    assert len(numeric) > 25


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "true", "0x10", "5000 rows"])
def test_numbers_are_finite_numbers(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No odd spelling of a number slips through a range."""
    monkeypatch.setenv("HEADRACE_STREAM_BATCH_AGE_SECONDS", text)

    assert "HEADRACE_STREAM_BATCH_AGE_SECONDS=" in refused()


def test_all_problems_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message lists every problem, so that one correction is enough."""
    monkeypatch.setenv("INCREMENTAL_MODE", "perhaps")
    monkeypatch.setenv("HEADRACE_KAFKA_BOOTSTRAP", "broker")
    monkeypatch.setenv("HEADRACE_STREAM_BATCH_ROWS", "0")
    monkeypatch.setenv("MINIO_SECRET_KEY", "x")
    lines = refused(**{"http.port": 70000}).splitlines()

    assert sorted(line.split("=")[0].split(":")[0] for line in lines) == [
        "HEADRACE_KAFKA_BOOTSTRAP",
        "HEADRACE_STORE_ACCESS_KEY and HEADRACE_STORE_SECRET_KEY",
        "HEADRACE_STREAM_BATCH_ROWS",
        "INCREMENTAL_MODE",
        "argument http.port",
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"stream.buffer_high_bytes": "4MiB"}, "HEADRACE_STREAM_BATCH_BYTES=8388608 must be at most"),
        ({"stream.buffer_low_bytes": "64MiB"}, "HEADRACE_STREAM_BUFFER_LOW_BYTES=67108864 must be below"),
        ({"stream.batch_bytes": "32KiB"}, "HEADRACE_STREAM_MESSAGE_BYTES_MAX=65536 must be at most"),
        ({"kafka.dead_letter_topic": "clickstream"}, "rejects would loop"),
        ({"kafka.security": "SASL_SSL"}, "needs HEADRACE_KAFKA_SASL_MECHANISM"),
        ({"kafka.sasl_username": "who"}, "HEADRACE_KAFKA_SECURITY=PLAINTEXT sends no login"),
        ({"train.new_clickstream_key": "data/clickstream.json"}, "three different objects"),
        ({"store.endpoint": "http://user:secret@host"}, "argument store.endpoint"),
        ({"store.endpoint": "ftp://host"}, "http(s) URL"),
        ({"store.bucket": "ab"}, "3 to 63"),
        ({"store.location": "file://host/x"}, "file:///path"),
        ({"store.ca_file": "/nowhere/ca.pem"}, "a file that exists"),
        ({"store.lineage": "a/b"}, "argument store.lineage='a/b'"),
        ({"kafka.bootstrap": "a:1,b:99999"}, "host:port"),
        ({"kafka.topic": ".."}, "1 to 249"),
        ({"ray.address": "ray://"}, "ray://host:port"),
        ({"model.type_priorities": "view=x"}, "type=number"),
        ({"model.type_priorities": "view=-101"}, "type=number"),
        ({"model.dim": 6}, "a multiple of 4"),
    ],
)
def test_impossible_values(arguments: dict[str, object], named: str) -> None:
    """Values that cannot work, alone or together, are refused with what is wrong."""
    assert named in refused(**arguments)


def test_derived_defaults() -> None:
    """The dead-letter topic follows the topic, the low mark the high one."""
    settings = Settings.load({"kafka.topic": "clicks", "stream.buffer_high_bytes": "32MiB"})

    assert settings.kafka.dead_letter_topic == "clicks.dlq"
    assert settings.stream.buffer_low_bytes == 16 << 20


def test_readable_values(tmp_path: Path) -> None:
    """Sizes with units, priorities as pairs, file URLs and any case of a level are understood."""
    settings = Settings.load(
        {
            "stream.batch_bytes": "2MiB",
            "model.type_priorities": "purchase=5, view=0.5",
            "store.location": tmp_path.as_uri(),
            "log.level": "WARNING",
        }
    )

    assert settings.stream.batch_bytes == 2 << 20
    assert settings.model.type_priorities == {"purchase": 5.0, "view": 0.5}
    assert (settings.store.location, settings.store.is_s3) == (str(tmp_path), False)
    assert settings.log.level == "warning"


def test_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HEADRACE_ variable that sets nothing is refused with the nearest name, its value untold."""
    monkeypatch.setenv("HEADRACE_KAFKA_SASL_PASWORD", "hush")
    monkeypatch.setenv("HEADRACE_PORT", "8081")
    message = refused()

    assert "did you mean HEADRACE_KAFKA_SASL_PASSWORD?" in message
    assert "hush" not in message
    assert "HEADRACE_PORT: no such setting" in message


def test_foreign_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes sets for a Service named headrace, and what the tests set, is left alone."""
    for name, value in {
        "HEADRACE_SERVICE_HOST": "10.0.0.1",
        "HEADRACE_SERVICE_PORT_HTTP": "8080",
        "HEADRACE_PORT": "tcp://10.0.0.1:8080",
        "HEADRACE_WEB_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HEADRACE_TEST_STORE": "minio",
    }.items():
        monkeypatch.setenv(name, value)

    assert Settings.load().http.port == 8080


def test_service_link_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named headrace-http sets our own port's variable: the message says so."""
    monkeypatch.setenv("HEADRACE_HTTP_PORT", "tcp://10.0.0.1:8080")

    assert "enableServiceLinks: false" in refused()


def test_misspelt_argument() -> None:
    """A program that gives an unknown argument is told the nearest one."""
    assert "did you mean kafka.topic?" in refused(**{"kafka.topci": "x"})


def test_frozen() -> None:
    """Nothing can be changed after the start."""
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.store = settings.store
    with pytest.raises(ValidationError):
        settings.kafka.topic = "other"


def test_secrets_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted secrets are in no repr, string, JSON, listing or error message."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEADRACE_KAFKA_SECURITY", "SASL_SSL")
    given = {"kafka.sasl_mechanism": "PLAIN", "kafka.sasl_username": "me"}
    settings = Settings.load(given)
    shown = [
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        json.dumps([str(r) for r in settings.effective()]),
    ]
    shown += [refused(**given, **{"kafka.topic": "a b", "store.bucket": "X"}), refused(**{"kafka.security": "SSL"})]
    monkeypatch.setenv("HEADRACE_KAFKA_SECURITY", "wrong")
    shown += [refused(), refused(**{"store.secret_key": list(SECRETS.values())})]

    assert set(settings.secrets()) == set(SECRETS.values())
    assert not [(secret, text) for secret in SECRETS.values() for text in shown if secret in text]


def test_error_has_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback of the error prints no pydantic error, whose input could be a secret."""
    with pytest.raises(ConfigError) as caught:
        Settings.load({"store.bucket": "X"})

    assert caught.value.__suppress_context__


def test_effective_lists_everything() -> None:
    """Every option is listed once, with a description; nothing is set in a bare environment."""
    rows = list(Settings.load().effective())

    assert len({row.name for row in rows}) == len(rows) == len(OPTIONS)
    assert all(row.description.endswith(".") for row in rows)
    assert {row.source for row in rows} == {"default"}


def test_settings_travel() -> None:
    """Settings survive pickling, secrets included, so that the learner's process can have them."""
    settings = Settings.load({"store.access_key": "a", "store.secret_key": "b"})

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_documentation_is_current() -> None:
    """docs/settings.md is what the code says: `python -m stream.settings.settings > docs/settings.md`."""
    assert (ROOT / "docs" / "settings.md").read_text() == settings_table()


def test_defaults_are_in_range() -> None:
    """Each default, given as text the way the table prints it, is accepted and gives the same settings."""
    printed = {option.path: option.default for option in OPTIONS if option.default and "initial" not in option.extra}
    loaded = Settings.load(printed).model_dump(exclude={"sources"})
    assert loaded == Settings.load().model_dump(exclude={"sources"})


def test_the_models_defaults_are_the_products() -> None:
    """What nobody sets is as `LearnerConfig` has it, so that what was measured is what runs."""
    settings = Settings.load({})

    assert wiring.learner_config(settings, settings.model.dim) == LearnerConfig()
