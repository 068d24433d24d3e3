"""Freezing: files hold the state of the moment, though the process goes on; failures are told, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream import freeze
from stream.freeze import FreezeFailed, Frozen, scratch
from stream.partfiles import read_arrays, write_arrays


@pytest.fixture(params=[True, False], ids=["fork", "no fork"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With a fork and without: both ways keep the same promises."""
    if request.param and not freeze.CAN_FORK:
        pytest.skip("there is no safe fork on this system")
    monkeypatch.setattr(freeze, "CAN_FORK", request.param)
    return bool(request.param)


@pytest.fixture
def forks() -> None:
    if not freeze.CAN_FORK:
        pytest.skip("there is no safe fork on this system")


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_copy_is_of_its_moment(way: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a fixture
    """Changed at once by the parent, the arrays are written as they were; both ways write the same bytes."""
    table = np.arange(500_000, dtype=np.float32)
    expected = table.copy()
    frozen = Frozen(lambda: write_arrays({"table": {"rows": table}}, tmp_path))
    table[:] = -1.0

    frozen.wait()

    data = (tmp_path / "table.safetensors").read_bytes()
    np.testing.assert_array_equal(expected, read_arrays({"table.safetensors": data})["table"]["rows"])
    write_arrays({"again": {"rows": expected}}, tmp_path)
    assert (tmp_path / "again.safetensors").read_bytes() == data


def test_the_parent_does_not_wait(forks: None) -> None:
    """Freezing takes as long as a fork, however long the writing takes."""
    since = time.monotonic()
    frozen = Frozen(lambda: time.sleep(1.0))
    stall = time.monotonic() - since

    frozen.wait()

    assert stall < 0.9 <= time.monotonic() - since


def fails() -> None:
    raise OSError(28, "No space left on device")


def exits() -> None:
    sys.exit(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_failing_writer_is_told(way: bool) -> None:  # noqa: FBT001 - a fixture
    """Whatever goes wrong while writing: begun all the same, and FreezeFailed when asked."""
    frozen = Frozen(fails)

    with pytest.raises(FreezeFailed, match="exit code 1" if way else "No space left"):
        frozen.wait()


def test_the_reason_goes_to_standard_error(forks: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A child cannot raise into its parent, so it says why it failed where logs are."""
    with pytest.raises(FreezeFailed):
        Frozen(fails).wait()

    assert "No space left on device" in capfd.readouterr().err


@pytest.mark.parametrize("write", [exits, killed], ids=["exit", "killed"])
def test_a_child_that_leaves_has_failed(forks: None, write: Callable[[], None]) -> None:
    """Only a writer that ran to its end has written all files, even if its exit looked clean."""
    with pytest.raises(FreezeFailed):
        Frozen(write).wait()


def test_a_hung_child_is_ended(forks: None) -> None:
    """The wait has an end, and no process is left behind."""
    frozen = Frozen(lambda: time.sleep(600))
    pid, since = frozen._pid, time.monotonic()

    with pytest.raises(FreezeFailed, match=r"not done after 0\.2 s"):
        frozen.wait(0.2)

    assert time.monotonic() - since < 60
    assert not freeze._alive(pid)


def test_a_done_child_needs_no_time(forks: None) -> None:
    """One that has ended before it is asked is no failure, however short the wait."""
    frozen = Frozen(lambda: None)
    os.waitid(os.P_PID, frozen._pid, os.WEXITED | os.WNOWAIT)

    frozen.wait(0.0)


def test_a_child_reaped_elsewhere_has_failed(forks: None) -> None:
    """Where its exit code is lost, its files cannot be trusted."""
    frozen = Frozen(lambda: None)
    os.waitpid(frozen._pid, 0)

    with pytest.raises(FreezeFailed, match="something else waited"):
        frozen.wait()


def test_no_fork_is_a_failed_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of processes or memory: the checkpoint fails, the collector of the parent runs on."""
    monkeypatch.setattr(freeze, "CAN_FORK", True)
    monkeypatch.setattr(os, "fork", fails)

    with pytest.raises(FreezeFailed, match="No space"):
        Frozen(lambda: None).wait()
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_stays_as_it_was(forks: None, enabled: bool) -> None:  # noqa: FBT001 - a parameter
    """Whoever switched garbage collection off finds it off afterwards."""
    if not enabled:
        gc.disable()
    try:
        Frozen(lambda: None).wait()
        found = gc.isenabled()
    finally:
        gc.enable()

    assert found == enabled


def test_scratch_removes_only_the_dead(temp: Path) -> None:
    """Folders of processes that are gone go; those of living ones, of ours and of others stay."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {"dead": f"headrace-checkpoint-{gone.pid}-x", "alive": f"headrace-checkpoint-{os.getppid()}-x"}
    names |= {"strange": "headrace-checkpoint-me-x", "other": f"other-{gone.pid}-x"}
    for name in names.values():
        (temp / name).mkdir()
        (temp / name / "part").touch()
    (temp / f"headrace-checkpoint-{gone.pid}-link").symlink_to(temp / names["other"])

    first, second = scratch(), scratch()

    assert first != second
    assert first.is_dir()
    assert first.name.startswith(f"headrace-checkpoint-{os.getpid()}-")
    left = {name for name, folder in names.items() if (temp / folder / "part").exists()}
    assert left == {"alive", "strange", "other"}
    assert not (temp / names["dead"]).exists()
