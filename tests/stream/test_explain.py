"""Why: `headrace explain` takes a score apart, and shows the priorities that were learned."""

from __future__ import annotations

import json

import pytest

from stream import explain, inspect
from stream.errors import ConfigError
from tests.fakes import MemoryStore
from tests.forge import grow
from tests.rigs import LAYOUT


@pytest.fixture(scope="module")
def grown() -> MemoryStore:
    store = MemoryStore()
    grow(store, 400)
    return store


def test_parts_add_up_to_the_score_shown(grown: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The reasons for the first item add up to the score that `recommend` shows for it."""
    wanted = inspect.recommend_from_store(grown, LAYOUT, "u1", 1).items[0]

    explain.show(explain.from_store(grown, LAYOUT, "u1", None), {wanted[0]: "a name"}, as_json=True)

    said = json.loads(capsys.readouterr().out)
    assert (said["product_id"], said["name"]) == (wanted[0], "a name")
    assert said["score"] == pytest.approx(wanted[1], abs=1e-4)
    assert sum(said["parts"].values()) == pytest.approx(said["score"], abs=1e-4)
    assert said["clicks"] == sorted(said["clicks"], key=lambda pair: -pair[1])
    assert len(said["position_priorities"]) == 10
    assert {"purchase", "cart", "view"} <= said["type_priorities"].keys()
    assert {"embedding", "popularity_0", "repeat_9", "follows_2", "own", "near_lift"} <= said["weights"].keys()


def test_people_get_tables(grown: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part is named, and the priorities are printed."""
    reasons = explain.from_store(grown, LAYOUT, "u1", "i4")

    explain.show(reasons, {}, as_json=False)

    said = capsys.readouterr().out
    assert all(part in said for part in reasons.parts)
    assert "i4 for u1" in said
    assert "purchase" in said


@pytest.mark.parametrize(("user", "product", "named"), [("nobody", "i4", "'nobody'"), ("u1", "nothing", "'nothing'")])
def test_unknown_ids_are_named(grown: MemoryStore, user: str, product: str, named: str) -> None:
    """The error says which id the model does not know."""
    with pytest.raises(ConfigError, match=named):
        explain.from_store(grown, LAYOUT, user, product)
