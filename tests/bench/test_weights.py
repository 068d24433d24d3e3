"""The learned weights of a stream, and their picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import weights
from bench.streams import Stream


def made_stream(name: str) -> Stream:
    """Everybody clicks the same few items again and again."""
    random, count = np.random.default_rng(3), 1500
    users = [f"u{k}" for k in random.integers(0, 30, count)]
    items = [f"i{int(user[1:]) % 10 + k}" for user, k in zip(users, random.integers(0, 3, count), strict=True)]
    return Stream.of(name, users, items, np.arange(count, dtype=np.int64) * 60_000)


def test_repeats_have_something_to_say() -> None:
    """Where users return to their items, having had one weighs for it, and every weight is told, as served."""
    found = weights.learned(made_stream("returning"), 100)

    assert found["events"] == 1500
    assert found["weights"].keys() == found["say"].keys()
    assert found["say"]["own"] + found["say"]["own_recency"] != 0.0
    assert max(found["say"].values()) > 0.1
    assert len(found["position_priorities"]) == weights.CONFIG.sequence_length
    assert set(found["type_priorities"]) >= {"view", "purchase"}


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_the_weights_are_drawn(tmp_path: Path, name: str) -> None:
    """One picture, in the format that its name says."""
    pytest.importorskip("matplotlib")
    weights.draw(tmp_path / name, {"one": weights.learned(made_stream("one"), 500)})

    head = (tmp_path / name).read_bytes()[:200]
    assert head.startswith(b"\x89PNG") or b"<?xml" in head
