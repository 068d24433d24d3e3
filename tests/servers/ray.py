"""Ray for the tests: embedded in this process, or a real cluster of one node that is joined through Ray Client."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from stream import actor
from stream.actor import RayConfig
from tests.servers import process

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def embedded_ray() -> Iterator[None]:
    """This process has a Ray of its own; it is kept from test to test, as starting it takes seconds."""
    if ray.is_initialized() and ray.util.client.ray.is_connected():
        actor.disconnect()
    actor.connect(RayConfig())
    yield


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address (ray://...) of a cluster that wants a token; the token is set for this process's clients."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "token").write_text(TOKEN)
    gcs, client, dashboard = process.free_ports(3)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    argv = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={gcs}"),
        *(f"--ray-client-server-port={client}", "--num-cpus=2", "--include-dashboard=false"),
        *(f"--dashboard-port={dashboard}", "--object-store-memory=100000000", "--disable-usage-stats"),
    ]
    log = folder / "ray.log"
    head = process.start(argv, log, env)
    try:
        process.wait_until(lambda: "started" in log.read_text().lower() or head.poll() is not None, head, log)
        time.sleep(1)
        yield f"ray://127.0.0.1:{client}"
    finally:
        head.terminate()
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            head.kill()


@pytest.fixture
def client_ray(ray_head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This process is connected to the cluster as a client."""
    actor.disconnect()
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    actor.connect(RayConfig(ray_head))
    yield ray_head
    actor.disconnect()
