"""What `bench.growth` prints; and that what grows there stops growing at its cap."""

from __future__ import annotations

import json
import sys

import pytest

from bench import growth


def test_sessions_grow_to_their_cap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With room for 64 sessions the state is as large after 60,000 clicks as after half of them."""
    arguments = ["growth", "--json", "--clicks", "60000", "--sessions", "64", "--rows", "10"]
    monkeypatch.setattr(sys, "argv", arguments)
    growth.main()
    rows = json.loads(capsys.readouterr().out)["rows"]

    assert len(rows) == 10
    assert max(row["sessions"] for row in rows) == 64
    assert rows[-1]["sessions_bytes"] == rows[5]["sessions_bytes"]
    assert rows[-1].keys() >= {"clicks", "resident_bytes", "state_bytes"}
