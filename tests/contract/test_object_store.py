"""What every ObjectStore promises, tried on a local directory and on a real S3 server."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stream.errors import ConfigError, HeadraceError, NotFound, PreconditionFailed
from stream.ports import ObjectStore
from stream.store.directory import DirectoryStore

PART = 5 << 20
RACED = [f"race/{number:02d}" for number in range(40)]
WRITERS = 4
STALE = '"00000000000000000000000000000000"'

# In the order of their UTF-8 bytes; '-' and '.' are less than '/', so a tree walk would get these wrong.
KEYS = [
    "o/A",
    "o/a b",
    "o/a%2Fb",
    "o/a+b",
    "o/a-b/c",
    "o/a.b",
    "o/a/b/c",
    "o/a/b0",
    "o/a/c",
    "o/a0",
    'o/x&<y>"',
    "o/z",
    "o/é",
    "o/日本",
    "o/\uffee",
    "o/😀",
]


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind; on S3 with the smallest parts and with pages of three."""
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    made: ObjectStore = request.getfixturevalue("s3_server").fresh_store(part_size=PART, page_size=3)
    return made


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def keys_of(store: ObjectStore, prefix: str, start_after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, start_after)]


def wins(attempt: Callable[[], object]) -> bool:
    """True when the conditional write took place, False when it was refused for its condition."""
    try:
        attempt()
    except PreconditionFailed:
        return False
    return True


def race(pool: ThreadPoolExecutor, attempt: Callable[[str, bytes], object]) -> dict[str, bytes]:
    """Several writers at once for each raced key: the winner's data by key, after checking that there is one."""
    writes = [(key, f"{key} by {writer}".encode()) for key in RACED for writer in range(WRITERS)]
    won = list(pool.map(lambda write: wins(lambda: attempt(*write)), writes))
    winners = [write for write, wrote in zip(writes, won, strict=True) if wrote]
    assert [key for key, _ in winners] == RACED
    return dict(winners)


def test_reads_back_what_was_written(store: ObjectStore) -> None:
    """Bytes, ETag and size are those of the last write, whatever the bytes."""
    for data in [b"", b"one", b"\x00\xff\r\n" * 1000]:
        etag = store.put("a/b.bin", data)

        blob, info = store.get("a/b.bin"), store.head("a/b.bin")

        assert (blob.data, blob.etag) == (data, etag)
        assert (info.key, info.size, info.etag) == ("a/b.bin", len(data), etag)


def test_a_listing_says_what_head_says(store: ObjectStore) -> None:
    """Size, ETag and time of a listed object are those of the object; a HEAD's time has no fractions of a second."""
    store.put("a/one", b"1234")

    [listed], head = list(store.list("a/")), store.head("a/one")

    assert (listed.key, listed.size, listed.etag) == (head.key, head.size, head.etag) == ("a/one", 4, head.etag)
    assert abs(listed.modified - head.modified) <= 1
    assert abs(listed.modified - time.time()) < 60


def test_takes_a_memoryview(store: ObjectStore) -> None:
    """A slice of a buffer is written without its surroundings."""
    store.put("a", memoryview(b"0123456789")[2:5])

    assert store.get("a").data == b"234"


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    """A missing key, and a key's own folder, are NotFound by every way of reading, and the message names it."""
    store.put("folder/object", b"1")

    for key in ["missing", "folder", "folder/object/below"]:
        reads: list[Callable[[], object]] = [
            partial(store.get, key),
            partial(store.head, key),
            partial(store.get_range, key, 0, 1),
        ]
        for read in reads:
            with pytest.raises(NotFound, match=key):
                read()


def test_ranges(store: ObjectStore) -> None:
    """A range is [start, start + length), cut at the end of the object and empty behind it."""
    store.put("a", b"0123456789")
    store.put("empty", b"")

    assert store.get_range("a", 0, 4) == b"0123"
    assert store.get_range("a", 9, 1) == b"9"
    assert store.get_range("a", 8, 100) == b"89"
    assert store.get_range("a", 10, 5) == b""
    assert store.get_range("a", 3, 0) == b""
    assert store.get_range("empty", 0, 5) == b""
    with pytest.raises(NotFound):
        store.get_range("missing", 3, 0)
    for start, length in [(-1, 5), (0, -1)]:
        with pytest.raises(ValueError, match="must not be negative"):
            store.get_range("a", start, length)


