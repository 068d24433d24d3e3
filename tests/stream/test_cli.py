"""The command line: JSON where a program reads, one clear line where something is wrong, no secret ever."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.store.directory import DirectoryStore
from tests.rigs import LAYOUT, Rig, clicks

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a lineage in it."""
    folder = tmp_path_factory.mktemp("store")
    store = DirectoryStore(folder)
    store.put(LAYOUT.current, b'{"lineage":"main"}')
    Rig(store, [*clicks(300), b"bad"]).run()
    return folder


def test_config_tells_sources_not_secrets(command: Command) -> None:
    """`config` prints what is in force and where from; a secret shows as set, not what it is."""
    done = command(
        "config", "--json", MINIO_ACCESS_KEY="me", MINIO_SECRET_KEY="hush-hush", HEADRACE_STREAM_BATCH_ROWS="7"
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}

    assert rows["HEADRACE_STREAM_BATCH_ROWS"]["value"] == "7"
    assert rows["HEADRACE_STREAM_BATCH_ROWS"]["source"] == "HEADRACE_STREAM_BATCH_ROWS"
    assert rows["HEADRACE_STORE_SECRET_KEY"]["source"] == "MINIO_SECRET_KEY"
    assert "hush-hush" not in done.stdout + done.stderr


def test_lists_checkpoints(command: Command, lineage: Path) -> None:
    """`checkpoints` lists what is there, newest first."""
    rows = json.loads(command("checkpoints", "--store", str(lineage), "--json").stdout)

    assert [row["seq"] for row in rows] == sorted((row["seq"] for row in rows), reverse=True)
    assert rows[0]["events"] == 300
    assert "checkpoints of lineage main" in command("checkpoints", "--store", str(lineage)).stdout


def test_verifies(command: Command, lineage: Path) -> None:
    """`verify` says how many of each; broken, it exits with 1 and names what."""
    done = command("verify", "--store", str(lineage), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["trained"] == 300
    plan = lineage / LAYOUT.plan(2)
    before = plan.read_bytes()
    plan.write_bytes(before.replace(b'"seq":2', b'"seq":3'))
    broken = command("verify", "--store", str(lineage))
    plan.write_bytes(before)

    assert broken.returncode == 1
    assert plan.name in broken.stdout


def test_recommends(command: Command, lineage: Path, tmp_path: Path) -> None:
    """`recommend` answers from the newest checkpoint, with names where they are known."""
    (tmp_path / "names.csv").write_text("product_id,name\ni1,A bicycle\n")
    done = command("recommend", "u1", "--store", str(lineage), "--top-n", "30", "--names", "names.csv", "--json")
    items = json.loads(done.stdout)["items"]

    assert len({item["product_id"] for item in items}) == len(items) > 10
    assert "A bicycle" in {item.get("name") for item in items}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["checkpoints", "--store", "empty"], "headrace run"),
        (["recommend", "u1", "--store", "empty"], "headrace run"),
        (["recommend", "u1", "--url", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (["produce", "absent.parquet"], "absent.parquet"),
        (["run", "--replay", "absent.parquet", "--store", "s", "--port", "0"], "absent.parquet"),
        (["run", "--rate", "5", "--store", "s", "--port", "0"], "--replay"),
        (["train", "--store", "empty"], "clickstream.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_say_what_to_do(command: Command, argv: list[str], named: str) -> None:
    """A wrong argument is one message that names it, not a traceback."""
    done = command(*argv)

    assert done.returncode, done.stdout
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["verify"], ["checkpoints"], ["recommend", "u1"]], ids=lambda argv: str(argv[0]))
def test_who_only_reads_makes_no_store(command: Command, tmp_path: Path, argv: list[str]) -> None:
    """A slip in --store is told, and leaves no folder behind."""
    done = command(*argv, "--store", "absent")

    assert done.returncode == 2
    assert "absent" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_lineage_without_checkpoints_is_told(command: Command, lineage: Path) -> None:
    """No table of nothing for a person, and an empty list for a program."""
    argv = ["checkpoints", "--store", str(lineage), "--lineage", "other"]

    assert "lineage other has no checkpoint yet" in command(*argv).stdout
    assert json.loads(command(*argv, "--json").stdout) == []


def test_brackets_are_shown(command: Command, lineage: Path, tmp_path: Path) -> None:
    """A user, a name or a value with brackets is printed as it is: it is no markup."""
    (tmp_path / "names.csv").write_text("product_id,name\n" + "".join(f"i{row},[/b] [red]{row}\n" for row in range(99)))
    done = command("recommend", "[/u]", "--store", str(lineage), "--names", "names.csv")
    shown = command("config", HEADRACE_MODEL_DEFAULT_EVENT_TYPE="[/x]", COLUMNS="200")

    assert done.returncode == 0, done.stderr
    assert "for [/u], by checkpoint" in done.stdout
    assert "[/b] [red]" in done.stdout
    assert "[/x]" in shown.stdout, shown.stderr


def test_learns_from_a_file(command: Command, tmp_path: Path) -> None:
    """`run --replay` learns a file to its end and exits 0; a second run has nothing to do."""
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in clicks(500)))
    argv = ["run", "--replay", str(path), "--store", "store", "--port", "0"]
    first, second = command(*argv), command(*argv)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "first batch learned" in first.stderr
    assert "first batch learned" not in second.stderr
    assert json.loads(command("verify", "--store", "store", "--json").stdout)["trained"] == 500
