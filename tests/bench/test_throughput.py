"""What `bench.throughput` prints, on a stream of a few clicks."""

from __future__ import annotations

import json
import sys

import pytest

from bench import libraries, throughput
from bench.laps import STEPS, measured
from bench.peers.peer import NotInstalled
from model.learner import Learner
from tests.model.streams import SMALL, random_batches, run

KEYS = {
    *("events_per_second", "gensim_words_per_second", "ratio_to_gensim", "bpr_triples_per_second", "ratio_to_bpr"),
    *("rounds", "machine", "bytes_per_user_row", "bytes_per_item_row", "where", "top_n", "skipped"),
}


def without_libraries(*_: object) -> object:
    raise NotInstalled("no module: pip install it")


def test_throughput_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A library that is not installed is null, and the reason is told."""
    monkeypatch.setattr(libraries, "cbow", without_libraries)
    monkeypatch.setattr(libraries, "bpr", without_libraries)
    monkeypatch.setattr(throughput, "row_bytes", lambda count: {"user": {"columns": 1}, "item": {"columns": 1}})
    monkeypatch.setattr(sys, "argv", ["throughput", "--json", "--limit", "300", "--rounds", "2", "--items", "300"])
    throughput.main()
    result = json.loads(capsys.readouterr().out)

    assert result.keys() >= KEYS
    assert result["ratio_to_gensim"] is None
    assert result["skipped"] == dict.fromkeys(("gensim", "bpr"), "no module: pip install it")
    assert len(result["rounds"]) == 2
    assert result["where"].keys() == {name for name, _, _ in STEPS}
    assert result["top_n"]["batch_1_microseconds"] > 0


def test_timing_the_steps_changes_nothing() -> None:
    batches = random_batches(6, 20)
    plain, timed = Learner(SMALL), Learner(SMALL)
    run(plain, batches)
    with measured() as laps:
        run(timed, batches)

    assert all(seconds >= 0.0 for seconds in laps.seconds.values())
    assert laps.seconds["walk"] > 0.0
    assert (timed.items["vector"] == plain.items["vector"]).all()
