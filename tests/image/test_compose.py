"""docker-compose.yml: pinned, bounded, on loopback alone, in order of health, with names and values that we accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.cli import app
from stream.settings.settings import OPTIONS, Settings
from tests.image import compose
from tests.image.dockerfile import ROOT, Dockerfile
from tests.image.test_dockerfile import FILE, PINNED

SERVICES = compose.services()
OURS = {"headrace", "bucket", "producer"}
ONE_SHOT = {"topics", "bucket", "producer"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PORT = re.compile(r"127\.0\.0\.1:(\d+):(\d+)")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_is_pinned_bounded_and_begun_again(name: str) -> None:
    """A full version, limits of memory and processors, a policy of restarts, a profile, and no way to more rights."""
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]

    assert PINNED.fullmatch(service["image"]), service["image"]
    assert limits.keys() >= {"cpus", "memory"}
    assert service["restart"] == ("on-failure:5" if name in ONE_SHOT else "unless-stopped")
    assert set(service["profiles"]) <= {"core", "watch", "demo"}
    assert "no-new-privileges:true" in service["security_opt"]


def test_ours_are_of_this_version() -> None:
    """What compose builds carries the version of pyproject.toml, and is a stage of the Dockerfile."""
    stages = {stage.name for stage in Dockerfile.ours().stages}

    assert {SERVICES[name]["image"].rpartition(":")[2] for name in OURS} == {VERSION}
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= stages


@pytest.mark.parametrize("name", sorted(OURS))
def test_ours_are_built_as_the_dockerfile_says(name: str) -> None:
    """By its own defaults, which .env may change: the base image, and the processor that kernels are compiled for."""
    chosen = compose.services({**compose.KEYS, "PYTHON_IMAGE": "3.11.99-slim-trixie", "NUMBA_CPU": "generic"})
    given = {argument: FILE.outside.get(argument, "") for argument in ("PYTHON", "NUMBA_CPU")}

    assert SERVICES[name]["build"]["args"] == given
    assert chosen[name]["build"]["args"] == {"PYTHON": "3.11.99-slim-trixie", "NUMBA_CPU": "generic"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_ours_are_read_only_and_without_rights(name: str) -> None:
    """As the image is made to run; only /tmp may be written."""
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"]
    assert "user" not in service
    assert "privileged" not in service


def test_ports_are_on_loopback_and_can_be_moved() -> None:
    """None is reachable from another machine, and each has a variable of its own."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    text = yaml.safe_load(compose.FILE.read_text())["services"]
    variables = [port for service in text.values() for port in service.get("ports", [])]

    assert len(published) == 6
    assert [port for port in published if not PORT.fullmatch(port)] == []
    assert [port for port in variables if not re.match(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-\d+\}:", port)] == []
    assert len({re.findall(r"[A-Z_]+_PORT", port)[0] for port in variables}) == len(published)


def test_a_moved_port_moves_everything_that_knows_it() -> None:
    """The service, its published port and Prometheus's target; the address that Kafka tells to those outside."""
    moved = {**compose.KEYS, "HEADRACE_HTTP_PORT": "18080", "KAFKA_PORT": "19999", "HEADRACE_ADMIN_PORT": "18081"}
    services = compose.services(moved)

    assert services["headrace"]["ports"] == ["127.0.0.1:18080:18080", "127.0.0.1:18081:18081"]
    assert services["headrace"]["environment"]["HEADRACE_HTTP_PORT"] == "18080"
    assert "headrace:18080" in compose.content("prometheus", moved)
    assert services["kafka"]["ports"] == ["127.0.0.1:19999:9092"]
    assert "OUTSIDE://127.0.0.1:19999" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_servers_say_how_they_are() -> None:
    """Each that stays has a health check with a start of its own; those that end have none."""
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        if name in ONE_SHOT:
            assert check == {"disable": True}, name
        else:
            assert check["test"][0] == "CMD", name
            assert check.keys() >= {"interval", "timeout", "retries", "start_period", "start_interval"}, name


def test_order_of_starts() -> None:
    """A server is waited for until it is healthy, a task until it has succeeded; whoever is waited for starts too."""
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert wait["condition"] == wanted, (name, other)
            assert set(service["profiles"]) <= set(SERVICES[other]["profiles"]), (name, other)
    assert SERVICES["headrace"]["depends_on"].keys() == {"topics", "bucket"}
    assert SERVICES["producer"]["depends_on"].keys() == {"topics"}


def test_profiles() -> None:
    """With core it learns, demo is core with something to learn, watch watches."""
    found = {profile: {name for name, each in SERVICES.items() if profile in each["profiles"]} for profile in PROFILES}

    assert found == PROFILES


PROFILES = {
    "core": {"kafka", "topics", "object-store", "bucket", "headrace"},
    "demo": {"kafka", "topics", "object-store", "bucket", "headrace", "producer"},
    "watch": {"prometheus", "grafana"},
}


def test_data_outlive_containers() -> None:
    """Each server keeps what it must not lose in a declared volume; only our own files come from the checkout."""
    declared = set(compose.load()["volumes"])
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {source for source, *_ in mounts if not source.startswith(".")}
    bound = [(source, options) for source, _, *options in mounts if source.startswith(".")]

    assert named == declared
    assert {SERVICES[name]["volumes"][0].partition(":")[0] for name in ("kafka", "object-store")} <= named
    assert [source for source, options in bound if not (ROOT / source).is_dir() or options != ["ro"]] == []


def test_configs_are_used_and_declared() -> None:
    """No container asks for one that is not there, and none is left over."""
    used = {config["source"] for service in SERVICES.values() for config in service.get("configs", [])}

    assert used == set(compose.load()["configs"])


@pytest.mark.parametrize("missing", sorted(compose.KEYS))
def test_a_missing_key_is_named_with_the_remedy(missing: str) -> None:
    """Compose stops before anything starts, and says which variable to write where."""
    others = {name: value for name, value in compose.KEYS.items() if name != missing}
    with pytest.raises(compose.Missing, match=rf"{missing} is missing a value: write {missing}=\.\.\. into \.env"):
        compose.load(others)


def test_no_password_in_the_file() -> None:
    """Nothing that opens a door has a default; Grafana has no account at all."""
    asked = compose.asked()
    secret = {name: defaults for name, defaults in asked.items() if re.search(r"KEY|PASSWORD|TOKEN|SECRET", name)}
    grafana = SERVICES["grafana"]["environment"]

    assert secret.keys() == {*compose.KEYS, "HEADRACE_ADMIN_TOKEN"}
    assert all(defaults == {""} or name in compose.KEYS for name, defaults in secret.items())
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not any("PASSWORD" in name for name in grafana)


def test_one_default_for_each_variable() -> None:
    """A variable that stands in several places means the same in all of them."""
    several = {name: defaults for name, defaults in compose.asked().items() if len(defaults - {""}) > 1}

    assert {name for name in several if name not in compose.KEYS} == set()


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_name_is_a_setting_and_every_value_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are those of docs/settings.md and of the batch contract, and the loader itself takes the values."""
    known = {name for option in OPTIONS for name in option.names}
    given = SERVICES[name]["environment"]
    for variable, value in given.items():
        if variable in known:
            monkeypatch.setenv(variable, value)
    effective = {each.name: each.source for each in Settings.load().effective()}

    assert set(given) <= known
    assert {variable for variable in given if variable in known} <= {*effective.values(), *_empty(given)}


def _empty(given: dict[str, str]) -> set[str]:
    return {variable for variable, value in given.items() if not value}


def test_what_stands_in_env_reaches_the_service() -> None:
    """Variables that compose itself needs are no settings under another meaning, and take none of our prefix."""
    known = {name for option in OPTIONS for name in option.names}
    ours = {name for name in compose.asked() if name.startswith(("HEADRACE_", "MINIO_", "CLICKSTREAM_"))}

    assert ours <= known
    assert SERVICES["headrace"]["env_file"] == [{"path": ".env", "required": False}]


def test_time_to_drain() -> None:
    """Compose waits longer than the service takes at most, and there is room for what it asks of memory."""
    drain = next(option for option in OPTIONS if option.path == "stream.drain_seconds")
    service = SERVICES["headrace"]

    assert seconds(service["stop_grace_period"]) > float(drain.default)
    shared = next(option for option in OPTIONS if option.path == "ray.object_store_bytes")
    assert size(service["shm_size"]) > size(shared.default)
    tmpfs = size(service["tmpfs"][0].partition("size=")[2].partition(",")[0])
    model = size(service["environment"]["HEADRACE_MODEL_MEMORY_BYTES"])
    assert tmpfs >= model
    assert size(service["deploy"]["resources"]["limits"]["memory"]) > tmpfs + size(service["shm_size"]) + model


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def size(text: str) -> int:
    """`1g`, `512M` and `1GiB` in bytes; Docker's letters are powers of two."""
    match = re.fullmatch(r"(\d+)([kmgKMG]?)(?:i?[bB])?", text)
    assert match is not None, text
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]


