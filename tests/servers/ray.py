"""Ray for the tests: embedded in this process, or a real cluster of one node that is joined through Ray Client."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream import actor
from stream.actor import RayConfig
from stream.ray_own import read_environment_again
from tests.servers import process

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Head:
    """A cluster of one node. `folder`: its own temporary folder, with `session_latest/logs`."""

    process: subprocess.Popen[bytes]
    folder: Path
    gcs: int
    client: int

    @property
    def client_address(self) -> str:
        """Where Ray Client joins."""
        return f"ray://127.0.0.1:{self.client}"

    @property
    def driver_address(self) -> str:
        """Where a driver on the same machine joins."""
        return f"127.0.0.1:{self.gcs}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment with which a process is let in, and does not wait long for a connection that is gone."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "3",
        }


@pytest.fixture(scope="module")
def embedded_ray() -> None:
    """This process has a Ray of its own; it is kept from module to module, as starting it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # as from a shell that wants more than is good for the learner
        patch.setenv("RAY_AUTH_MODE", "disabled")  # and whose cluster, if it has one, is open to everybody
        actor.connect(RayConfig(quiet=True))


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """A cluster that wants a token."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))  # Ray's sockets lie in it: their paths must stay short
    try:
        head = started(folder)
        try:
            yield head
        finally:
            _stop(head.process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def client_ray(ray_head: Head) -> Iterator[Head]:
    """This process is connected to the cluster as a client, with the cluster's token."""
    actor.disconnect()
    with token_of(ray_head):
        actor.connect(RayConfig(ray_head.client_address))
        yield ray_head
        actor.disconnect()


@contextmanager
def token_of(head: Head) -> Iterator[None]:
    """Ray reads mode and token once per process; an embedded Ray before or after a cluster has another token."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in head.environment.items():
            patch.setenv(name, value)
        read_environment_again()
        yield
    read_environment_again()


def started(folder: Path, gcs: int = 0, client: int = 0) -> Head:
    """A cluster whose files lie in `folder`, on these ports or on free ones."""
    (folder / "token").write_text(TOKEN)
    free = process.free_ports(2)
    gcs, client = gcs or free[0], client or free[1]
    log = folder / "head.log"
    head = Head(process.start(_argv(folder, gcs, client), log, _environment(folder)), folder, gcs, client)
    process.wait_until(lambda: _listens(client), head.process, log, seconds=120)
    return head


def _environment(folder: Path) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        # Ray Client's proxy forks while gRPC's threads run; with gRPC's fork handlers one child in ten or so aborts.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "20",
        "OMP_NUM_THREADS": "2",  # a cluster that wants more than is good for the learner
    }


def _argv(folder: Path, gcs: int, client: int) -> list[str]:
    """Everything on loopback, and each port that Ray would take from a fixed range chosen by the kernel."""
    chosen = ["node-manager-port", "object-manager-port", "min-worker-port", "max-worker-port"]
    return [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={gcs}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"),
        *("--num-cpus=2", "--include-dashboard=false", "--dashboard-agent-listen-port=0"),
        *(f"--{port}=0" for port in chosen),
        *("--object-store-memory=100000000", "--disable-usage-stats"),
    ]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(head: subprocess.Popen[bytes]) -> None:
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()
