"""Runs what was built as Docker would run it: process 1 of its own, its user, no capability, the root read-only.

Not as Docker would: the network is this machine's, and no limit of memory or processors holds.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.image.dockerfile import Dockerfile
from tests.image.roots import devices, mount, tmpfs

TMPFS = "mode=1777,nosuid,nodev,noexec,size=1280m"
"""As docker-compose.yml and Docker's own defaults have it."""
WITHOUT_RIGHTS = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    seconds: float


class Container:
    """One root with what is mounted into it. `writable`: whether there is a /tmp that can be written."""

    def __init__(
        self,
        file: Dockerfile,
        stage: str,
        built: Path,
        place: Path,
        volumes: Mapping[str, Path],
        *,
        writable: bool = True,
    ) -> None:
        self._environment = file.environment(stage)
        self._entrypoint = file.last(stage, "ENTRYPOINT").words
        self._user = file.last(stage, "USER").text
        self._workdir = file.last(stage, "WORKDIR").text
        self.health = file.last(stage, "HEALTHCHECK").text.removeprefix("CMD ")
        self.root = place
        place.mkdir(parents=True)
        mount("--bind", str(built), str(place))
        for target in volumes:
            (place / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mount("-o", "remount,bind,ro", str(place))
        devices(place, "320m")
        mount("--rbind", "/sys", str(place / "sys"))
        if writable:
            tmpfs(place / "tmp", TMPFS)
        for target, source in volumes.items():
            mount("--bind", str(source), str(place / target.lstrip("/")))

    def forget(self) -> None:
        """An empty /tmp, as the next container would have."""
        subprocess.run(["umount", str(self.root / "tmp")], check=True)
        tmpfs(self.root / "tmp", TMPFS)

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        entrypoint: list[str] | None = None,
        seconds: float = 240,
    ) -> Ended:
        """`docker run IMAGE COMMAND`, to its end."""
        since = time.monotonic()
        with self.start(*command, env=env, entrypoint=entrypoint) as running:
            try:
                output, _ = running.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                running.kill()
                output, _ = running.communicate()
                output += f"\n(killed after {seconds:g} s)"
        return Ended(running.returncode, output, time.monotonic() - since)

    def start(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        place: str | None = None,
        entrypoint: list[str] | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Begin it in `place` (`--workdir`); what is answered ends with the container, and the container with it."""
        argv = [*(self._entrypoint if entrypoint is None else entrypoint), *command]
        uid, _, gid = (user or self._user).partition(":")
        enter = ["chroot", str(self.root), "setpriv", f"--reuid={uid}", f"--regid={gid}", *WITHOUT_RIGHTS, "--"]
        inside = ["env", "-C", place or self._workdir, *argv]
        script = f"mount -t proc proc {shlex.quote(str(self.root / 'proc'))} && exec {shlex.join([*enter, *inside])}"
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        return subprocess.Popen(
            unshare,
            env={**self._environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log is None else log.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self, running: subprocess.Popen[str], seconds: float = 60) -> int:
        """`docker stop`: SIGTERM to process 1. Raises subprocess.TimeoutExpired."""
        (first,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        return running.wait(seconds)
