"""What `bench.memory` prints, and what it mixes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bench import memory
from bench.memory import Plan


def test_memory_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A small flood over a small cap: rows stay below it, and both ratios are there."""
    argv = ["memory", "--json", "--events", "20000", "--rows", "1500", "--fraction", "0.5"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(memory, "_apart", lambda plan, *, flood: memory.lead(plan, flood=flood))
    memory.main()
    result = json.loads(capsys.readouterr().out)

    assert result["occupancy"]["items"]["rows"] <= 1500
    assert result["occupancy"]["users"]["refused"] > 15_000
    assert result["real_clicks"] == 2000
    assert result["ranked"] > 0
    assert 0.0 < result["quality_ratio"] <= 1.5
    assert result["rss_ratio"] >= 1.0


def test_the_flood_is_one_to_ten_and_the_real_clicks_keep_their_order() -> None:
    """A batch has the stream's next 500 clicks, in order, ten others for each, and times that do not fall."""
    exam, random = Plan(None, 20_000, 1500, 0.5, 0).exam(), np.random.default_rng(0)
    for start in (0, 500):
        batch, chosen = memory._mixed(exam, start, 5000, random)
        users, span = batch.users.tolist(), slice(start, start + 500)
        real = [place for place, name in enumerate(users) if name.startswith("user-")]

        assert len(batch) == 5500
        assert [users[place] for place in real] == list(exam.stream.users[span])
        assert batch.times[real].tolist() == exam.stream.times[span].tolist()
        assert (np.diff(batch.times) >= 0).all()
        wanted = [place for place in exam.chosen.tolist() if start <= place < start + 500]
        assert [real.index(place) for place in chosen.tolist()] == [place - start for place in wanted]
        assert len(set(users) - set(exam.stream.users)) == 5000
