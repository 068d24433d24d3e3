"""Write a process's state to files while the process goes on changing it.

A fork sees memory as it was at that moment, for the price of copying page tables: milliseconds where copying the tables
themselves takes hundreds. The child only writes arrays to local files and ends without running any clean-up, so the
locks, threads and connections it inherited are never touched. Where there is no fork (or it is unsafe: macOS), the
files are written at once, and the pause is as long as the writing. The same holds once a child has crashed: whatever in
this process makes forks unsafe will do so again, and a stall is better than no checkpoint.
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
from typing import NoReturn

CAN_FORK = hasattr(os, "fork") and sys.platform.startswith("linux")
_PREFIX = "headrace-checkpoint-"


_CRASHES = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL})
"""Ends of a child that say that forking is unsafe in this process."""


class FreezeFailed(Exception):
    """The files were not all written, or not in time."""


class WriterCrashed(FreezeFailed):
    """The child crashed before it could say anything: this process must not fork again."""


class Frozen:
    """A running copy. `wait` returns when `write` has run to its end; only then are its files whole."""

    def __init__(self, write: Callable[[], None], *, fork: bool = True) -> None:
        """Begin. Returns as soon as the state may change again; what goes wrong is said by `wait`.

        `fork` False: write at once, as where there is no fork.
        """
        self._pid = 0
        self._failure: Exception | None = None
        try:
            if CAN_FORK and fork:
                self._pid = _fork(write)
            else:
                write()
        except Exception as error:  # noqa: BLE001 - as with a child, whatever it is: `wait` raises it
            self._failure = error

    def wait(self, seconds: float = 600.0) -> None:
        """Wait for the child. Raises FreezeFailed when it fails, or is not done after `seconds` (it is then ended).

        Raises WriterCrashed, a FreezeFailed, when forking has proved unsafe.
        """
        if self._failure is not None:
            raise FreezeFailed(f"the checkpoint's files cannot be written: {self._failure}") from self._failure
        if not self._pid:
            return
        try:
            code = _exit_code(self._pid, time.monotonic() + seconds)
        except ChildProcessError as error:
            raise FreezeFailed(
                "the checkpoint's writer is gone without a word: something else waited for it"
            ) from error
        self._pid = 0
        if code is None:
            raise FreezeFailed(f"the checkpoint's writer was not done after {seconds:g} s")
        if code in _CRASHES:
            raise WriterCrashed(f"the checkpoint's writer crashed with exit code {code}: the next one is not forked")
        if code:
            raise FreezeFailed(f"the checkpoint's writer failed with exit code {code}; standard error says why")


def scratch() -> Path:
    """A fresh directory for a checkpoint's files, named after this process; those of dead processes are removed."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _fork(write: Callable[[], None]) -> int:
    collecting = gc.isenabled()
    gc.disable()  # a collection in the child could run finalizers that talk to threads it does not have
    try:
        pid = os.fork()
        return pid or _write_and_exit(write)
    finally:
        if collecting:
            gc.enable()


def _write_and_exit(write: Callable[[], None]) -> NoReturn:
    """The whole life of the child. Nothing may escape into the parent's code."""
    code = 1
    try:
        write()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent is told by the exit code
        os.write(2, f"the checkpoint's writer failed: {error!r}\n".encode())
    finally:
        os._exit(code)


def _exit_code(pid: int, deadline: float) -> int | None:
    """How the child ended (negative: by that signal); None when it did not before `deadline`, and was ended."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            break
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
