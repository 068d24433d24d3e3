"""Start the API server with its etcd, and talk to it in plain JSON."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.servers import process
from tests.servers.kube import build

TOKEN: Final = "not-a-secret-outside-of-the-tests"
# One line a user: of the group that may do everything, and one that may do nothing until a role says so.
USERS: Final = f'{TOKEN},admin,1,"system:masters"\n{TOKEN}-deployer,deployer,2,""\n'


class Refused(Exception):
    """The API server said no, in its own words."""


@dataclass(frozen=True)
class Kube:
    """A running API server. `kubeconfig`: a file for Helm."""

    url: str
    kubeconfig: Path

    def get(self, path: str) -> dict[str, Any]:
        return self.call("GET", path)

    def make(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.call("POST", path, body)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        """Ask, and answer what it says. Raises Refused with its words."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=_unchecked()) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code} {error.read().decode()}") from error

    def namespace(self, name: str, **labels: str) -> str:
        """A new one, guarded by the restricted Pod Security Standard."""
        enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        self.make("/api/v1/namespaces", {"metadata": {"name": name, "labels": enforced | labels}})
        return name


def _unchecked() -> ssl.SSLContext:
    """It signs its certificate itself, anew each time, and listens on loopback."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def programs() -> Path:
    """Where the two programs are. Skips the test, saying what to do, where they are not."""
    folder = Path(os.environ.get("HEADRACE_TEST_KUBE") or build.FOLDER)
    if absent := build.missing(folder):
        pytest.skip(
            f"{' and '.join(absent)} not built: make test-chart KUBE=1 builds them in some minutes, once; "
            "or HEADRACE_TEST_KUBE names their folder"
        )
    return folder


def start(folder: Path) -> tuple[Kube, list[subprocess.Popen[bytes]]]:
    """Start both. Raises RuntimeError with the log of the one that does not come up."""
    bin_ = programs()
    client, peer, port = process.free_ports(3)
    etcd_log = folder / "etcd.log"
    etcd = process.start(
        [
            str(bin_ / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        ],
        etcd_log,
    )
    running = [etcd]
    try:
        process.wait_until(lambda: _healthy(f"http://127.0.0.1:{client}/health"), etcd, etcd_log)
        server_log = folder / "kube-apiserver.log"
        server = process.start(_argv(bin_, folder, port, client), server_log)
        running.append(server)
        url = f"https://127.0.0.1:{port}"
        process.wait_until(lambda: _healthy(f"{url}/readyz"), server, server_log)
    except BaseException:
        stop(running)
        raise
    return Kube(url, _kubeconfig(folder, url)), running


def stop(running: list[subprocess.Popen[bytes]]) -> None:
    for each in reversed(running):
        each.kill()
        each.wait()


def _argv(bin_: Path, folder: Path, port: int, etcd: int) -> list[str]:
    key = folder / "accounts.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    users = folder / "users.csv"
    users.write_text(USERS)
    return [
        str(bin_ / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--cert-dir={folder / 'certs'}",
        "--bind-address=127.0.0.1",
        # It refuses to say loopback; nobody asks at this address, which is kept for documentation.
        "--advertise-address=192.0.2.1",
        f"--secure-port={port}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--token-auth-file={users}",
        "--authorization-mode=RBAC",
        # Without a controller manager nobody makes the accounts that this one asks for.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _healthy(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    context = _unchecked() if url.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=2, context=context) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _kubeconfig(folder: Path, url: str) -> Path:
    """Two contexts: `admin`, who is current, and `deployer`, who has what a role gives."""
    users = {"admin": TOKEN, "deployer": f"{TOKEN}-deployer"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": name, "user": {"token": token}} for name, token in users.items()],
        "contexts": [{"name": name, "context": {"cluster": "test", "user": name}} for name in users],
        "current-context": "admin",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """A real API server, once per session."""
    server, running = start(tmp_path_factory.mktemp("kube"))
    yield server
    stop(running)
