"""The promises of the repository itself: pins that name no registry, and a Makefile that explains itself."""

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNPINNED = {"peers", "peers-torch", "fuzz"}
"""What bench.quality and `make fuzz` run on where somebody installs it: both do without and say so."""


def normalized(name: str) -> str:
    """Return the name by which a package index knows a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> list[str]:
    """Return every distribution that pyproject.toml asks for, in any extra but those unpinned, and for the build."""
    optional = PROJECT["project"]["optional-dependencies"].items()
    extras = [asked for extra, asked in optional if extra not in UNPINNED]
    asked = chain(PROJECT["project"]["dependencies"], *extras, PROJECT["build-system"]["requires"])
    names = {normalized(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked}
    return sorted(names - {"headrace"})


@pytest.mark.parametrize("name", required())
def test_every_dependency_is_pinned(name: str) -> None:
    """What pyproject.toml asks for, the lock pins to one version with hashes."""
    assert re.search(rf"^{re.escape(name)}==\S+.* \\\n    --hash=sha256:", LOCK, flags=re.MULTILINE)


def test_lock_names_no_host() -> None:
    """The lock holds versions and hashes, so it works from any mirror: no address, no index option."""
    lines = [line for line in LOCK.splitlines() if re.search(r"://|^\s*-(?!-hash=)| @ ", line)]

    assert lines == []


def test_make_alone_names_every_target() -> None:
    """A newcomer who types `make` sees all there is, each with a line of what it does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE)

    shown = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout

    assert {"demo", "test", "test-services", "bench", "lint", "fmt", "lock", "audit", "clean"} <= set(targets)
    assert [target for target in targets if not re.search(rf"make {target} +\w", shown)] == []


@pytest.mark.parametrize(("argv", "words"), [([], "BENCH_DATA=FILE"), (["BENCH_DATA=s.pq"], "incremental s.pq")])
def test_make_bench_wants_a_stream_for_one_benchmark_only(argv: list[str], words: str) -> None:
    """`make bench` alone runs what needs no stream, and says what it leaves out; it never ends in a usage error."""
    command = ["make", "-n", "-C", str(ROOT), "bench", *argv]

    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert words in shown
    assert "bench.incremental --json" not in re.sub(r" +", " ", shown)


def test_command_is_declared() -> None:
    """Whoever installs the distribution gets the command `headrace`."""
    assert PROJECT["project"]["scripts"] == {"headrace": "stream.cli:main"}