def test_the_producer_is_a_command_of_ours() -> None:
    """`produce FILE --rate N`, of the file that the demo's stage brings."""
    command, file, flag, rate = SERVICES["producer"]["command"]
    brought = [step.text.split()[-1] for step in Dockerfile.ours().lineage("demo")[0].all("COPY")]

    assert command in {each.callback.__name__ for each in app.registered_commands if each.callback}
    assert [str(Path(file).parent), flag] == [*brought, "--rate"]
    assert float(rate) > 0


def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    """Prometheus takes it, rules included, where they will be mounted; the service is among its targets."""
    text = compose.content("prometheus")
    source, target, _ = next(mount for mount in SERVICES["prometheus"]["volumes"] if "rules" in mount).split(":")
    parsed = yaml.safe_load(text)
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in parsed["scrape_configs"]}

    assert jobs["headrace"] == ["headrace:8080"]
    assert parsed["rule_files"] == [f"{target}/*.yaml"]
    assert list((ROOT / source).glob("*.yaml"))
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is absent: apt-get install -y --no-install-recommends prometheus")
    (tmp_path / "prometheus.yml").write_text(text.replace(target, str(ROOT / source)))
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_grafana_finds_source_and_dashboards() -> None:
    """The data source is of the kind that the dashboards ask for, and the default; dashboards lie where it looks."""
    (source,) = yaml.safe_load(compose.content("grafana-source"))["datasources"]
    (provider,) = yaml.safe_load(compose.content("grafana-dashboards"))["providers"]
    folder, target, _ = next(mount for mount in SERVICES["grafana"]["volumes"] if "dashboards" in mount).split(":")
    boards = [json.loads(path.read_text()) for path in sorted((ROOT / folder).glob("*.json"))]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert len(boards) == 3
    assert {kind for board in boards for kind in kinds(board)} == {source["type"]}
    assert source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] == target
    assert home.startswith(f"{target}/")
    assert (ROOT / folder / Path(home).name).exists()


def kinds(board: dict[str, Any]) -> set[str]:
    """Kinds of data source that a dashboard's variables ask for."""
    return {each["query"] for each in board["templating"]["list"] if each["type"] == "datasource"}
