"""Keys that every store can hold, and listings put in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.ports import ObjectInfo
from stream.store.keys import ascending, check_key, early_start

# Few characters, on both sides of the slash: what matters is how they mix.
SEGMENT = st.text(alphabet="ab-.0~é", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
KEYS = st.sets(st.lists(SEGMENT, min_size=1, max_size=4).map("/".join), max_size=30)


def without_folders(keys: set[str]) -> list[str]:
    """Leave out keys that are the folder of another: some stores cannot hold both."""
    return sorted(key for key in keys if not any(other.startswith(f"{key}/") for other in keys))


def tree_walk(keys: list[str]) -> list[str]:
    """The order of SeaweedFS: segment by segment."""
    return sorted(keys, key=lambda key: [segment.encode() for segment in key.split("/")])


def listed(keys: list[str], prefix: str) -> list[str]:
    return [info.key for info in ascending((ObjectInfo(key, 0, "", 0.0) for key in keys), prefix)]


@given(KEYS, st.data())
def test_either_order_comes_out_ascending(keys: set[str], data: st.DataObject) -> None:
    """Rows in key order and rows of a tree walk both come out in the order of their bytes, below any prefix."""
    held = without_folders(keys)
    prefix = data.draw(st.sampled_from(["", *[key[:cut] for key in held for cut in range(1, len(key))]]))
    below = [key for key in held if key.startswith(prefix)]

    assert listed(below, prefix) == listed(tree_walk(below), prefix) == sorted(below, key=str.encode)


@given(KEYS, st.data())
def test_an_early_start_misses_nothing(keys: set[str], data: st.DataObject) -> None:
    """In a tree walk too, every key greater than the start comes after the early start."""
    held = without_folders(keys)
    start = data.draw(st.sampled_from(["", *held]) | SEGMENT)
    early = early_start("", start)
    walked = tree_walk([*held, early]) if early else held

    assert {key for key in held if key > start} <= set(walked[walked.index(early) if early else 0 :])


def test_an_early_start_is_near() -> None:
    """Starting after plan 1,234 does not list the thousand before it again."""
    assert early_start("plan/", "plan/00001234.json") == "plan/0000123"


def test_a_flat_folder_is_not_held_back() -> None:
    """A row is passed on before the next one is asked for."""
    rows = iter([ObjectInfo(f"plan/{seq}", 0, "", 0.0) for seq in range(5)])

    assert next(iter(ascending(rows, "plan/"))).key == "plan/0"
    assert next(rows).key == "plan/1"


@given(st.text(max_size=30))
def test_any_text_is_a_key_or_a_config_error(text: str) -> None:
    """Nothing but a ConfigError is raised; what passes stays below a root and can be encoded."""
    try:
        key = check_key(text)
    except ConfigError:
        return

    assert not {"", ".", ".."} & set(key.split("/"))
    assert "\0" not in key
    assert key.encode().decode() == key


@pytest.mark.parametrize("key", ["a", "a b", "a/b.json", "é/日本", "..a", "a..", "x" * 255])
def test_ordinary_keys_pass(key: str) -> None:
    """Spaces, dots within names and any script are fine."""
    assert check_key(key) == key
