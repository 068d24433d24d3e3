"""What `bench.ablation` prints, and that what it takes out is out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import ablation
from bench.common import click_messages
from model.batch import Batch
from model.learner import Learner


def batches(count: int = 8, size: int = 60) -> list[Batch]:
    random = np.random.default_rng(0)
    return [
        Batch.of(
            [f"u{user}" for user in random.integers(0, 9, size)],
            [f"i{item}" for item in random.integers(0, 25, size)],
            np.arange(size, dtype=np.int64) * 60_000 + number * 3_600_000,
        )
        for number in range(count)
    ]


def learned(name: str) -> Learner:
    learner = ablation.learner_without(ablation.PARTS[name], seed=0)
    for batch in batches():
        learner.learn(batch)
    return learner


def test_ablation_prints_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For each stream the learner as it is, twice with the same quality, and each part."""
    stream = tmp_path / "made.jsonl"
    stream.write_bytes(b"\n".join(click_messages(400, None)))
    argv = ["ablation", str(stream), "--json", "--batch", "100", "--parts", "age,event types", "--fraction", "0.5"]
    monkeypatch.setattr(sys, "argv", argv)
    ablation.main()
    result = json.loads(capsys.readouterr().out)

    made = result["streams"]["made"]
    assert made["events"] == 400
    assert made["scored"] > 0
    assert made["whole"]["mrr20"] == made["again"]["mrr20"]
    assert made["without"].keys() == {"age", "event types"}
    assert made["without"]["age"].keys() == {"mrr20", "brings", "error", "microseconds_per_event", "costs"}
    assert result.keys() == {"streams", "settings", "machine"}


@pytest.mark.parametrize(
    "name", [name for name, part in ablation.PARTS.items() if part.held is not ablation._no_places]
)
def test_weights_that_are_held_stay_at_zero(name: str) -> None:
    learner = learned(name)
    mixing = learner.state.mixing
    held = np.array(ablation.PARTS[name].held(mixing.layout)) + 1

    assert not mixing.values[held].any()
    assert not mixing.served[held].any()
    assert not mixing.gates[:, held].any()
    assert np.count_nonzero(mixing.gates) > 0
