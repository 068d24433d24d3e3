"""The Dockerfile: pinned, hashed, without rights, without a compiler, with every name known to the settings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from stream.settings.settings import OPTIONS, Settings
from tests.image.context import Context
from tests.image.dockerfile import ROOT, Dockerfile, Step, filled, labels

FILE = Dockerfile.ours()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVED = FILE.lineage("service")
PINNED = re.compile(r"[\w./-]+:[\w.-]*\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")


def runs(stage: str) -> list[Step]:
    return [step for each in FILE.lineage(stage) for step in each.all("RUN")]


def document(name: str) -> str:
    """What the Dockerfile writes into the file of this name."""
    steps = [step for stage in FILE.stages for step in stage.all("COPY") if step.documents]
    return next(step.documents[0] for step in steps if step.text.endswith(f"/{name}"))


def test_bases_are_pinned() -> None:
    """Each image from elsewhere has a full version, and takes a digest behind it."""
    digest = f"@sha256:{'0' * 64}"
    given = {"PYTHON": FILE.outside["PYTHON"] + digest}
    foreign = [stage.base for stage in FILE.stages if FILE.stage(stage.base) is None]
    digested = [stage.base for stage in Dockerfile((ROOT / "Dockerfile").read_text(), given).stages[:1]]

    assert foreign
    assert [base for base in foreign if not PINNED.fullmatch(base)] == []
    assert re.search(r":\d+\.\d+\.\d+-slim-", foreign[0])
    assert digested == [foreign[0] + digest]


@pytest.mark.parametrize(
    ("arguments", "processor"),
    [
        ({"TARGETARCH": "amd64"}, "x86-64-v3"),
        ({"TARGETARCH": "arm64"}, "generic"),
        ({"TARGETARCH": "amd64", "NUMBA_CPU": "generic"}, "generic"),
        ({"TARGETARCH": "arm64", "NUMBA_CPU": "neoverse-n1"}, "neoverse-n1"),
    ],
)
def test_kernels_are_for_the_processor_of_the_platform(arguments: dict[str, str], processor: str) -> None:
    """An image for ARM is not compiled for x86, unless somebody asks; what is asked for holds on either."""
    file = Dockerfile((ROOT / "Dockerfile").read_text(), {"NUMBA_CPU": "", **arguments})

    assert file.environment("service")["NUMBA_CPU_NAME"] == processor
    assert file.environment("build")["NUMBA_CPU_NAME"] == processor


def test_several_stages_and_the_service_by_default() -> None:
    """What builds is not what runs; the last stage, which `docker build` takes, is the service and nothing else."""
    last = FILE.stages[-1]

    assert "build" not in {stage.name for stage in SERVED}
    assert (last.base, last.steps) == ("service", [])


def test_everything_installed_has_a_hash() -> None:
    """Each call of pip asks for hashes, or is kept off every index."""
    installs = [
        command
        for stage in FILE.stages
        for step in stage.all("RUN")
        for command in step.text.split("&&")
        if re.search(r"\bpip\b.*\b(install|wheel|download)\b", command)
    ]

    assert len(installs) >= 4
    assert [command for command in installs if not re.search(r"--require-hashes|--no-index", command)] == []


def test_no_compiler_in_what_is_shipped() -> None:
    """The final image installs tini, and no other package; no step of it runs pip."""
    commands = [step.text for step in runs("service")]
    packages = [
        name for text in commands for names in re.findall(r"apt-get install ([^&|;]+)", text) for name in names.split()
    ]

    assert [name for name in packages if not name.startswith("-")] == ["tini"]
    assert "--no-install-recommends" in packages
    assert not any(re.search(r"\bpip\b|\bconda\b|\bgcc\b", text) for text in commands)
    assert all("rm -rf /var/lib/apt/lists/*" in text for text in commands if "apt-get" in text)


def test_a_user_without_rights() -> None:
    """A fixed number, which has a name, a home that can be written, and no shell."""
    user = FILE.last("service", "USER").text
    made = next(step.text for step in runs("service") if "useradd" in step.text)

    assert user == "10001:10001"
    assert "groupadd --gid 10001" in made
    assert "--uid 10001 --gid 10001" in made
    assert "--home-dir /tmp" in made
    assert "nologin" in made
    assert FILE.environment("service")["HOME"] == "/tmp"


def test_what_is_started() -> None:
    """The words that the chart and docker-compose.yml build upon."""
    assert FILE.last("service", "ENTRYPOINT").words == ["tini", "--", "headrace"]
    assert FILE.last("service", "CMD").words == ["run"]
    assert FILE.last("service", "WORKDIR").text == "/app"
    assert FILE.last("service", "EXPOSE").text == "8080"


def test_the_batch_program_is_in_its_place() -> None:
    """`python train_prio_aware_recommendation_model.py` in /app is what existing jobs call."""
    places = [step.text for stage in SERVED for step in stage.all("COPY")]

    assert "train_prio_aware_recommendation_model.py /app/" in places


def test_labels() -> None:
    """What the Open Container Initiative asks for, with the project's own version and licence."""
    stage = FILE.lineage("service")[0]
    (step,) = stage.all("LABEL")
    found = labels(step, FILE.known("service", step))
    prefix = "org.opencontainers.image."

    assert all(found.values())
    assert found[f"{prefix}version"] == PROJECT["version"]
    assert found[f"{prefix}licenses"] == PROJECT["license"]
    assert found[f"{prefix}base.name"].endswith(f"/{FILE.stages[0].base}")
    assert {f"{prefix}{name}" for name in ("title", "description", "revision", "created")} <= found.keys()


