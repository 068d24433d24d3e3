"""Sudden ends around Ray: processes that hold a learner and may be killed, and a killer of Ray Client's servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from tests.servers.ray import Head

DRIVER = """
import sys, tempfile, time
from pathlib import Path
from stream import actor
from stream.actor import RayConfig, RayLearner
from stream.store.directory import DirectoryStore
from stream.host import HostConfig
from tests.rigs import LAYOUT, MODEL
actor.connect(RayConfig(sys.argv[1] if len(sys.argv) > 1 else None, quiet=True))
learner = RayLearner(HostConfig(MODEL, LAYOUT, DirectoryStore(Path(tempfile.mkdtemp())), 100))
learner.start()
print(learner.status()["pid"], flush=True)
time.sleep(600)
"""


class Assassin(threading.Thread):
    """Kills the first server that Ray Client's proxy starts for a client, as soon as it is there."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.killed = 0
        self._over = threading.Event()
        family = psutil.Process(head.process.pid).children(recursive=True)
        self._proxy = next(each.pid for each in family if "--mode=proxy" in each.cmdline())
        self._known = self._children()

    def run(self) -> None:
        while not self.killed and not self._over.is_set():
            for child in self._children() - self._known:
                os.kill(child, signal.SIGKILL)
                self.killed += 1

    def _children(self) -> set[int]:
        """Read without a tool: it is a matter of milliseconds."""
        found: set[int] = set()
        for task in Path(f"/proc/{self._proxy}/task").iterdir():
            with suppress(OSError):  # a thread that has ended meanwhile
                found.update(map(int, (task / "children").read_text().split()))
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@contextmanager
def driver(environment: Mapping[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with a learner; also answers the pid of its actor."""
    argv = [sys.executable, "-c", DRIVER, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as running:
        try:
            assert running.stdout is not None
            yield running, int(running.stdout.readline())
        finally:
            running.kill()
