"""Faults for tests: never in production by accident, and one for each step of the cycle."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import stream
from stream import faultpoints
from stream.errors import ConfigError

DIES = "from stream import faultpoints as f; f.arm({!r}); [(f.reach('plan'), print(n, flush=True)) for n in range(3)]"


def test_nothing_is_armed_by_default() -> None:
    """A process that was told nothing reaches every point unharmed."""
    for point in faultpoints.SERVICE | faultpoints.LEARNER:
        faultpoints.reach(point)

    assert faultpoints.wanted({}) == ""


@pytest.mark.parametrize(("fault", "survived"), [("plan", []), ("plan:3", ["0", "1"]), ("stage", ["0", "1", "2"])])
def test_dies_at_the_nth_time(fault: str, survived: list[str]) -> None:
    """An armed process is killed when it is at its point for the n-th time, and at no other point."""
    done = subprocess.run([sys.executable, "-c", DIES.format(fault)], capture_output=True, text=True, check=False)

    assert done.stdout.split() == survived
    assert done.returncode == (0 if len(survived) == 3 else -signal.SIGKILL)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HEADRACE_TEST_FAULT": "plan"}, "HEADRACE_TEST_FAULTS_ALLOWED"),
        ({"HEADRACE_TEST_FAULT": "plan", "HEADRACE_TEST_FAULTS_ALLOWED": "yes"}, "HEADRACE_TEST_FAULTS_ALLOWED"),
        ({"HEADRACE_TEST_FAULT": "plam", "HEADRACE_TEST_FAULTS_ALLOWED": "1"}, "there are apply"),
        ({"HEADRACE_TEST_FAULT": "plan:0", "HEADRACE_TEST_FAULTS_ALLOWED": "1"}, "n-th time"),
    ],
)
def test_half_a_request_is_refused(environment: dict[str, str], words: str) -> None:
    """A variable that was left over stops the start, with what to unset; it never kills a running service."""
    with pytest.raises(ConfigError, match=words):
        faultpoints.wanted(environment)


def test_every_point_is_in_the_code_once() -> None:
    """Each listed point stands at one place in the product, and none stands there that is not listed."""
    text = "\n".join(path.read_text() for path in Path(stream.__path__[0]).rglob("*.py"))
    reached = Counter(re.findall(r'faultpoints\.reach\("([a-z-]+)"\)', text))

    assert reached == Counter([*faultpoints.SERVICE, *faultpoints.LEARNER])


def test_every_step_has_a_point() -> None:
    """The fourteen steps of docs/cycle.md, each with a place to die at."""
    assert {*faultpoints.SERVICE.values(), *faultpoints.LEARNER.values()} == set(range(1, 15))
