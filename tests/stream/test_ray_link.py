"""An actor that does not start: whose cluster is away is begun again once it is back, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from stream import ray_link
from stream.errors import ConfigError, LearnerAway, LearnerFailed
from stream.naming import Layout
from stream.retrain.actor import Lessons, RayTrainer
from stream.versions import Request


@pytest.mark.parametrize(("ours", "expected"), [(False, LearnerAway), (True, LearnerFailed)], ids=["cluster", "own"])
def test_a_training_whose_ray_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
    ours: bool,  # noqa: FBT001
    expected: type[Exception],
) -> None:
    """A cluster may come back: the retrain is interrupted then, and no failure. A Ray of our own does not."""

    def refuse() -> Any:
        raise ConfigError("nothing listens")

    monkeypatch.setattr(ray_link, "rejoin", refuse)
    monkeypatch.setattr(ray_link, "let_go", lambda: not ours)
    trainer = RayTrainer(Lessons(None, None, 0, None, 1, 1, 0.0, ""))  # type: ignore[arg-type]

    with pytest.raises(expected, match="the training does not start: nothing listens") as found:
        trainer.begin(Layout("headrace", "main", 2), 1, Request("key"))
    assert type(found.value) is expected
