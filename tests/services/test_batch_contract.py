"""The batch contract as its users live it: the old program, environment variables, boto3, and a pickle for everyone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.servers.s3 import S3Server
from tests.stream.batch_rig import ALL, ARCHIVES, MODEL, NEW, REJECTS, clicks, text

pytestmark = pytest.mark.services

PROGRAM = Path(__file__).parents[2] / "train_prio_aware_recommendation_model.py"
LATER = 1_690_900_000
SNIPPET = """
import os, pickle, boto3
env = os.environ
s3 = boto3.client("s3", endpoint_url=env["MINIO_ENDPOINT"], region_name="us-east-1",
                  aws_access_key_id=env["MINIO_ACCESS_KEY"], aws_secret_access_key=env["MINIO_SECRET_KEY"])
key = "models/prio_aware_recommendation_model.pkl"
body = s3.get_object(Bucket=env["CLICKSTREAM_S3_BUCKET"], Key=key)["Body"].read()
model = pickle.loads(body)
for name in ("training_mode", "last_updated", "n_users", "n_items"):
    print(model["metadata"][name])
print(model["user_embeddings"].shape)
"""


@dataclass(frozen=True)
class Installation:
    """A bucket with the environment that leads to it."""

    env: dict[str, str]
    client: Any
    bucket: str

    def run(self, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The program, as a job scheduler would call it."""
        return subprocess.run(
            [sys.executable, str(PROGRAM), *flags],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str = "") -> list[str]:
        return [
            row["Key"] for row in self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        ]


@pytest.fixture
def installation(s3_server: S3Server) -> Installation:
    bucket = s3_server.fresh_bucket()
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "MINIO_", "AWS_"))}
    return Installation(
        {
            **plain,
            "MINIO_ENDPOINT": s3_server.endpoint,
            "MINIO_ACCESS_KEY": s3_server.access_key,
            "MINIO_SECRET_KEY": s3_server.secret_key,
            "CLICKSTREAM_S3_BUCKET": bucket,
            "OPENBLAS_NUM_THREADS": "1",
            "HEADRACE_MODEL_EPOCHS": "2",
        },
        client,
        bucket,
    )


def test_the_contract_from_the_first_training_to_a_rerun(installation: Installation, tmp_path: Path) -> None:
    """Full, then incremental, then again: shapes, archive, clearing, metadata and the pickle in an environment with
    numpy and boto3 only.
    """
    new = text(clicks(range(1000, 1050), 200, start=LATER, seed=1, items=40))
    installation.put(ALL, text(clicks(range(1000), 3000)))

    full = installation.run()
    before = opened(installation, tmp_path)
    installation.put(NEW, new)
    step = installation.run("--json", INCREMENTAL_MODE="true")
    after = opened(installation, tmp_path)
    model = installation.get(MODEL)
    again = installation.run(INCREMENTAL_MODE="true")

    assert (full.returncode, full.stderr) == (0, "")
    assert "epoch 1/2  loss" in full.stdout
    assert before[0] == "full"
    assert before[2:] == ["1000", "30", "(1000, 32)"]
    assert step.returncode == 0
    report = json.loads(step.stdout)
    assert (report["mode"], report["events"], report["epochs"]) == ("incremental", 200, 3)
    assert (report["n_users"], report["new_users"], report["n_items"]) == (1050, 50, 40)
    assert after[0] == "incremental"
    assert after[2:] == ["1050", "40", "(1050, 32)"]
    assert installation.keys(ARCHIVES) == [report["archive_key"]]
    assert installation.get(report["archive_key"]) == new
    assert not installation.keys(NEW)
    assert again.returncode == 0
    assert "no new data" in again.stdout
    assert installation.get(MODEL) == model


def test_bad_lines_are_reported_and_kept(installation: Installation) -> None:
    """A few bad lines are printed with number and reason and written to the rejects; too many stop the run."""
    installation.put(ALL, text([*clicks(range(20), 300), "{broken"]))
    few = installation.run()
    installation.put(ALL, text([*clicks(range(20), 300), *["{broken"] * 100]))
    model = installation.get(MODEL)

    many = installation.run()

    assert few.returncode == 0
    assert "line 301: not_json" in few.stdout
    assert len(installation.keys(REJECTS)) == 1
    assert many.returncode == 2
    assert "100 of 400 lines" in many.stderr
    assert "HEADRACE_TRAIN_MAX_REJECT_SHARE" in many.stderr
    assert installation.get(MODEL) == model


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ({"CLICKSTREAM_S3_BUCKET": "no-such-bucket"}, 4, "CLICKSTREAM_S3_BUCKET"),
        ({"MINIO_SECRET_KEY": "wrong"}, 4, "MINIO_SECRET_KEY"),
        ({"MINIO_ACCESS_KEY": "nobody"}, 4, "MINIO_ACCESS_KEY"),
        ({"CLICKSTREAM_S3_KEY": "data/other.json"}, 2, "data/other.json does not exist"),
        ({"CLICKSTREAM_S3_KEY": "data/empty.json"}, 2, "data/empty.json is empty"),
        ({"INCREMENTAL_EPOCHS": "none"}, 2, "INCREMENTAL_EPOCHS"),
    ],
)
def test_what_is_wrong_is_named(installation: Installation, env: dict[str, str], code: int, words: str) -> None:
    """Missing bucket, wrong credentials, unknown or empty object, bad setting: one message, one exit code, no trace."""
    installation.put("data/empty.json", b"")

    done = installation.run(**env)

    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert installation.keys() == ["data/empty.json"]


def opened(installation: Installation, folder: Path) -> list[str]:
    """What the verification snippet prints where only numpy and boto3 are installed."""
    python = bare_python(folder / "bare")
    done = subprocess.run(
        [str(python), "-c", SNIPPET], env=installation.env, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def bare_python(folder: Path) -> Path:
    """A Python that has numpy, boto3 and what boto3 needs, linked from ours, and nothing else: no network is needed."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False)
        (site,) = folder.glob("lib/python*/site-packages")
        for name in ("numpy", "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3"):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            origin = Path(spec.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (site / source.name).symlink_to(source)
            libraries = source.with_name(f"{name}.libs")
            if libraries.exists():
                (site / libraries.name).symlink_to(libraries)
        without = (
            "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('stream', 'model', 'pyarrow')))"
        )
        subprocess.run([str(python), "-c", without], check=True, cwd=folder)
    return python
