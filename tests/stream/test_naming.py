"""Keys out of facts and facts out of keys; a listing in key order is one in number order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import wiring
from stream.figures import Figures
from stream.metrics import PrometheusMeter
from stream.naming import Layout, current_key, is_place, is_safe, join, place, seq_of
from stream.settings.settings import Settings
from tests.fakes import FakeClock

seqs = st.integers(0, 10**20 - 1)
LAYOUT = Layout("a/b/", "main")


@given(st.lists(seqs, unique=True))
def test_key_order_is_number_order(numbers: list[int]) -> None:
    """Plans, checkpoints, staged ranges and archives list in the order of their numbers."""
    for name in (
        LAYOUT.plan,
        LAYOUT.manifest,
        lambda seq: LAYOUT.stage("t", 0, seq, 0),
        lambda seq: LAYOUT.archive(seq, 0),
    ):
        assert sorted(map(name, numbers)) == [name(number) for number in sorted(numbers)]


@given(seqs)
def test_seq_comes_back_from_its_keys(seq: int) -> None:
    """A plan's key and a MANIFEST's say their number, under any prefix."""
    assert seq_of(LAYOUT.plan(seq)) == seq
    assert seq_of(Layout("", "main").manifest(seq)) == seq


@pytest.mark.parametrize(
    "key",
    [
        LAYOUT.current,
        LAYOUT.stage("t", 1, 2, 3),
        LAYOUT.archive(0, 63),
        LAYOUT.checkpoint(7) + "model.0123456789abcdef.json",
        LAYOUT.plan(7) + "\n",
        LAYOUT.plan(7).removesuffix(".json") + "/MANIFEST.json",
        LAYOUT.plans + "٣" * 20 + ".json",
        LAYOUT.plans + "7.json",
        "",
    ],
)
def test_other_keys_have_no_seq(key: str) -> None:
    """Whatever else lies in the bucket is not taken for a plan or a checkpoint."""
    assert seq_of(key) is None


def test_each_kind_has_its_place() -> None:
    """The layout of DESIGN, to the letter: other programs and people read it."""
    root = "a/b/lineage/main"

    assert LAYOUT.root == root
    assert LAYOUT.plan(7) == f"{root}/plan/00000000000000000007.json"
    assert LAYOUT.manifest(7) == f"{root}/checkpoint/00000000000000000007/MANIFEST.json"
    assert LAYOUT.stage("clicks", 2, 5, 9) == f"{root}/stage/clicks/2/00000000000000000005-00000000000000000009.parquet"
    assert LAYOUT.current == current_key("/a//b".replace("//", "/")) == "a/b/CURRENT"
    assert not LAYOUT.probes.startswith(root)
    assert LAYOUT.archive(0, 63).startswith(LAYOUT.archived)


def test_empty_parts_leave_no_slash() -> None:
    """Stores disagree about empty segments, so none is made."""
    assert join("", "/a/", "", "b/c/") == "a/b/c"
    assert current_key("") == "CURRENT"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "x" * 101])
def test_unsafe_names_are_refused(name: str) -> None:
    """A lineage's name is one segment of a key in every store."""
    assert not is_safe(name)
    with pytest.raises(ValueError, match="lineage"):
        Layout("", name)


def test_lineages_of_one_name_have_places_of_their_own() -> None:
    """Each by its store, prefix and name, so that no two are compared by their epochs; all versions have one place."""
    settings = [Settings.load({"store.bucket": bucket}) for bucket in ("one", "two")]
    places = {
        place(wiring.location(each), Layout(prefix, name))
        for each in settings
        for prefix in ("headrace", "headrace/shoes")
        for name in ("main", "other")
    }

    assert len(places) == 8
    assert all(is_place(each) for each in places)
    assert place("s3://one", LAYOUT.of_version(2)) == place("s3://one", LAYOUT)


def test_the_epoch_says_of_which_place() -> None:
    """The alert on takeovers goes by it."""
    meter, where = PrometheusMeter(), place("s3://one", LAYOUT)
    Figures(meter, FakeClock()).opened(7, 3, where)

    assert f'headrace_epoch{{place="{where}"}} 3.0' in meter.render()[0].decode()
