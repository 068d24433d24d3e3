"""Write a process's state to files while the process goes on changing it.

A fork sees memory as it was at that moment, for the price of copying page tables: milliseconds where copying the tables
themselves takes hundreds. The child only writes arrays to local files and ends without running any clean-up, so the
locks, threads and connections it inherited are never touched. Where there is no fork (or it is unsafe: macOS), the files
are written at once, and the pause is as long as the writing.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CAN_FORK = hasattr(os, "fork") and sys.platform.startswith("linux")
_PREFIX = "headrace-checkpoint-"


class FreezeFailed(Exception):
    """The child did not write all files in time."""


class Frozen:
    """A running copy. `wait` returns when `write` has run to its end; only then are its files whole."""

    def __init__(self, write: Callable[[], None]) -> None:
        """Begin. Returns as soon as the state may change again."""
        self._pid = _fork(write) if CAN_FORK else 0
        if not self._pid:
            write()

    def wait(self, seconds: float = 600.0) -> None:
        """Wait for the child. Raises FreezeFailed when it fails, or is not done after `seconds` (it is then ended)."""
        if not self._pid:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                if status:
                    raise FreezeFailed(f"the checkpoint's writer ended with wait status {status} (disk full?)")
                return
            time.sleep(0.005)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        raise FreezeFailed(f"the checkpoint's writer was not done after {seconds:.0f} s")


def scratch() -> Path:
    """A fresh directory for a checkpoint's files, named after this process; those of dead processes are removed."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _fork(write: Callable[[], None]) -> int:
    gc.disable()  # a collection in the child could run finalizers that talk to threads it does not have
    pid = os.fork()
    if pid:
        gc.enable()
        return pid
    try:
        write()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the parent is told by the exit status; nothing may escape into its code
        os._exit(1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
