"""docs/migrate.md: each command, option and variable that it names is there, and its override is what Compose takes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stream.cli import app
from stream.errors import EXIT_CODES
from stream.settings.settings import OPTIONS
from tests.image import compose
from tests.image.dockerfile import ROOT
from tests.image.test_compose_spec import reader

__all__ = ["reader"]  # the fixture
PAGE = (ROOT / "docs/migrate.md").read_text()
COMMANDS = [
    line.strip() for line in re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).splitlines() if line[:4] == " " * 4
]
OVERRIDE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]


def commands() -> dict[str, Any]:
    return dict(typer.main.get_group(app).commands)


def test_every_command_is_there() -> None:
    """What stands after `headrace` is a command, and each option one of its own."""
    asked = [shlex.split(line) for line in COMMANDS if line.startswith("headrace ")]
    named = set(re.findall(r"`headrace ([a-z]+)", PAGE))
    known = commands()

    assert len(asked) >= 9
    assert named <= known.keys()
    for _, command, *words in asked:
        options = {option for each in known[command].params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_variable_is_a_setting() -> None:
    """Names of the contract, of docs/settings.md, or of compose; and the settings' table says all of the contract's."""
    known = {name for option in OPTIONS for name in option.names} | compose.asked().keys()
    others = {"COMPOSE_PROFILES", "NUMBA_CACHE_DIR", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", PAGE))
    contract = {name for option in OPTIONS for name in option.names if not name.startswith("HEADRACE_")}

    assert named - known - others == set()
    assert contract <= named


def test_exit_codes_are_those_of_the_service() -> None:
    """The table of what goes wrong names codes that exist, each for what it is."""
    rows = re.findall(r"^\| (.+?) \| (\d+) \|", PAGE, re.MULTILINE)

    assert {int(code) for _, code in rows} == {2, 4, 5}
    assert all(int(code) in EXIT_CODES for _, code in rows)


def test_links_lead_somewhere() -> None:
    """Each relative link is a file of this repository."""
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE)

    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_minio_takes_the_place_of_seaweedfs(reader: Path, tmp_path: Path) -> None:
    """Compose joins the two files into one service: MinIO's image, keys, port and health, in the same volume."""
    (tmp_path / "docker-compose.yml").write_text(compose.FILE.read_text())
    (tmp_path / "docker-compose.override.yml").write_text(OVERRIDE)
    env = {**compose.KEYS, "PATH": os.environ["PATH"], "COMPOSE_PROFILES": "core"}
    argv = [str(reader), "docker-compose.yml", "docker-compose.override.yml"]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    service = json.loads(done.stdout)["services"]["object-store"]

    assert service["image"].startswith("quay.io/minio/minio:RELEASE.2025-09-07")
    assert service["command"][:2] == ["server", "/data"]
    assert service["environment"]["MINIO_ROOT_PASSWORD"] == compose.KEYS["MINIO_SECRET_KEY"]
    assert [str(port["target"]) for port in service["ports"]] == ["9000"]
    assert service["ports"][0]["host_ip"] == "127.0.0.1"
    assert service["healthcheck"]["test"] == ["CMD", "mc", "ready", "local"]
    assert [volume["target"] for volume in service["volumes"]] == ["/data"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("docker ")])
def test_docker_is_told_what_compose_knows(line: str) -> None:
    """Profiles and services that it names are in docker-compose.yml; the image has compose's version."""
    services = yaml.safe_load(compose.FILE.read_text())["services"]
    words = shlex.split(line)
    profiles = {words[place + 1] for place, word in enumerate(words) if word == "--profile"}

    assert profiles <= {"core", "demo", "watch"}
    if words[1] == "compose":
        assert words[-1].startswith("--") or words[-1] in services
    else:
        assert compose.services()["headrace"]["image"] in words
        assert "--read-only" in words
