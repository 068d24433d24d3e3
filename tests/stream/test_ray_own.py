"""A Ray of our own is nobody else's: it listens on loopback alone, and does nothing for who has not its token."""

from __future__ import annotations

import http.client
import ipaddress
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from stream import ray_own

READS = {
    "gcs_server": "NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "NodeManagerService/GetNodeStats",
    "worker": "CoreWorkerService/GetCoreWorkerStats",
}
"""One harmless question for each kind of process, which shows that it would answer."""
ORDERS = [
    "JobInfoGcsService/AddJob",
    "ActorInfoGcsService/RegisterActor",
    "InternalKVGcsService/InternalKVPut",
    "NodeManagerService/RequestWorkerLease",
    "CoreWorkerService/PushTask",
    "ObjectManagerService/Push",
]
REFUSED = {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}
"""Wrong token, no such service at this port, and no gRPC at this port."""


@dataclass(frozen=True)
class Own:
    """The Ray of this process: its processes, this one included, and its token."""

    node: Any
    family: list[psutil.Process]
    token: str

    @property
    def listening(self) -> Iterator[tuple[str, str, int]]:
        """Process, address and port of each of its sockets that take what comes."""
        for each in self.family:
            with suppress(psutil.NoSuchProcess):  # Ray ends workers that have nothing to do
                name = each.name()
                for place in each.net_connections("inet"):
                    if place.status in {psutil.CONN_LISTEN, psutil.CONN_NONE}:
                        yield name, place.laddr.ip, place.laddr.port


@pytest.fixture
def own(embedded_ray: None) -> Own:
    node: Any = ray_worker._global_node
    begun = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
    others = [child for each in begun for child in each.children(recursive=True)]
    gcs = next(each for each in begun if each.name() == "gcs_server")
    return Own(node, [psutil.Process(), *begun, *others], gcs.environ()["RAY_AUTH_TOKEN"])


def answer(port: int, method: str, token: str | None) -> str:
    """The status with which a gRPC server answers an empty request."""
    proof = (("authorization", f"Bearer {token}"),) if token is not None else ()
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=30, metadata=proof)
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
    return "OK"


def posted(port: int, path: str) -> int | None:
    """The status with which an HTTP server answers an order; None where HTTP is not spoken."""
    order = b'{"entrypoint": "touch /tmp/headrace-was-here"}'
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", order, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    except (http.client.HTTPException, OSError):
        return None


def test_listens_on_loopback_only(own: Own) -> None:
    """None of its processes can be reached from another machine, by TCP or UDP."""
    places = [(name, ipaddress.ip_address(ip)) for name, ip, _ in own.listening]
    outside = [(name, str(ip)) for name, ip in places if not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback]

    assert {"gcs_server", "raylet"} <= {name for name, _ in places}
    assert outside == []


def test_nothing_without_the_token(own: Own) -> None:
    """No process answers a question or takes an order from who has no token, or another; with it, each answers."""
    ports = {port for _, _, port in own.listening}
    methods = [*READS.values(), *ORDERS]
    strangers = {(port, method): answer(port, method, None) for port in ports for method in methods}
    guessers = {(port, method): answer(port, method, "f" * 64) for port in ports for method in READS.values()}
    granted = {method for port in ports for method in READS.values() if answer(port, method, own.token) == "OK"}

    assert {*strangers.values(), *guessers.values()} <= REFUSED
    assert {method for (_, method), code in guessers.items() if code == "UNAUTHENTICATED"} == set(READS.values())
    assert granted == set(READS.values())


def test_no_job_is_taken(own: Own) -> None:
    """There is no dashboard, so no job API; what speaks HTTP refuses orders without the token."""
    paths = ("/api/jobs/", "/get_or_create_runtime_env")
    statuses = [posted(port, path) for _, _, port in own.listening for path in paths]

    assert not own.node.webui_url
    assert {status for status in statuses if status is not None} <= {401, 403, 404, 405}
    assert 401 in statuses


def test_token_is_told_nobody(own: Own) -> None:
    """The token stands in no file of Ray's, nor in our environment once Ray runs."""
    files = [path for path in Path(own.node.get_session_dir_path()).rglob("*") if path.is_file()]

    assert len(own.token) == 64
    assert [path for path in files if own.token.encode() in path.read_bytes()] == []
    assert own.token not in os.environ.values()


def test_each_start_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says: a fresh token each time, and the environment as it was afterwards."""
    seen: list[Mapping[str, str]] = []
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-cluster's")
    monkeypatch.setattr(ray_own, "read_environment_again", lambda: None)
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(dict(os.environ)))
    before = dict(os.environ)
    for _ in range(2):
        ray_own.start({}, {"ONE": "1"})

    assert [each["RAY_AUTH_MODE"] for each in seen] == ["token", "token"]
    assert len({each["RAY_AUTH_TOKEN"] for each in seen} - {"the-cluster's"}) == 2
    assert [each["ONE"] for each in seen] == ["1", "1"]
    assert dict(os.environ) == before
    assert ray_constants.ENABLE_RAY_CLUSTER
