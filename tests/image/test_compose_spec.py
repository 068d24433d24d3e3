"""docker-compose.yml by the Compose project's own reader: valid, consistent, and the same as our reader makes of it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stream.settings.settings import Settings
from tests.image import compose
from tests.image.dockerfile import ROOT

VERSION = "v2.16.2"
CACHE = ROOT / ".cache" / "compose"


@pytest.fixture(scope="module")
def reader() -> Path:
    """Our few lines on Compose's own library, built once; skips where that cannot be done."""
    folder = CACHE / VERSION
    program, source = folder / "reader", Path(__file__).with_name("reader") / "main.go"
    folder.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy = folder / source.name
        if not program.exists() or not copy.exists() or copy.read_text() != source.read_text():
            copy.write_text(source.read_text())
            (folder / "go.mod").write_text(
                f"module reader\n\nrequire github.com/compose-spec/compose-go/v2 {VERSION}\n"
            )
            build(folder)
    return program


def build(folder: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go here: install it to have Compose's own reader built")
    for argv in (["mod", "tidy", "-e"], ["build", "-o", "reader", "."]):
        done = subprocess.run([go, *argv], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"Compose's own reader could not be built: {done.stderr[-300:]}")


def read(
    reader: Path, folder: Path, file: Path, profiles: str | None = "core,demo,watch", **env: str
) -> subprocess.CompletedProcess[str]:
    """The project as JSON. `folder`: where relative paths begin. `profiles`: None where nobody's shell names them."""
    (folder / "docker-compose.yml").write_text(file.read_text())
    chosen = {} if profiles is None else {"COMPOSE_PROFILES": profiles}
    known = {"PATH": os.environ["PATH"], "HOME": str(folder), **chosen, **env}
    argv = [str(reader), "docker-compose.yml"]
    return subprocess.run(argv, env=known, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(reader: Path, tmp_path: Path) -> dict[str, Any]:
    done = read(reader, tmp_path, compose.FILE, **compose.KEYS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_valid_and_read_alike(project: dict[str, Any]) -> None:
    """Environments, commands and files are what our own reader says, on which the other tests build."""
    ours = compose.services()

    assert project["services"].keys() == ours.keys()
    for name, service in project["services"].items():
        given = ours[name].get("environment", {})
        assert service.get("environment", {}) == {key: str(value) for key, value in given.items()}, name
        assert (service.get("command") or []) == ours[name].get("command", []), name
        assert service["image"] == ours[name]["image"]
    for name, config in project["configs"].items():
        assert config["content"] == compose.content(name)


def test_a_missing_key_stops_it(reader: Path, tmp_path: Path) -> None:
    """In Compose's own words, with the variable and the remedy."""
    done = read(reader, tmp_path, compose.FILE, MINIO_ACCESS_KEY="headrace")

    assert done.returncode != 0
    assert "MINIO_SECRET_KEY is missing" in done.stderr
    assert "MINIO_ACCESS_KEY is missing" not in done.stderr
    assert "into .env" in done.stderr


def test_keys_and_settings_come_from_dotenv(reader: Path, tmp_path: Path) -> None:
    """As the first lines of the file say; any setting that stands there reaches the service."""
    lines = [f"{name}={value}" for name, value in compose.KEYS.items()]
    (tmp_path / ".env").write_text("\n".join([*lines, "HEADRACE_STREAM_START=latest", "HEADRACE_HTTP_PORT=18080"]))
    done = read(reader, tmp_path, compose.FILE)
    assert done.returncode == 0, done.stderr
    service = json.loads(done.stdout)["services"]["headrace"]

    assert service["environment"]["HEADRACE_HTTP_PORT"] == "18080"
    assert service["environment"]["MINIO_SECRET_KEY"] == compose.KEYS["MINIO_SECRET_KEY"]
    assert service["environment"]["HEADRACE_STREAM_START"] == "latest"


def test_bucket_and_service_look_for_the_same_store(
    reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under whichever of its names a setting stands in .env."""
    lines = [f"{name}={value}" for name, value in compose.KEYS.items()]
    others = ["HEADRACE_STORE_ENDPOINT=minio.example:9000", "HEADRACE_STORE_BUCKET=other", "HEADRACE_STORE_REGION=here"]
    (tmp_path / ".env").write_text("\n".join([*lines, *others, "HEADRACE_STORE_ACCESS_KEY=somebody"]))
    done = read(reader, tmp_path, compose.FILE)
    assert done.returncode == 0, done.stderr
    places = []
    for name in ("headrace", "bucket"):
        with monkeypatch.context() as patch:
            for variable, value in json.loads(done.stdout)["services"][name]["environment"].items():
                patch.setenv(variable, value)
            places.append(Settings.load().store)

    assert places[0] == places[1]
    assert (places[0].endpoint, places[0].bucket) == ("http://minio.example:9000", "other")


@pytest.mark.parametrize("page", ["README.md", "docs/migrate.md", "docker-compose.yml"])
def test_a_plain_up_starts_everything(page: str, reader: Path, tmp_path: Path) -> None:
    """The line that writes .env chooses every profile, so that whoever follows the page need not name one."""
    (line,) = re.findall(r"^(?:#   |    )(printf .* > \.env)$", (ROOT / page).read_text(), re.MULTILINE)
    argv = ["sh", "-c", line.replace("openssl rand -hex 20", "echo not-a-secret")]
    subprocess.run(argv, cwd=tmp_path, check=True)
    done = read(reader, tmp_path, compose.FILE, profiles=None)
    assert done.returncode == 0, done.stderr

    assert json.loads(done.stdout)["services"].keys() == compose.services().keys()


def test_a_slip_of_the_pen_is_refused(reader: Path, tmp_path: Path) -> None:
    """The reader really reads: a key that no specification knows is named."""
    (tmp_path / "wrong.yml").write_text(
        compose.FILE.read_text()
        .replace("    read_only:", "    readonly:")
        .replace("  read_only: true", "  readonly: true")
    )
    done = read(reader, tmp_path, tmp_path / "wrong.yml", **compose.KEYS)

    assert done.returncode != 0
    assert "readonly" in done.stderr
