"""`headrace models` and `headrace retrain`: what an operator types, and what is said when it cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stream.models
from stream import checkpoint, versions
from stream.store.directory import DirectoryStore
from stream.versions import Outcome, Request, Result
from tests.rigs import LAYOUT, Rig, clicks

Command = Callable[..., subprocess.CompletedProcess[str]]
SECOND = LAYOUT.of_version(2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lineage with two versions; the second serves."""
    folder = tmp_path_factory.mktemp("made")
    store = DirectoryStore(folder)
    store.put(LAYOUT.current, b'{"lineage":"main"}')
    Rig(store, clicks(300)).run()
    versions.ask(store, LAYOUT, Request("a", "for the test", asked="2024-01-02T03:04:05+00:00", by="me"))
    rig = Rig(store, clicks(1500), trains=True)
    rig.run(lambda: rig.clock.advance(1.0))
    assert versions.read_serving(store, LAYOUT).serving.version == 2
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> DirectoryStore:
    """A copy of it."""
    return DirectoryStore(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def models(command: Command, tmp_path: Path) -> Command:
    """Run `headrace models ...` on that store."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return command(*argv, HEADRACE_STORE=str(tmp_path / "store"))

    return run


def serving(store: DirectoryStore) -> tuple[int, tuple[int, ...], bool]:
    found = versions.read_serving(store, LAYOUT).serving
    return found.version, found.before, found.pinned


def test_lists_versions(store: DirectoryStore, models: Command) -> None:
    """Newest first, with how each compared; `show` tells everything."""
    listed = json.loads(models("models", "list", "--json").stdout)

    assert (listed["serving"], listed["pinned"]) == (2, False)
    assert [(row["version"], row["state"]) for row in listed["versions"]] == [(2, "serves"), (1, "served before")]
    assert listed["versions"][0]["reason"] == "for the test"
    assert "versions of main" in models("models", "list").stdout
    shown = json.loads(models("models", "show", "2", "--json").stdout)
    assert shown["result"]["outcome"] == "promoted"
    assert shown["trained"]["against"] == 1
    assert "request.by: me" in models("models", "show", "2").stdout


def test_levers(store: DirectoryStore, models: Command) -> None:
    """Back, forth, pinned and not: each is said in the store, and said to the operator."""
    done = models("models", "rollback", "--reason", "worse")
    assert (done.returncode, serving(store)) == (0, (1, (), False))
    assert "version 1 of main is to serve in the place of 2" in done.stdout
    assert versions.read_serving(store, LAYOUT).serving.why == "worse"
    assert models("models", "pin", "2").returncode == 0
    assert serving(store) == (2, (1,), True)
    assert "2 is pinned" in models("models", "list").stdout
    assert models("models", "unpin").returncode == 0
    assert models("models", "promote", "1").returncode == 0
    assert serving(store) == (1, (1, 2), False)


def damage_nothing(_store: DirectoryStore) -> None:
    """As it is."""


def forget_record(store: DirectoryStore) -> None:
    """As an attempt leaves it that dies between its first checkpoint and its record."""
    store.delete(SECOND.record("trained"))


def forget_checkpoints(store: DirectoryStore) -> None:
    for info in list(store.list(SECOND.checkpoints)):
        store.delete(info.key)


def collect_without_archive(store: DirectoryStore) -> None:
    """Plans after the newest checkpoint of the first version are gone."""
    (newest, _) = list(checkpoint.complete(store, LAYOUT))[-1]
    for seq in range(newest + 3):
        store.delete(LAYOUT.plan(seq))


def roll_back(store: DirectoryStore) -> None:
    known = versions.read_serving(store, LAYOUT)
    versions.write_serving(store, LAYOUT, versions.rolled_back(known.serving, "", ""), known)


REFUSED: dict[str, tuple[Callable[[DirectoryStore], object], tuple[str, ...], str]] = {
    "no such version": (damage_nothing, ("models", "promote", "7"), "there is no version 7 of main, only 1, 2"),
    "no such version to show": (damage_nothing, ("models", "show", "3"), "there is no version 3"),
    "not trained": (forget_record, ("models", "pin", "2"), "still being trained"),
    "no checkpoint": (forget_checkpoints, ("models", "pin", "2"), "version 2 has no checkpoint"),
    "nothing before": (roll_back, ("models", "rollback"), "version 1 is the first that served"),
    "plans are gone": (
        collect_without_archive,
        ("models", "rollback"),
        "were collected without an archive (HEADRACE_STREAM_ARCHIVE)",
    ),
    "nothing to cancel": (damage_nothing, ("retrain", "--cancel"), "no retrain is under way"),
    "no time": (damage_nothing, ("retrain", "--since", "yesterday"), "since='yesterday'"),
}


@pytest.mark.parametrize(("damage", "argv", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(
    store: DirectoryStore,
    models: Command,
    damage: Callable[[DirectoryStore], object],
    argv: tuple[str, ...],
    said: str,
) -> None:
    """With a sentence that names what is wrong; nothing is changed."""
    damage(store)
    before = serving(store)
    done = models(*argv)

    assert done.returncode == 2
    assert said in done.stderr
    assert serving(store) == before


def test_retrain_writes_a_request(store: DirectoryStore, models: Command) -> None:
    """One at a time, and it can be cancelled. `--wait` says how it ended, and fails if it failed."""
    done = models("retrain", "--reason", "drift", "--epochs", "3", "--since", "2024-01-02", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["version"] == 3
    found = versions.read(store, LAYOUT.of_version(3)).request
    assert found is not None
    assert (found.reason, found.epochs, found.since_ms, found.by) == (
        "drift",
        3,
        1_704_153_600_000,
        "headrace retrain",
    )
    refused = models("retrain")
    assert (refused.returncode, "version 3 is being trained" in refused.stderr) == (2, True)
    assert models("retrain", "--cancel").returncode == 0
    assert versions.read(store, LAYOUT.of_version(3)).result is not None
    assert json.loads(models("retrain", "--json").stdout)["version"] == 4


def test_a_retrain_that_nobody_begins_is_told(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: whoever waits without a service would wait for ever, and not know why."""
    third = LAYOUT.of_version(versions.ask(store, LAYOUT, Request("unheard")).number)
    monkeypatch.setattr(stream.models, "_UNHEARD_SECONDS", 0.1)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.models._wait, store, third, quiet=False)
        time.sleep(2.5)
        versions.close(store, third, Result("cancelled", "by the test"))
        waiting.result()

    assert capsys.readouterr().err.count("no service has begun it yet") == 1


