"""Which lineage serves: written once, by the fastest, and read by all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream import lineage
from stream.errors import StoreRefused
from stream.store.directory import DirectoryStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def test_nothing_serves_at_first(store: DirectoryStore) -> None:
    """An empty bucket is no error."""
    assert lineage.read(store, "pre") is None


def test_the_first_to_resolve_decides(store: DirectoryStore) -> None:
    """Whoever comes later gets the lineage that serves, not the one it would have begun."""
    assert lineage.resolve(store, "pre", "a") == "a"
    assert lineage.resolve(store, "pre", "b") == "a"
    assert lineage.read(store, "pre") == lineage.Current("a", store.head("pre/CURRENT").etag)
    assert lineage.resolve(store, "other", "b") == "b"


def test_racing_processes_agree(store: DirectoryStore) -> None:
    """Of many that start at once, all use the same lineage."""
    with ThreadPoolExecutor(8) as pool:
        chosen = set(pool.map(lambda name: lineage.resolve(store, "pre", name), "abcdefgh"))

    assert len(chosen) == 1


GARBAGE = [
    b"",
    b"main",
    b"{}",
    b'{"lineage":7}',
    b'{"lineage":"../x"}',
    b'{"lineage":""}',
    b'{"lineage":"\xff"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_a_bad_pointer_is_refused_by_name(store: DirectoryStore, data: bytes) -> None:
    """Nothing is guessed, and nothing is written over it: the message says what to do."""
    store.put("pre/CURRENT", data)

    with pytest.raises(StoreRefused, match=r"pre/CURRENT .*Restore or delete it"):
        lineage.resolve(store, "pre", "main")
    assert store.get("pre/CURRENT").data == data
