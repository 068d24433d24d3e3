"""Which version serves, and how a new one is asked for: records in the store, each written once, whoever races."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from stream import versions
from stream.errors import ConfigError, PreconditionFailed, StoreRefused, StoreUnavailable
from stream.naming import Layout
from stream.store.directory import DirectoryStore
from stream.versions import Duel, Known, Request, Result, RetrainRunning, Serving, Trained
from tests.fakes import MemoryStore

LAYOUT = Layout("pre", "main")
TRAINED = Trained(7, 1, 100, 3, 2, 0, 1.5, Duel(10, 0.2, 0.5, 0.1, 0.4, 0.01), ("a note",))


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def test_the_first_version_serves_at_first(store: DirectoryStore) -> None:
    """A lineage that nobody retrained has one version, and no record of it."""
    assert versions.read_serving(store, LAYOUT) == Known(Serving(), None)
    assert versions.numbers(store, LAYOUT) == [1]
    assert versions.newest(store, LAYOUT).open is False


def test_a_new_version_is_asked_for_once(store: DirectoryStore) -> None:
    """The same key again is the same version; another key has to wait until that one is over."""
    first = versions.ask(store, LAYOUT, Request("a", "why", asked="today", by="me"))

    assert (first.number, first.open) == (2, True)
    assert versions.ask(store, LAYOUT, Request("a", "why")) == first
    with pytest.raises(RetrainRunning, match=r"version 2 is being trained, asked for at today by me \(why\)"):
        versions.ask(store, LAYOUT, Request("b"))
    versions.close(store, LAYOUT.of_version(2), Result("kept", "worse"))
    assert versions.ask(store, LAYOUT, Request("b")).number == 3
    assert versions.ask(store, LAYOUT, Request("a")).number == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 300])
@pytest.mark.parametrize("gap", [False, True])
def test_the_newest_is_found_among_many(count: int, gap: bool) -> None:  # noqa: FBT001 - a test's parameter
    """Whatever is known before, and though a version be missing; years of nightly retrains make no more requests."""
    store = MemoryStore()
    for number in range(2, count + 1):
        if not (gap and number % 3 == 0) or number == count:
            store.put(LAYOUT.of_version(number).record("request"), b'{"nonce": "x"}')
    for known in {1, count // 2, count} - {0}:
        store.calls.clear()
        assert versions.newest_number(store, LAYOUT, known) == count
        assert len(store.calls) <= (1 if known == count else 20)
    store.calls.clear()
    with pytest.raises(RetrainRunning) if count > 1 else nullcontext():
        versions.ask(store, LAYOUT, Request("new"))
    assert len(store.calls) <= 50


def test_of_many_who_ask_one_is_heard(store: DirectoryStore) -> None:
    """Numbers are given once, and one retrain runs at a time."""

    def ask(key: str) -> int:
        try:
            return versions.ask(store, LAYOUT, Request(key)).number
        except RetrainRunning:
            return 0

    with ThreadPoolExecutor(8) as pool:
        given = sorted(pool.map(ask, "abcdefgh"))

    assert given == [0] * 7 + [2]
    assert versions.numbers(store, LAYOUT) == [1, 2]


def test_a_lost_reply_is_no_second_version() -> None:
    """One's own request, whose reply was lost, is found again by its key."""
    store = MemoryStore()

    def lose(call: str, key: str) -> None:
        if call == "put" and key.endswith("request.json"):
            store.aftermath = lambda _call, _key: None
            raise StoreUnavailable("reply lost")

    store.aftermath = lose
    with pytest.raises(StoreUnavailable):
        versions.ask(store, LAYOUT, Request("a"))

    assert versions.ask(store, LAYOUT, Request("a")).number == 2
    assert versions.numbers(store, LAYOUT) == [1, 2]


def test_the_first_result_stands(store: DirectoryStore) -> None:
    """Whoever closes a retrain later learns how it ended."""
    place = LAYOUT.of_version(2)
    versions.ask(store, LAYOUT, Request("a"))
    assert versions.note_trained(store, place, TRAINED) == TRAINED
    assert versions.close(store, place, Result("cancelled", "by hand")).outcome == "cancelled"

    assert versions.close(store, place, Result("promoted", "better")).outcome == "cancelled"
    found = versions.read(store, place)
    assert (found.trained, found.result, found.open) == (TRAINED, Result("cancelled", "by hand"), False)


