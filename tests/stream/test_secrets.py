"""No secret is printed: each is planted, the command is made to work and to fail, and all that it says is searched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from model.config import LearnerConfig
from stream import cli, log, wiring
from stream.errors import StoreRefused
from stream.host import HostConfig
from stream.settings.settings import FOREIGN_SECRETS, OPTIONS, Settings
from tests.rigs import LAYOUT
from tests.servers.process import free_ports

HEADRACE = str(Path(sys.executable).with_name("headrace"))
PLANTED = {option.names[0]: f"planted-{number}'/long-enough" for number, option in enumerate(OPTIONS) if option.secret}
"""Every secret setting there is, now or later."""
FOREIGN = {name: f"planted-{name.lower()}" for name in FOREIGN_SECRETS}
KAFKA_LOGIN = {
    "HEADRACE_KAFKA_SECURITY": "SASL_PLAINTEXT",
    "HEADRACE_KAFKA_SASL_MECHANISM": "PLAIN",
    "HEADRACE_KAFKA_SASL_USERNAME": "me",
}


@pytest.fixture
def world(tmp_path: Path) -> dict[str, str]:
    """An environment with every secret in it, in which nothing answers."""
    store, kafka, ray, http, admin = free_ports(5)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_", "AWS_"))}
    return {
        **ours,
        **PLANTED,
        **FOREIGN,
        **KAFKA_LOGIN,
        "HEADRACE_STORE_ENDPOINT": f"127.0.0.1:{store}",
        "HEADRACE_STORE_ATTEMPTS": "1",
        "HEADRACE_KAFKA_BOOTSTRAP": f"127.0.0.1:{kafka}",
        "HEADRACE_HTTP_PORT": str(http),
        "HEADRACE_ADMIN_PORT": str(admin),
        "RAY_ADDRESS": f"ray://127.0.0.1:{ray}",
        "HEADRACE_LOG_LEVEL": "debug",
    }


def said(world: dict[str, str], *argv: str) -> tuple[int, str]:
    """Exit code of `headrace ...`, and all that it printed."""
    done = subprocess.run([HEADRACE, *argv], env=world, capture_output=True, text=True, timeout=250, check=False)
    return done.returncode, done.stdout + done.stderr


def said_until_stopped(world: dict[str, str], word: str, path: Path, *argv: str) -> tuple[int, str]:
    """The same for a command that goes on: it is stopped as soon as it has said `word`, or after a minute."""
    with path.open("w") as file, subprocess.Popen([HEADRACE, *argv], env=world, stdout=file, stderr=file) as running:
        deadline = time.monotonic() + 60
        while word not in path.read_text() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        running.terminate()
        return running.wait(60), path.read_text()


def leaked(text: str) -> list[str]:
    """What a text holds of any secret; they all have one word in common."""
    return re.findall(r"\S{0,20}planted\S{0,20}", text)


@pytest.mark.timeout(900)
def test_commands(world: dict[str, str], tmp_path: Path) -> None:
    """Working and failing, by text and by JSON, at the lowest level of the log: not one of them says a secret."""
    folder = {"HEADRACE_STORE": str(tmp_path / "store")}
    wrong = dict.fromkeys(("HEADRACE_LOG_LEVEL", "HEADRACE_KAFKA_TOPIC"), "planted-in-the-wrong-place@x")
    login = {"HEADRACE_STORE_ENDPOINT": "http://me:planted/login@somewhere:9000"}
    misspelt = {"HEADRACE_KAFKA_SASL_PASSWROD": "planted-by-mistake"}
    runs: list[tuple[int, dict[str, str], list[str]]] = [
        (0, {}, ["config", "--json"]),
        (1, {}, ["doctor", "--json"]),
        (2, folder | {"HEADRACE_LOG_FORMAT": "json"}, ["run"]),
        (2, wrong | login | misspelt, ["run"]),
        (1, {}, ["train", "--json"]),
        (2, {}, ["recommend", "u", "--url", "http://me:planted@127.0.0.1:1"]),
    ]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda each: said(world | each[1], *each[2]), runs))

    runs.append((7, {}, ["run"]))  # no store answers: it waits for one
    results.append(said_until_stopped(world, "trying again", tmp_path / "run.log", "run"))

    for (code, _, argv), (got, text) in zip(runs, results, strict=True):
        assert (argv, leaked(text)) == (argv, [])
        assert text.strip(), argv
        assert got == code, (argv, text)
    shown = {row["name"]: row["value"] for row in json.loads(results[0][1])}
    assert {shown[name] for name in PLANTED} == {log.MASK}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with every secret in them."""
    for name, value in {**PLANTED, **FOREIGN, **KAFKA_LOGIN}.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def test_objects(settings: Settings) -> None:
    """Whoever prints an object that carries settings prints no secret; yet the objects have them."""
    kafka, store = wiring.kafka_settings(settings), wiring.open_store(settings)
    host = HostConfig(LearnerConfig(), LAYOUT, store, 1)
    objects = [
        settings,
        *(getattr(settings, option.group) for option in OPTIONS if option.secret),
        *(kafka, kafka.files, wiring.s3_settings(settings), store, host),
        *(wiring.ray_config(settings), wiring.http_config(settings), list(settings.effective())),
    ]

    assert [each for each in objects if leaked(f"{each!r} {each!s}")] == []
    assert leaked(settings.model_dump_json()) == []
    assert kafka.sasl_password == PLANTED["HEADRACE_KAFKA_SASL_PASSWORD"]
    assert {*PLANTED.values(), *FOREIGN.values()} == set(settings.secrets())


def test_whatever_is_printed_last(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that nobody foresaw, on the main thread or another, is printed without the secrets that it quotes."""
    quoted = " ".join([*settings.secrets(), *map(quote, settings.secrets()), "http://me:planted/1@host:9000"])
    monkeypatch.setattr(log, "_secrets", log._spellings(settings.secrets()))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # so that it is put back

    def end_with(error: Exception) -> None:
        def app() -> None:
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
            fail(error)

        monkeypatch.setattr(cli, "app", app)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == getattr(error, "exit_code", 1)

    for error in (RuntimeError(quoted), StoreRefused(quoted)):
        end_with(error)
        text = capsys.readouterr().err

        assert leaked(text) == []
        assert text.count("host:9000") == 2
        assert log.MASK in text


def fail(error: Exception) -> None:
    raise error
