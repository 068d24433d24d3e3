"""Settings that cannot work are refused by name, the others survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.config import LearnerConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 0),
        ("dim", 8.0),
        ("dim", True),
        ("sequence_length", -1),
        ("negatives", 0),
        ("block", 0),
        ("seed", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", -0.1),
        ("learning_rate", "0.1"),
        ("accumulator_start", 0.0),
        ("accumulator_decay", 1.5),
        ("ridge", 0.0),
        ("score_share", float("inf")),
        ("score_fraction", 1.1),
        ("type_priorities", {"view": -1001.0}),
        ("type_priorities", {"": 1.0}),
        ("half_lives_hours", (1.0, 0.0)),
        ("baseline_half_life", 4),
        ("type_limit", 2),
    ],
)
def test_refuses_what_cannot_work(field: str, value: Any) -> None:
    """The error names the field and shows the value."""
    with pytest.raises(ValueError, match=field):
        LearnerConfig(**{field: value})


def test_survives_json() -> None:
    """What to_dict gives can be written as JSON and read back as the same config."""
    config = LearnerConfig(dim=32, type_priorities={"buy": 1.0}, half_lives_hours=(1.0, 5.0), score_fraction=0.2)

    assert LearnerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_settings_are_named() -> None:
    """A setting from another version is refused by its name."""
    with pytest.raises(ValueError, match="'colour'"):
        LearnerConfig.from_dict({"colour": 3})


def test_later_changes_of_the_given_dict_do_not_reach_it() -> None:
    """The config keeps its own copy of the priorities."""
    priorities = {"view": 0.5}
    config = LearnerConfig(type_priorities=priorities)

    priorities["view"] = 9.0

    assert config.type_priorities == {"view": 0.5}