def test_create_once_refuses_the_second(store: ObjectStore) -> None:
    """An object that is there stays as it is, and can be created again once it is gone."""
    etag = store.put("a", b"first", if_absent=True)

    with pytest.raises(PreconditionFailed):
        store.put("a", b"second", if_absent=True)
    assert store.get("a").data == b"first"
    assert store.head("a").etag == etag

    store.delete("a")
    store.put("a", b"third", if_absent=True)
    assert store.get("a").data == b"third"


def test_compare_and_swap_refuses_a_stale_etag(store: ObjectStore) -> None:
    """A write over an ETag takes place once; a stale one, and one over nothing, change nothing."""
    old = store.put("a", b"old")
    new = store.put("a", b"new", if_match=old)

    for key, etag in [("a", old), ("a", STALE), ("missing", old)]:
        with pytest.raises(PreconditionFailed):
            store.put(key, b"stale", if_match=etag)

    assert new != old
    assert store.get("a").data == b"new"
    assert keys_of(store, "") == ["a"]


def test_both_conditions_at_once_make_no_sense(store: ObjectStore) -> None:
    """A write cannot ask that the object is there and that it is not."""
    with pytest.raises(ValueError, match="exclude each other"):
        store.put("a", b"1", if_absent=True, if_match=STALE)


def test_delete(store: ObjectStore) -> None:
    """Gone is gone, deleting it again is no error, and its neighbours stay."""
    store.put("a/b", b"1")
    store.put("a/c", b"2")

    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")

    assert keys_of(store, "") == ["a/c"]
    store.delete("a/c")
    store.put("a", b"a key where there was a folder")
    assert keys_of(store, "") == ["a"]


def test_conditional_delete(store: ObjectStore) -> None:
    """Only the version that was asked for goes; one that is gone already is no error."""
    old = store.put("a", b"old")
    new = store.put("a", b"new")

    with pytest.raises(PreconditionFailed):
        store.delete("a", if_match=old)
    assert store.get("a").data == b"new"

    store.delete("a", if_match=new)
    store.delete("a", if_match=new)
    assert keys_of(store, "") == []


def test_lists_in_the_order_of_keys(store: ObjectStore) -> None:
    """Whole keys are compared by their UTF-8 bytes, across folders and pages, and every start is exact."""
    shuffled = random.Random(1).sample(KEYS, len(KEYS))
    for key in shuffled:
        store.put(key, key.encode())

    assert keys_of(store, "o/") == KEYS
    assert keys_of(store, "") == KEYS
    for start in [*KEYS, "o/", "n", "o/a", "o/a-", "o/a/", "o/a/b", "o/b", "p", "o/a/b/", "o/a-b", "\U0010ffff"]:
        assert keys_of(store, "o/", start) == [key for key in KEYS if key > start], start
    assert [store.get(info.key).data.decode() for info in store.list("o/")] == KEYS


def test_a_prefix_need_not_end_at_a_slash(store: ObjectStore) -> None:
    """A prefix is the beginning of a key, not a folder; an unknown one is an empty listing."""
    for key in KEYS:
        store.put(key, b"")

    for prefix in ["o/a", "o/a/", "o/a/b", "o/a-b/", "o/é", "o/a/b/c", "x", "o/a/b/c/d", "o/a+"]:
        assert keys_of(store, prefix) == [key for key in KEYS if key.startswith(prefix)], prefix
        assert keys_of(store, prefix, "o/a/b0") == [k for k in KEYS if k.startswith(prefix) and k > "o/a/b0"], prefix


def test_numbered_keys_list_in_number_order(store: ObjectStore) -> None:
    """The newest of many plans is found by starting after an older one."""
    keys = [f"plan/{seq:020d}.json" for seq in range(25)]
    for key in keys:
        store.put(key, b"{}")

    assert keys_of(store, "plan/") == keys
    assert keys_of(store, "plan/", keys[9]) == keys[10:]
    assert keys_of(store, "plan/", keys[-1]) == []


@pytest.mark.parametrize("size", [PART, PART + 1, 3 * PART + 17])
def test_large_objects_arrive_whole(store: ObjectStore, size: int) -> None:
    """An object that goes up in several parts is one object: the same bytes, ranges across the seams, one ETag."""
    data = random.Random(size).randbytes(size)

    etag = store.put("big", data, if_absent=True)

    assert store.get("big").data == data
    assert store.head("big").etag == etag
    assert store.get_range("big", PART - 3, 6) == data[PART - 3 : PART + 3]
    assert store.get_range("big", size - 5, 100) == data[-5:]