def test_health_is_asked_by_a_program_that_is_there() -> None:
    """HEALTHCHECK names a program that the stage itself brings, executable, on the PATH."""
    step = FILE.last("service", "HEALTHCHECK")
    _, _, command = step.text.partition("CMD ")
    brought = [step for stage in SERVED for step in stage.all("COPY") if step.flag("chmod") == ["755"]]

    assert command == '["headrace-healthy"]'
    assert [name for name in ("interval", "timeout", "start-period", "retries") if not step.flag(name)] == []
    assert [step.text.split()[-1] for step in brought] == ["/opt/headrace/bin/headrace-healthy"]
    assert FILE.environment("service")["PATH"].startswith("/opt/headrace/bin:")


def test_every_name_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service refuses unknown names, so the image may set none; what it sets is accepted."""
    given = FILE.environment("service")
    ours = {name for name in given if name.startswith("HEADRACE_")}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert ours <= {name for option in OPTIONS for name in option.names}
    assert Settings.load().http.host == "0.0.0.0"


def test_one_python_everywhere() -> None:
    """The base's minor version is the one that the lock was made for, and that paths in the Dockerfile name."""
    minor = ".".join(FILE.outside["PYTHON"].split(".")[:2])
    named = re.findall(r"/lib/python(3\.\d+)/", (ROOT / "Dockerfile").read_text())
    makefile = (ROOT / "Makefile").read_text()

    assert named
    assert set(named) == {minor} == set(re.findall(r"--python-version (3\.\d+)", makefile))


def test_the_context_has_what_is_copied_and_no_secret() -> None:
    """.dockerignore lets pass what COPY asks for, and keeps keys, history and caches here."""
    context = Context(ROOT)
    asked = [
        filled(word, FILE.known(stage.name))
        for stage in FILE.stages
        for step in stage.all("COPY")
        if not step.documents and not step.flag("from")
        for word in step.words[:-1]
    ]

    assert len(asked) > 5
    assert [path for path in asked if not (ROOT / path).exists() or not context.is_sent(path.strip("/"))] == []
    kept = (
        ".env",
        ".git/config",
        ".cache/x",
        ".venv/bin/python",
        "model/__pycache__/kernels.nbi",
        "docker-compose.yml",
    )
    assert [path for path in kept if context.is_sent(path)] == []
    assert [path for path in ("stream/cli.py", "model/parts/table.py") if not context.is_sent(path)] == []


def test_what_lies_in_the_image_was_in_the_repository() -> None:
    """The wheel packs what the Dockerfile copies: nothing that pyproject.toml includes is left behind."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {Path(word).name for step in FILE.lineage("build")[0].all("COPY") for word in step.words[:-1]}

    assert set(included["only-include"]) <= copied
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= copied
