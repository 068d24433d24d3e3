"""The local disk is full: nothing is lost, the service says so, stops in order, and goes on when there is room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.store.directory import DirectoryStore
from stream.verify.walk import prove
from tests.faults.stand import Stand
from tests.services.installation import HEADRACE

pytestmark = [pytest.mark.services, pytest.mark.faults]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system: mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    path = folder / "filler"
    with path.open("wb") as file:
        file.truncate(0)
        while room(folder):
            file.write(b"\0" * min(room(folder), 1 << 16))
            file.flush()
    return path


def room(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_bsize


@pytest.mark.timeout(600)
def test_no_room_for_a_checkpoint(lone_stand: Stand, small_disk: Path) -> None:
    """The learner's scratch disk is full: learning goes on, the stop says what is owed, and room heals it."""
    lone_stand.changes = {"TMPDIR": str(small_disk), "RAY_TMPDIR": "/tmp"}
    lone_stand.publish(300)
    filler = fill(small_disk)
    lone_stand.start()
    lone_stand.wait_level()
    lone_stand.wait_for(lambda: lone_stand.metric("headrace_checkpoint_failures_total") > 0)
    lone_stand.changes["HEADRACE_STREAM_DRAIN_SECONDS"] = "60"
    filler.unlink()
    lone_stand.publish(100)
    lone_stand.wait_for(lambda: lone_stand.metric("headrace_checkpoints_total") > 0)
    lone_stand.prove()


@pytest.mark.timeout(600)
def test_stop_while_there_is_no_room(lone_stand: Stand, small_disk: Path) -> None:
    """Stopped while the scratch disk is full: exit 7 within the deadline; with room, the next start owes nothing."""
    lone_stand.changes = {"TMPDIR": str(small_disk), "RAY_TMPDIR": "/tmp", "HEADRACE_STREAM_DRAIN_SECONDS": "10"}
    lone_stand.publish(300)
    filler = fill(small_disk)
    lone_stand.start()
    lone_stand.wait_level()

    assert lone_stand.end(signal.SIGTERM) == 7, lone_stand.log()
    filler.unlink()
    lone_stand.changes["HEADRACE_STREAM_DRAIN_SECONDS"] = "60"
    lone_stand.start()
    lone_stand.prove()


@pytest.mark.timeout(600)
def test_store_folder_is_full(lone_stand: Stand, small_disk: Path) -> None:
    """A store in a folder whose disk is full: it waits, not ready; with room it goes on by itself, nothing lost."""
    store = small_disk / "store"
    lone_stand.changes = {"HEADRACE_STORE": str(store)}
    lone_stand.publish(200)
    lone_stand.start()
    lone_stand.wait_for(lambda: lone_stand.metric("headrace_events_total", outcome="trained") > 100)
    filler = fill(small_disk)
    lone_stand.publish(400)
    lone_stand.wait_for(lambda: lone_stand.page("/readyz")[0] == 503)
    assert lone_stand.page("/healthz")[0] == 200
    filler.unlink()
    lone_stand.wait_for(lambda: learned(lone_stand) >= lone_stand.sent.total())
    lone_stand.stop()

    verdict = prove(DirectoryStore(store), "headrace")
    assert (verdict.breaches, verdict.trained) == (0, lone_stand.sent["trained"])
    done = subprocess.run([HEADRACE, "verify"], env=lone_stand.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def learned(stand: Stand) -> float:
    """Messages of any outcome whose plan is learned, by the service's figures."""
    return sum(stand.metric("headrace_events_total", outcome=name) for name in ("trained", "rejected", "duplicate"))