def test_conditions_hold_for_large_objects(store: ObjectStore) -> None:
    """In several parts too, create-once and compare-and-swap refuse, and leave the object as it is."""
    data = bytes(PART + 1)
    first = store.put("big", data, if_absent=True)

    other = b"x" * len(data)
    writes: list[Callable[[], object]] = [
        lambda: store.put("big", other, if_absent=True),
        lambda: store.put("big", other, if_match=STALE),
        lambda: store.put("missing", other, if_match=first),
    ]
    for write in writes:
        with pytest.raises(PreconditionFailed):
            write()
    assert store.get("big").data == data
    assert keys_of(store, "") == ["big"]

    store.put("big", b"y" * len(data), if_match=first)
    assert store.get("big").data == b"y" * len(data)


def test_one_thread_wins_each_race_to_create(store: ObjectStore, pool: ThreadPoolExecutor) -> None:
    """Of several that create the same object at once exactly one does, and its bytes are there: 40 of 40."""
    won = race(pool, lambda key, data: store.put(key, data, if_absent=True))

    assert {key: store.get(key).data for key in RACED} == won


def test_one_thread_wins_each_race_to_swap(store: ObjectStore, pool: ThreadPoolExecutor) -> None:
    """Of several that replace the same version at once exactly one does, and its bytes are there: 40 of 40."""
    etags = {key: store.put(key, b"start") for key in RACED}

    won = race(pool, lambda key, data: store.put(key, data, if_match=etags[key]))

    assert {key: store.get(key).data for key in RACED} == won


def race_as_process(store: ObjectStore, name: str, barrier: Any, results: Any) -> None:
    """In a process of its own: try to create each of the raced objects, and report which ones it did."""
    won = []
    for key in RACED:
        barrier.wait(60)
        try:
            store.put(key, name.encode(), if_absent=True)
            won.append(key)
        except PreconditionFailed:
            continue
    results.put((name, won))


def test_one_process_wins_each_race(store: ObjectStore) -> None:
    """Of two processes that create the same objects at once, exactly one gets each: 40 of 40."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    racers = [spawn.Process(target=race_as_process, args=(store, name, barrier, results)) for name in "ab"]
    for racer in racers:
        racer.start()
    won = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(60)

    assert sorted(won["a"] + won["b"]) == RACED
    for name in "ab":
        assert all(store.get(key).data == name.encode() for key in won[name])


def test_readers_never_see_half_an_object(store: ObjectStore, pool: ThreadPoolExecutor) -> None:
    """While an object is replaced again and again, every read is one whole version with that version's ETag."""
    versions = {store.put("a", bytes([0]) * 100_000): 0}
    reads = pool.submit(lambda: [store.get("a") for _ in range(60)])
    for number in range(1, 30):
        versions[store.put("a", bytes([number]) * 100_000)] = number

    for blob in reads.result():
        assert blob.data == bytes([versions[blob.etag]]) * 100_000


def test_a_pickle_reaches_the_same_objects(store: ObjectStore) -> None:
    """A store can be sent to another process; there it reads and writes the same objects."""
    store.put("a", b"1")

    other: ObjectStore = pickle.loads(pickle.dumps(store))

    assert other.get("a").data == b"1"
    other.put("b", b"2")
    assert keys_of(store, "") == ["a", "b"]


@pytest.mark.parametrize(
    "key",
    [
        *["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "a/./b", "a//b", "a/", "a\0b", "a\nb", "\ud800"],
        *["x" * 256, "x/" * 600 + "x"],
    ],
)
def test_keys_that_not_every_store_can_hold_are_refused(store: ObjectStore, key: str) -> None:
    """A key that leads out of the store, or that some stores would alter, is an error that names it, in every call."""
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.head(key),
        lambda: store.put(key, b"x"),
        lambda: store.put(key, b"x", if_absent=True),
        lambda: store.delete(key),
        lambda: store.delete(key, if_match=STALE),
    ]

    for call in calls:
        with pytest.raises(ConfigError, match="object key"):
            call()


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "/etc", "a/../", "a\0"])
def test_prefixes_are_held_to_the_same_rules(store: ObjectStore, prefix: str) -> None:
    """No listing leads out of the store either."""
    with pytest.raises(HeadraceError, match="object key"):
        list(store.list(prefix))