def test_tried_again_with_its_key(store: DirectoryStore, models: Command) -> None:
    """A CronJob's pod that comes after one that was drained goes on with the retrain that that one asked for."""
    first, again = (json.loads(models("retrain", "--key", "nightly-7", "--json").stdout) for _ in range(2))

    assert first["version"] == again["version"] == 3
    assert models("retrain", "--key", "nightly-8").returncode == 2
    versions.close(store, LAYOUT.of_version(3), Result("kept", "worse"))
    assert json.loads(models("retrain", "--key", "", "--json").stdout)["version"] == 4  # as without


@pytest.mark.parametrize(("outcome", "code"), [("promoted", 0), ("kept", 0), ("failed", 1), ("cancelled", 0)])
def test_waiting_for_a_retrain(store: DirectoryStore, models: Command, outcome: Outcome, code: int) -> None:
    """A CronJob fails when the retrain failed; that a version is kept is no failure."""
    third = LAYOUT.of_version(3)

    def service() -> None:
        while not versions.newest(store, LAYOUT).open:
            time.sleep(0.05)
        versions.note_attempt(store, third)
        time.sleep(1.5)
        versions.close(store, third, Result(outcome, "so it is"))

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(service)
        done = models("retrain", "--wait")
        serving.result()

    assert done.returncode == code
    assert "version 3 is being trained (attempt 1)" in done.stdout
    assert f"version 3 {outcome}: so it is" in done.stdout
