"""The two small programs that stand in the Dockerfile: numba's cache in the image, and the question after health."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.image.dockerfile import ROOT
from tests.image.test_dockerfile import document
from tests.servers import process

KERNEL = """
import numba

@numba.njit(cache=True)
def double(value):
    return 2 * value

if __name__ != "__main__":
    assert double(21) == 42
    print(sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""


def compiled(folder: Path, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Import the kernel with numba's cache at `cache`: prints how many were loaded, and how many compiled."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    known = {**plain, "PYTHONPATH": f"{folder}:{ROOT}", "NUMBA_CACHE_DIR": str(cache), **env}
    return subprocess.run(
        [sys.executable, "-c", "import kernel"], env=known, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with a kernel, compiled as in the image's build, and with the image's locator."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    text = document("headrace_kernels.py").replace("/opt/headrace/kernels", str(tmp_path / "built"))
    (tmp_path / "headrace_kernels.py").write_text(text.replace("/proc/cpuinfo", str(tmp_path / "cpuinfo")))
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 fma")
    assert compiled(tmp_path, tmp_path / "built").stdout == "0 1\n"
    return tmp_path


LOCATOR = {"NUMBA_CACHE_LOCATOR_CLASSES": "headrace_kernels.Locator"}


def test_kernels_of_the_build_are_taken(image: Path) -> None:
    """A first start in a new container compiles nothing; a kernel that the build had not is compiled and kept."""
    first = compiled(image, image / "writable", **LOCATOR)
    (image / "kernel.py").write_text(KERNEL.replace("2 * value", "value + value"))
    other = compiled(image, image / "writable", **LOCATOR)
    again = compiled(image, image / "writable", **LOCATOR)

    assert (first.stdout, first.stderr) == ("1 0\n", "")
    assert other.stdout == "0 1\n"
    assert again.stdout == "1 0\n"


def test_a_place_that_cannot_be_written_is_named(image: Path) -> None:
    """By its setting, with what to do; numba alone would say that there is no locator."""
    done = compiled(image, Path("/proc/no/such/place"), **LOCATOR)

    assert done.returncode != 0
    assert "ConfigError: NUMBA_CACHE_DIR=/proc/no/such/place cannot be written" in done.stderr
    assert "docker run --tmpfs /tmp" in done.stderr


def test_an_old_processor_is_told_what_to_set(image: Path) -> None:
    """Its first vector instruction would end the learner without a word."""
    (image / "cpuinfo").write_text("flags : fpu sse2")
    env = {**LOCATOR, "NUMBA_CPU_FEATURES": ""}
    old = compiled(image, image / "writable", **env, NUMBA_CPU_NAME="x86-64-v3")
    told = compiled(image, image / "writable", **env, NUMBA_CPU_NAME="generic")

    assert "NUMBA_CPU_NAME=x86-64-v3" in old.stderr
    assert "say generic" in old.stderr
    assert told.returncode == 0, told.stderr


class _Door(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" and self.server.live else 503)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"told so")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def door(*, live: bool) -> Iterator[int]:
    """A service's HTTP door on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Door)
    server.live = live  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthy(port: int, **env: str) -> subprocess.CompletedProcess[str]:
    """The program of HEALTHCHECK, as the container would run it."""
    known = {"HEADRACE_HTTP_PORT": str(port), "HEADRACE_HTTP_HOST": "0.0.0.0", **env}
    argv = [sys.executable, "-IS", "-c", document("headrace-healthy")]
    return subprocess.run(argv, env=known, capture_output=True, text=True, check=False)


def test_health_is_the_services_own_word() -> None:
    """Live, not live, and nobody there: 0, 1, 1 with a sentence; a proxy of the environment is not asked."""
    with door(live=True) as port:
        good = healthy(port, http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    with door(live=False) as port:
        bad = healthy(port)
    (free,) = process.free_ports(1)
    gone = healthy(free)

    assert (good.returncode, good.stdout) == (0, "told so\n")
    assert (bad.returncode, bad.stdout) == (1, "told so\n")
    assert gone.returncode == 1
    assert f"nobody answers at 127.0.0.1 port {free}" in gone.stderr
    assert "Traceback" not in gone.stderr
