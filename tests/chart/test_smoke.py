"""What `helm test` runs, on the real HTTP door: it says of each learner whether it lives, learns and is measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stream.api import Answer, Health, HttpConfig, HttpDoor
from stream.metrics import PrometheusMeter
from tests.chart.chart import CHART, container, only, rendered

GOOD = Health(live=True, ready=True)


@contextmanager
def door(health: Health, *, measured: bool = True) -> Iterator[str]:
    """The service's own door, in a given state of health. Its address."""
    meter = PrometheusMeter()
    if measured:
        meter.set("headrace_build_info", 1, version="test", python="test")
    http = HttpDoor(HttpConfig(port=0), meter, lambda: health, lambda user, n: Answer([], 0, 0.0))
    try:
        yield f"127.0.0.1:{http.start()}"
    finally:
        http.close()


def smoke(*addresses: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the pod does: its text is the argument of python -c."""
    text = (CHART / "files/smoke.py").read_text()
    return subprocess.run([sys.executable, "-c", text, *addresses], capture_output=True, text=True, check=False)


def test_all_well() -> None:
    with door(GOOD) as one, door(GOOD) as other:
        done = smoke(one, other)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 6


@pytest.mark.parametrize(
    ("health", "page", "reason"),
    [
        (Health(live=True, ready=False, reasons=["opening: restoring"]), "/readyz", "opening: restoring"),
        (Health(live=False, ready=False, reasons=["the loop has not turned for 40 s"]), "/healthz", "has not turned"),
    ],
)
def test_a_no_is_said_with_its_reason(health: Health, page: str, reason: str) -> None:
    with door(GOOD) as well, door(health) as ill:
        done = smoke(well, ill)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]

    assert done.returncode == 1
    assert any(ill in line and page in line and reason in line for line in failed)
    assert not any(well in line for line in failed)


def test_nobody_there() -> None:
    with door(GOOD) as address:
        pass
    done = smoke(address)

    assert done.returncode == 1
    assert done.stdout.count("cannot be reached") == 3


def test_a_page_without_our_metrics() -> None:
    with door(GOOD, measured=False) as address:
        done = smoke(address)

    assert done.returncode == 1
    assert "FAIL" in done.stdout.splitlines()[2]


def test_the_pod_runs_this_script() -> None:
    """On each learner's Service, with the image that is there anyway."""
    pod = only(rendered("shards"), "Pod", hooks=True)
    found = container(pod)

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert found["command"] == ["python", "-c"]
    assert found["args"][0] == (CHART / "files/smoke.py").read_text()
    assert found["args"][1:] == [f"headrace-{name}:8080" for name in ("books", "music", "film")]
