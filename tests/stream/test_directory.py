"""A directory as a store: what only a file system can do wrong, and what people do to folders by hand."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from stream.errors import NotFound, PreconditionFailed, StoreRefused, StoreUnavailable
from stream.store.directory import DirectoryStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def keys_of(store: DirectoryStore, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, start_after)]


def scratch(store: DirectoryStore) -> list[Path]:
    return list((store.root / ".headrace" / "tmp").iterdir())


def test_objects_are_plain_files(store: DirectoryStore) -> None:
    """What is put is a file of that name, and a file put there by hand is an object."""
    store.put("data/clickstream.json", b"{}\n")
    (store.root / "data" / "by_hand.json").write_bytes(b"[]")

    assert (store.root / "data" / "clickstream.json").read_bytes() == b"{}\n"
    assert store.get("data/by_hand.json").data == b"[]"
    assert keys_of(store) == ["data/by_hand.json", "data/clickstream.json"]


def test_an_edit_by_hand_is_another_version(store: DirectoryStore) -> None:
    """A file that was changed behind the store's back is not written over by If-Match."""
    etag = store.put("a", b"one")
    with (store.root / "a").open("ab") as file:
        file.write(b" two")

    with pytest.raises(PreconditionFailed):
        store.put("a", b"three", if_match=etag)


def test_many_writes_of_equal_size_have_different_etags(store: DirectoryStore) -> None:
    """Inodes are used again and clocks tick slowly; no two versions may look alike all the same."""
    etags = [store.put("a", b"same") for _ in range(300)]

    assert len(set(etags)) == 300


def test_thousands_of_keys_in_order(store: DirectoryStore) -> None:
    """More keys than a page of S3 holds come in order, and from any start."""
    keys = sorted(
        f"stage/{topic}/{part}/{start:020d}.parquet"
        for topic in ("t", "t-2")
        for part in range(3)
        for start in range(400)
    )
    for key in keys:
        path = store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert keys_of(store) == keys
    assert keys_of(store, "stage/", keys[1234]) == keys[1235:]
    assert keys_of(store, "stage/t/") == [key for key in keys if key.startswith("stage/t/")]


def test_a_listing_reads_only_the_folders_it_needs(store: DirectoryStore) -> None:
    """A deep prefix and a late start do not walk the rest of the tree: what cannot be read there is not met."""
    for name in ["a/0/x", "a/1/x", "a/2/x", "b/x"]:
        store.put(name, b"")
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "os.scandir" else None)

    assert keys_of(store, "a/", "a/1/x") == ["a/2/x"]

    ours = {path.removeprefix(str(store.root)) for path in opened if path.startswith(str(store.root))}
    assert ours <= {"/a", "/a/1", "/a/2"}


def test_a_listing_is_lazy(store: DirectoryStore) -> None:
    """The first of many keys is answered without reading the folders of the others."""
    for name in ["a/x", "b/x"]:
        store.put(name, b"")
    rows = store.list("")

    assert next(rows).key == "a/x"
    store.put("b/y", b"")
    assert [info.key for info in rows] == ["b/x", "b/y"]


def test_links_do_not_lead_out(store: DirectoryStore, tmp_path: Path) -> None:
    """A symbolic link below the root is no object: neither read, written, deleted nor listed."""
    (tmp_path / "secret").write_text("outside")
    (store.root / "out").symlink_to(tmp_path)
    (store.root / "file").symlink_to(tmp_path / "secret")

    for key in ["out/secret", "file"]:
        calls: list[Callable[[], object]] = [
            partial(store.get, key),
            partial(store.head, key),
            partial(store.delete, key),
            partial(store.put, key, b"x"),
        ]
        for call in calls:
            with pytest.raises(StoreRefused, match="symbolic link"):
                call()
    assert keys_of(store) == []
    assert (tmp_path / "secret").read_text() == "outside"


def test_the_stores_own_folder_is_no_place_for_objects(store: DirectoryStore) -> None:
    """Keys in .headrace are refused, and what is in it is never listed."""
    store.put("a", b"1")

    with pytest.raises(StoreRefused, match="own folder"):
        store.put(".headrace/lock", b"")
    assert keys_of(store, ".headrace/") == []
    assert keys_of(store) == ["a"]


def test_a_key_cannot_be_a_folder_too(store: DirectoryStore) -> None:
    """The one thing that S3 can do and a folder cannot is refused in words."""
    store.put("a/b", b"1")

    with pytest.raises(StoreRefused, match="folder of another key"):
        store.put("a", b"2")
    with pytest.raises(StoreRefused, match="folder of another key"):
        store.put("a/b/c", b"3")
    with pytest.raises(PreconditionFailed):
        store.put("a", b"2", if_absent=True)
    assert keys_of(store) == ["a/b"]


def test_emptied_folders_go(store: DirectoryStore) -> None:
    """Years of collected checkpoints leave no years of empty folders."""
    store.put("checkpoint/1/part", b"")
    store.put("checkpoint/2/part", b"")

    store.delete("checkpoint/1/part")

    assert sorted(path.name for path in (store.root / "checkpoint").iterdir()) == ["2"]
    store.delete("checkpoint/2/part")
    assert sorted(path.name for path in store.root.iterdir()) == [".headrace"]


