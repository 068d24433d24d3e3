"""Freezing: files hold the state of the moment, though the process goes on; failures are told, and nothing is left."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
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
from stream.freeze import FreezeFailed, Frozen, WriterCrashed, scratch
from stream.partfiles import read_arrays, write_arrays
from stream.ray_link import RayConfig, worker_environment

# A process in which gRPC's threads are at work, as in one that Ray Client serves, freezes itself some times over.
_BUSY_WITH_GRPC = """
import os, threading, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from stream.freeze import FreezeFailed, Frozen

server = grpc.server(ThreadPoolExecutor(2))
port = server.add_insecure_port("127.0.0.1:0")
server.start()

def talk():
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    channel.subscribe(lambda state: None, try_to_connect=True)
    while True:
        try:
            channel.unary_unary("/no/such")(b"", timeout=1)
        except grpc.RpcError:
            pass

for _ in range(3):
    threading.Thread(target=talk, daemon=True).start()
time.sleep(0.5)
for _ in range(30):
    Frozen(lambda: None).wait(10)
os._exit(0)
"""


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


def crashes() -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_says_that_forks_are_unsafe(forks: None) -> None:
    """Told apart from a failure, for what crashed one child will crash the next."""
    with pytest.raises(WriterCrashed, match="exit code -11"):
        Frozen(crashes).wait()


def test_asked_not_to_fork(forks: None) -> None:
    """The files are there when the state may change again; no process was begun."""
    writer: list[int] = []
    frozen = Frozen(lambda: writer.append(os.getpid()), fork=False)

    assert writer == [os.getpid()]
    frozen.wait(0.0)


def test_the_learners_process_forks_safely_beside_grpc(forks: None) -> None:
    """With the environment of a learner's process no child dies; with gRPC's default most of thirty do."""
    environment = {**os.environ, **worker_environment(RayConfig("ray://somewhere:10001"))}
    ran = subprocess.run(
        [sys.executable, "-c", _BUSY_WITH_GRPC],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-500:]


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