def test_attempts_are_counted(store: DirectoryStore) -> None:
    """By whichever process: a training that kills its process each time must end some day."""
    place = LAYOUT.of_version(2)
    assert [versions.note_attempt(store, place) for _ in range(3)] == [1, 2, 3]
    assert versions.read(store, place).attempts == 3


def test_promotion_and_rollback_are_a_stack() -> None:
    """Back from 3 is 2, back from there is 1, and from there nowhere; what was promoted again counts again."""
    serving = versions.promoted(versions.promoted(Serving(), 2, "t", "w"), 3, "t", "w")
    assert (serving.version, serving.before) == (3, (1, 2))
    serving = versions.rolled_back(serving, "t", "w")
    assert (serving.version, serving.before) == (2, (1,))
    serving = versions.rolled_back(serving, "t", "w")
    assert (serving.version, serving.before) == (1, ())
    with pytest.raises(ConfigError, match="version 1 is the first that served"):
        versions.rolled_back(serving, "t", "w")
    assert versions.promoted(serving, 1, "t", "w") == serving


def test_a_pin_survives_a_promotion() -> None:
    """Pinned is a promise about retrains; by hand everything goes."""
    serving = versions.pinned(Serving(), pin=True)
    assert versions.promoted(serving, 2, "t", "w").pinned
    assert versions.rolled_back(versions.promoted(serving, 2, "t", "w"), "t", "w").pinned
    assert not versions.pinned(serving, pin=False).pinned


def test_serving_is_changed_over_what_was_read(store: DirectoryStore) -> None:
    """Two who change it at the same moment: one of them is told."""
    known = versions.read_serving(store, LAYOUT)
    versions.write_serving(store, LAYOUT, Serving(2, (1,)), known)
    with pytest.raises(PreconditionFailed):
        versions.write_serving(store, LAYOUT, Serving(3, (1,)), known)
    known = versions.read_serving(store, LAYOUT)
    versions.write_serving(store, LAYOUT, Serving(3, (1, 2)), known)
    versions.write_serving(store, LAYOUT, Serving(3, (1, 2)), known)  # one's own, whose reply was lost
    with pytest.raises(PreconditionFailed):
        versions.write_serving(store, LAYOUT, Serving(2, (1,)), known)

    assert versions.read_serving(store, LAYOUT).serving == Serving(3, (1, 2))


BAD: dict[str, bytes] = {
    "empty": b"",
    "no object": b"[]",
    "version is a text": b'{"version":"2"}',
    "version 0": b'{"version":0}',
    "version too large": b'{"version":1000000}',
    "before is odd": b'{"version":2,"before":[-1]}',
    "deep": b"[" * 100_000,
    "large": b" " * (2 << 20),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_a_bad_record_is_refused_by_name(store: DirectoryStore, data: bytes) -> None:
    """Nothing is guessed: the message names the object."""
    store.put(LAYOUT.serving, data)

    with pytest.raises(StoreRefused, match=r"pre/lineage/main/SERVING\.json"):
        versions.read_serving(store, LAYOUT)


READERS: list[Callable[[DirectoryStore], object]] = [
    lambda store: versions.read(store, LAYOUT.of_version(2)),
    lambda store: versions.newest(store, LAYOUT),
    lambda store: versions.overview(store, LAYOUT),
]


@pytest.mark.parametrize("read", READERS, ids=["read", "newest", "overview"])
def test_a_bad_request_is_refused_by_name(store: DirectoryStore, read: Callable[[DirectoryStore], object]) -> None:
    store.put(LAYOUT.of_version(2).record("request"), b'{"nonce":7}')

    with pytest.raises(StoreRefused, match=r"version/000002/request\.json cannot be read"):
        read(store)


def test_what_lies_beside_versions_is_no_version(store: DirectoryStore) -> None:
    for name in ("x", "7", "000001", "1000000", "00000a"):
        store.put(f"{LAYOUT.versions}{name}/request.json", b"{}")

    assert versions.numbers(store, LAYOUT) == [1]
