"""From the start of the process to the first batch learned: said once, and with the kernels taken from disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LEARN = """
import json, sys
from model import kernels
from model.config import LearnerConfig
from stream.store.directory import DirectoryStore
from stream.host import HostConfig, LearnerHost
from stream.naming import Layout
from model.learner import warm_up

config = LearnerConfig()
warm_up(config)
host = LearnerHost(HostConfig(config, Layout("headrace", "main"), DirectoryStore(sys.argv[1]), 10))
print(json.dumps({"compiled": host.status()["compiled"], "loaded": kernels.loaded()}))
"""


def started(folder: Path) -> dict[str, Any]:
    """What a fresh process says of its kernels."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", LEARN, str(folder)], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(600)
def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    """Whatever the first one compiled (all of it, where the cache is cold: `test_kernels.py`), the second one's status
    says that it took everything from disk.
    """
    first, second = started(tmp_path / "store"), started(tmp_path / "store")

    assert first["compiled"] + first["loaded"] == second["loaded"] > 10
    assert second["compiled"] == 0


def test_the_time_to_the_first_batch_is_said(tmp_path: Path) -> None:
    """`headrace run` says how long it took from the start of the process to the first batch learned."""
    lines = [{"user_id": f"u{k % 9}", "product_id": f"i{k % 50}", "timestamp": 1_700_000_000 + k} for k in range(200)]
    (tmp_path / "clicks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, "-m", "stream.cli", "run", "--replay", "clicks.jsonl", "--store", "store"]
    env = {**os.environ, "HEADRACE_HTTP_ENABLED": "false", "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)

    said = re.findall(r"first batch learned.*?seconds_since_start\S*?([0-9.]+)", done.stderr + done.stdout)
    assert len(said) == 1
    assert 0.1 < float(said[0]) < 300


@pytest.mark.parametrize("delay", [0.0, 1.0, 2.0])
def test_sigterm_while_ray_starts_ends_in_order(tmp_path: Path, delay: float) -> None:
    """The seconds in which Ray starts are no hole: SIGTERM is heard, and the exit code is that of a stop as asked."""
    lines = [{"user_id": f"u{k % 9}", "product_id": f"i{k % 50}"} for k in range(200)]
    (tmp_path / "clicks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = ["run", "--replay", "clicks.jsonl", "--rate", "5", "--store", "store", "--port", "0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "stream.cli", *argv]

    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = next(line for line in running.stderr if "listening" in line)
        time.sleep(delay)
        running.send_signal(signal.SIGTERM)
        said += running.stderr.read()
        code = running.wait(60)

    assert code == 0, said
    assert "stopping" in said
    assert "Traceback" not in said