def test_creating_and_removing_beside_each_other(store: DirectoryStore) -> None:
    """A folder that is removed when empty never takes away the ground from under a new object."""

    def churn(name: str) -> None:
        for number in range(60):
            store.put(f"deep/er/{name}", bytes([number]), if_absent=True)
            store.delete(f"deep/er/{name}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, "abcd"))

    assert keys_of(store) == []


def test_nothing_is_left_over(store: DirectoryStore) -> None:
    """Temporary files go, whether the write took place or was refused."""
    store.put("a", b"1", if_absent=True)
    store.put("a", b"2")
    with pytest.raises(PreconditionFailed):
        store.put("a", b"3", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("a", b"3", if_match='"stale"')

    assert scratch(store) == []


CRASHING_WRITER = """
import os, signal, sys
from pathlib import Path
from stream.store import files
with files.written(Path(sys.argv[1]), memoryview(b"half a checkpoint")):
    print("written", flush=True)
    signal.pause()
"""


def test_what_a_killed_writer_left_is_removed(store: DirectoryStore) -> None:
    """The next store to write removes a dead writer's file; a living one's it leaves alone."""
    store.put("a", b"1")
    folder = store.root / ".headrace" / "tmp"
    command = [sys.executable, "-c", CRASHING_WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"

        DirectoryStore(store.root).put("a", b"2")
        assert len(scratch(store)) == 1

        writer.send_signal(signal.SIGKILL)
    DirectoryStore(store.root).put("a", b"3")
    assert scratch(store) == []


def test_a_folder_that_is_gone_is_not_an_empty_store(store: DirectoryStore) -> None:
    """Starting anew because a disk is not mounted would be the worst answer: every call refuses instead."""
    store.put("a", b"1")
    store.root.rename(store.root.with_name("unmounted"))

    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.head("a"),
        lambda: store.put("a", b""),
        lambda: store.delete("a"),
        lambda: keys_of(store),
    ]
    for call in calls:
        with pytest.raises(StoreRefused, match="is gone"):
            call()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The message names the path."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreRefused, match=str(tmp_path / "file")):
        DirectoryStore(tmp_path / "file")
    with pytest.raises(StoreRefused, match=str(tmp_path / "file")):
        DirectoryStore(tmp_path / "file" / "below")


AS_NOBODY = """
import os, sys
from stream.store.directory import DirectoryStore
from stream.errors import StoreRefused
os.setgid(65534); os.setuid(65534)
store = DirectoryStore(sys.argv[1])
print(store.get("a").data)
for call in [lambda: store.put("a", b"2"), lambda: store.delete("a")]:
    try:
        call()
    except StoreRefused as refusal:
        print(refusal)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, who may not write there")
def test_a_folder_without_the_right_to_write() -> None:
    """It can be read; a write is refused, naming the path and the remedy."""
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(folder)
        store.put("a", b"1")
        store.root.chmod(0o755)

        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder], capture_output=True, text=True, check=False, cwd="/"
        )

    assert done.returncode == 0, done.stderr
    read, put, delete = done.stdout.splitlines()
    assert read == "b'1'"
    assert put.startswith(f"cannot write {store.root}/a: Permission denied; give this user the right")
    assert delete.startswith(f"cannot delete {store.root}/a: Permission denied")


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from stream.store.directory import DirectoryStore
DirectoryStore(sys.argv[1]).put("a", bytes(2000))
"""


def test_a_write_that_does_not_fit_changes_nothing(store: DirectoryStore) -> None:
    """When the disk takes only half (here: a limit on files), the old version stays and nothing is left over."""
    store.put("a", b"old")

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(store.root)], capture_output=True, text=True, check=False
    )

    assert f"cannot write {store.root}/a: File too large" in done.stderr
    assert store.get("a").data == b"old"
    assert scratch(store) == []


def test_a_full_disk_may_pass(tmp_path: Path) -> None:
    """No space left is StoreUnavailable, names the path and says what to do."""
    if not mounted(tmp_path):
        pytest.skip("a full disk is made with a small tmpfs, which only root may mount")
    try:
        store = DirectoryStore(tmp_path)
        store.put("a", b"old")

        with pytest.raises(StoreUnavailable, match=f"cannot write {tmp_path}/b: No space left.*free some space"):
            store.put("b", bytes(1 << 20))

        assert store.get("a").data == b"old"
        assert keys_of(store) == ["a"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def mounted(path: Path) -> bool:
    try:
        return (
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=False, capture_output=True
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


def test_a_named_pipe_is_no_object(store: DirectoryStore) -> None:
    """Reading one would wait for ever; it is not found instead."""
    os.mkfifo(store.root / "pipe")

    with pytest.raises(NotFound):
        store.get("pipe")
    assert keys_of(store) == []


def test_without_hard_links_creation_is_still_once(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On exFAT and the like, where links are refused, the lock takes their place: one winner each time."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)

    def create(race: int) -> bool:
        try:
            store.put(f"race/{race}", b"x", if_absent=True)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(create, itertools.chain.from_iterable([race] * 4 for race in range(40))))

    assert sum(won) == 40
    assert scratch(store) == []


def test_a_folder_removed_before_publishing_is_made_again(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete that empties the folder between its making and the new object's name costs another try, no error."""
    link = Path.hardlink_to
    removed: list[Path] = []

    def remove_folder_first(self: Path, target: Path) -> None:
        if not removed:
            self.parent.rmdir()
            removed.append(self.parent)
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", remove_folder_first)
    store.put("folder/a", b"1", if_absent=True)

    assert removed == [store.root / "folder"]
    assert store.get("folder/a").data == b"1"
