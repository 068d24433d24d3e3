"""Run a rendered pod's command on this machine: its arguments, its environment, with the product's own code.

What a kubelet would do, as far as it matters: variables come from the manifest alone, secrets from where it names them.
The container's /tmp is a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chart.chart import ROOT, Manifest, container, environment

Secret = Callable[[str, str], str]
"""Text of a Secret's key."""

# In a mount namespace of its own: the root read-only, a fresh file system at the folder that stands for /tmp unless
# that is to be missing, and another at /dev/shm; then as the image's user, without any capability.
_JAIL: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
if [ "$1" = writable ]; then mount -t tmpfs -o size=2g,mode=1777 tmpfs "$2"; fi
mount -o remount,bind,ro /
shift 2
exec setpriv $WHO --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""
_IMAGES_USER: Final = "--reuid=10001 --regid=10001 --clear-groups"


def _who() -> str:
    """The image's user if it can reach this Python, else root without capabilities: read-only is the same to both."""
    folders = Path(sys.executable).resolve().parents
    reachable = all(folder.stat().st_mode & 0o001 for folder in folders)
    return _IMAGES_USER if reachable else ""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie below it, and a socket's path has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command(pod: Manifest, secret: Secret, tmp: Path) -> tuple[list[str], dict[str, str]]:
    """What the container would run, and the whole of its environment."""
    given = {}
    for name, value in environment(pod).items():
        if isinstance(value, dict):
            named = value["secretKeyRef"]
            given[name] = secret(named["name"], named["key"])
        else:
            given[name] = value.replace("/tmp", str(tmp), 1) if value.startswith("/tmp") else value
    given["PATH"] = os.environ["PATH"]
    return [sys.executable, "-m", "stream.cli", *container(pod)["args"]], given


def run(pod: Manifest, secret: Secret, *, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    with short_folder() as tmp:
        argv, environ = command(pod, secret, tmp)
        return _done(argv, environ, seconds)


def run_read_only(
    pod: Manifest, secret: Secret, *, writable: bool, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run it under the security context of the manifest. `writable`: with the volume at /tmp, or without."""
    with short_folder() as tmp:
        argv, environ = command(pod, secret, tmp)
        kind = "writable" if writable else "missing"
        jail = ["unshare", "--mount", "sh", "-c", _JAIL.replace("$WHO", _who()), "jail", kind, str(tmp)]
        return _done([*jail, *argv], environ, seconds)


def can_jail() -> bool:
    """Whether this machine lets us make mounts of our own."""
    tools = [shutil.which(name) for name in ("unshare", "setpriv", "mount")]
    if not all(tools) or os.getuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def _done(argv: Sequence[str], environ: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=seconds)
