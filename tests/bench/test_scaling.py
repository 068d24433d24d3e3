"""What `bench.scaling` prints, over catalogues of a few items."""

from __future__ import annotations

import json
import sys

import pytest

from bench import scaling


def test_scaling_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "BATCH", 20)
    monkeypatch.setattr(sys, "argv", ["scaling", "--json", "--items", "80", "40", "--rounds", "1", "--batches", "2"])
    scaling.main()
    result = json.loads(capsys.readouterr().out)

    assert [size["items"] for size in result["sizes"]] == [40, 80]
    assert result.keys() >= {"ratio", "rare_ratio", "sizes", "steps", "machine"}
    assert result["sizes"][0].keys() >= {"microseconds_per_event", "resident_bytes_per_item", "column_bytes_per_item"}
    assert all(len(found) == 2 for found in result["steps"].values())


def test_popular_items_change() -> None:
    """The item that is clicked most at first is hardly clicked once it has fallen to the last place."""
    stage = scaling.Stage(50)
    early, late = ([stage.batch() for _ in range(2)] for _ in range(2))

    assert set(early[0].items.tolist()[:20]) != set(late[-1].items.tolist()[:20])
