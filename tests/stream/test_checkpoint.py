"""Checkpoints: complete only with their MANIFEST, which comes last, and read back only if every byte verifies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream import checkpoint
from stream.checkpoint import Manifest
from stream.errors import CheckpointInvalid, StoreUnavailable
from stream.events import Totals
from stream.naming import Layout
from stream.store.directory import DirectoryStore

LAYOUT = Layout("pre/fix", "main")
CONTENT = {"ids.parquet": b"ids", "model.json": b"{}", "table.safetensors": bytes(100_000)}


class RecordingStore(DirectoryStore):
    """Remembers the keys put, and fails at the n-th."""

    def __init__(self, root: Path, fail_at: int = 0) -> None:
        super().__init__(root)
        self.puts: list[str] = []
        self.fail_at = fail_at

    def put(self, key: str, *args: Any, **options: Any) -> str:
        self.puts.append(key)
        if len(self.puts) == self.fail_at:
            raise StoreUnavailable("out of reach")
        return super().put(key, *args, **options)


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    return RecordingStore(tmp_path / "store")


def manifest_of(seq: int = 7, **changes: Any) -> Manifest:
    fields = {"next_offsets": {0: 10, 1: 2**40}, "totals": Totals(5, 2, 1), "metadata": {"n_users": 3}, **changes}
    return Manifest(1, "main", seq, 2, "ab" * 32, parts=(), **fields)


def files(folder: Path, **content: bytes) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, data in {**CONTENT, **content}.items():
        (folder / name).write_bytes(data)
    return {path.name: path for path in folder.iterdir()}


def test_what_is_written_reads_back(store: RecordingStore, tmp_path: Path) -> None:
    """Manifest and parts come back as they were, offsets by partition number included."""
    written = checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))

    read = checkpoint.read_manifest(store, LAYOUT.manifest(7))

    assert read == written
    assert read.next_offsets == {0: 10, 1: 2**40}
    assert {part.name: checkpoint.read_part(store, part) for part in read.parts} == CONTENT
    assert read.size == sum(map(len, CONTENT.values()))


def test_the_manifest_comes_last(store: RecordingStore, tmp_path: Path) -> None:
    """Every part is in the store before the object that makes the checkpoint complete."""
    checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))

    assert store.puts[-1] == LAYOUT.manifest(7)
    assert len(store.puts) == len(set(store.puts)) == 1 + len(CONTENT)


@pytest.mark.parametrize("fail_at", range(1, 2 + len(CONTENT)))
def test_a_torn_write_is_no_checkpoint(tmp_path: Path, fail_at: int) -> None:
    """Cut off at any put, it is not listed; written again, it is whole, and only once."""
    store, content = RecordingStore(tmp_path / "store", fail_at), files(tmp_path / "f")
    with pytest.raises(StoreUnavailable):
        checkpoint.write(store, LAYOUT, manifest_of(), content)
    assert list(checkpoint.complete(store, LAYOUT)) == []

    checkpoint.write(store, LAYOUT, manifest_of(), content)

    assert list(checkpoint.complete(store, LAYOUT)) == [(7, LAYOUT.manifest(7))]
    assert len(list(store.list(LAYOUT.checkpoints))) == 1 + len(CONTENT)


def test_complete_ones_come_oldest_first(store: RecordingStore, tmp_path: Path) -> None:
    """In the order of their seq, whatever else lies among them."""
    for seq in (100, 9, 20):
        checkpoint.write(store, LAYOUT, manifest_of(seq), files(tmp_path / "f"))
    store.put(LAYOUT.checkpoint(50) + "table.0000000000000000.safetensors", b"orphan")
    store.put(LAYOUT.checkpoint(60) + "MANIFEST.json.bak", b"{}")
    store.put(LAYOUT.checkpoints + "70/MANIFEST.json", b"{}")
    store.put(LAYOUT.checkpoints + "copy/" + Layout("", "other").manifest(80), b"{}")

    assert [seq for seq, _ in checkpoint.complete(store, LAYOUT)] == [9, 20, 100]


def test_a_second_writer_is_harmless(store: RecordingStore, tmp_path: Path) -> None:
    """The first MANIFEST stays, and its parts verify, though another wrote other bytes for the same seq."""
    first = checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))
    other = files(tmp_path / "g", **{"table.safetensors": b"other"})
    checkpoint.write(store, LAYOUT, manifest_of(metadata={"n_users": 4}), other)

    read = checkpoint.read_manifest(store, LAYOUT.manifest(7))

    assert read == first
    assert [len(checkpoint.read_part(store, part)) for part in read.parts] == [part.size for part in first.parts]


DAMAGE: dict[str, Callable[[bytearray], bytes]] = {
    "truncated": lambda data: bytes(data[:-1]),
    "longer": lambda data: bytes(data) + b"x",
    "empty": lambda data: b"",
    "flipped": lambda data: bytes([*data[:-1], data[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
@pytest.mark.parametrize("name", CONTENT)
def test_a_damaged_part_is_named(store: RecordingStore, tmp_path: Path, name: str, damage: str) -> None:
    """One wrong bit, one byte too few or too many, or no object at all: invalid, naming the part."""
    written = checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))
    part = next(part for part in written.parts if part.name == name)
    if damage == "missing":
        store.delete(part.key)
    else:
        store.put(part.key, DAMAGE[damage](bytearray(CONTENT[name])))

    with pytest.raises(CheckpointInvalid, match=part.key):
        checkpoint.read_part(store, part)


def doctored(store: RecordingStore, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(store.get(LAYOUT.manifest(7)).data)
    change(document)
    store.put(LAYOUT.manifest(7), json.dumps(document).encode())


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another's key": lambda found: found["parts"][0].update(key="pre/fix/lineage/main/plan/00000000000000000001.json"),
    "another checkpoint's": lambda found: found["parts"][0].update(key=found["parts"][0]["key"].replace("7/", "6/")),
    "a path in the name": lambda found: found["parts"][0].update(
        name="../../x.json", key=f"{LAYOUT.checkpoint(7)}.{found['parts'][0]['sha256'][:16]}../../x.json"
    ),
    "another seq": lambda found: found.update(seq=8),
    "another lineage": lambda found: found.update(lineage="other"),
    "no lineage": lambda found: found.update(lineage="../main"),
    "another format": lambda found: found.update(format=2, parts="new"),
    "no format": lambda found: found.pop("format"),
    "no parts": lambda found: found.pop("parts"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_manifest_is_refused(store: RecordingStore, tmp_path: Path, name: str) -> None:
    """A MANIFEST leads to nothing but its own parts, and is read only in the format that is known."""
    checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))
    doctored(store, FOREIGN[name])

    with pytest.raises(CheckpointInvalid, match="format 2" if name == "another format" else LAYOUT.manifest(7)):
        checkpoint.read_manifest(store, LAYOUT.manifest(7))


HUGE = b" " * (checkpoint.MANIFEST_BYTES_MAX + 1)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"lineage":"\xff"}', b'{"x":' * 100_000, HUGE], ids=range(6))
def test_garbage_is_an_invalid_manifest(store: RecordingStore, tmp_path: Path, data: bytes) -> None:
    """Torn, hostile or oversize bytes say which MANIFEST they are, so that an older one is tried."""
    checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f"))
    found = store.get(LAYOUT.manifest(7)).data
    store.put(LAYOUT.manifest(7), found + data if data == HUGE else data)

    with pytest.raises(CheckpointInvalid, match=LAYOUT.manifest(7)):
        checkpoint.read_manifest(store, LAYOUT.manifest(7))


def test_a_missing_manifest_is_invalid(store: RecordingStore) -> None:
    """One that was collected between the listing and the reading."""
    with pytest.raises(CheckpointInvalid, match=LAYOUT.manifest(7)):
        checkpoint.read_manifest(store, LAYOUT.manifest(7))


def test_an_empty_part_is_a_mistake(store: RecordingStore, tmp_path: Path) -> None:
    """A file format's writer that wrote nothing is found before the checkpoint is called complete."""
    with pytest.raises(ValueError, match=r"model\.json is empty"):
        checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "f", **{"model.json": b""}))


class TearingStore(DirectoryStore):
    """Somebody collects a part just before the MANIFEST is there."""

    def put(self, key: str, *args: Any, **options: Any) -> str:
        if key.endswith("MANIFEST.json"):
            self.delete(next(info.key for info in self.list(LAYOUT.checkpoint(7)) if "table" in info.key))
        return super().put(key, *args, **options)


def test_torn_checkpoint_is_taken_back(tmp_path: Path) -> None:
    """A MANIFEST whose parts went while they were being written does not stay: it would count as one of those kept."""
    store = TearingStore(tmp_path / "store")

    with pytest.raises(CheckpointInvalid, match="taken back"):
        checkpoint.write(store, LAYOUT, manifest_of(), files(tmp_path / "files"))
    assert list(checkpoint.complete(store, LAYOUT)) == []
