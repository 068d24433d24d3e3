"""A checkpoint in the store: parts first, MANIFEST last, read back only if every byte verifies.

Parts carry the start of their own hash in their name, so writing one twice is harmless, and a half-written checkpoint
is only some objects that no MANIFEST names.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from stream import faultpoints
from stream.errors import CheckpointInvalid, NotFound, PreconditionFailed
from stream.events import Totals
from stream.naming import FIRST_VERSION, MANIFEST, VERSION_MAX, Layout, is_safe, seq_of
from stream.plans import OFFSET_MAX, PARTITION_MAX
from stream.ports import ObjectStore

FORMAT = 1
MANIFEST_BYTES_MAX = 4 << 20
_HASHED = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One object of a checkpoint: `name` is its file name, `key` where it lies; `sha256` hex, `size` in bytes."""

    name: str
    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of and where in the stream it stands. `next_offsets` by partition number.

    `metadata`: for people and tools (`training_mode`, `n_users`, `n_items`, `final_loss`, `last_updated`, ...).
    """

    format: int
    lineage: str
    seq: int
    epoch: int
    plan_sha256: str
    next_offsets: Mapping[int, int]
    totals: Totals
    parts: tuple[Part, ...]
    metadata: Mapping[str, Any]
    version: int = FIRST_VERSION

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


class _Header(msgspec.Struct):
    format: int


_header = msgspec.json.Decoder(_Header)
_decoder = msgspec.json.Decoder(Manifest)


def write(store: ObjectStore, layout: Layout, manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
    """Put the parts in `files` (by part name), then `manifest` with them filled in, which is the answer.

    Creating the MANIFEST is the last act, and happens once: another one already there is left as it is, for it stands
    for the same plans. Raises CheckpointInvalid, and leaves no MANIFEST of its own, when parts were collected meanwhile
    as those of a checkpoint that nobody would finish any more.
    """
    parts = tuple(_put_part(store, layout.checkpoint(manifest.seq), name, path) for name, path in sorted(files.items()))
    complete = Manifest(**{**_shallow(manifest), "parts": parts})
    key = layout.manifest(manifest.seq)
    faultpoints.reach("manifest")
    try:
        store.put(key, msgspec.json.encode(complete), if_absent=True)
    except PreconditionFailed:
        return complete
    _take_back_if_torn(store, key, parts)
    return complete


def _take_back_if_torn(store: ObjectStore, key: str, parts: tuple[Part, ...]) -> None:
    try:
        for part in parts:
            store.head(part.key)
    except NotFound as error:
        store.delete(key)
        raise CheckpointInvalid(
            f"{key} is taken back: a part was collected while it was being written, which took longer than the grace "
            "period (HEADRACE_STREAM_GC_GRACE_SECONDS)"
        ) from error


def read_manifest(store: ObjectStore, key: str) -> Manifest:
    """The MANIFEST at `key`.

    Raises CheckpointInvalid when it is missing, damaged, too large, of another format or names foreign keys.
    """
    try:
        data = store.get_range(key, 0, MANIFEST_BYTES_MAX + 1)
        if len(data) > MANIFEST_BYTES_MAX:
            raise CheckpointInvalid(f"{key} has more than the {MANIFEST_BYTES_MAX} bytes that a manifest may have")
        found = _header.decode(data).format  # first: another format's fields may be other ones
        if found != FORMAT:
            raise CheckpointInvalid(f"{key} has format {found}, this version of Headrace reads {FORMAT}")
        manifest = _decoder.decode(data)
    except (NotFound, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointInvalid(f"{key} cannot be read: {error}") from error
    _check_own(manifest, key)
    return manifest


def _check_own(manifest: Manifest, key: str) -> None:
    """Raise CheckpointInvalid unless lineage, version, seq and parts are those that belong at `key`."""
    possible = is_safe(manifest.lineage) and FIRST_VERSION <= manifest.version <= VERSION_MAX
    place = Layout("", manifest.lineage, manifest.version).manifest(manifest.seq) if possible else ""
    if not place or not f"/{key}".endswith(f"/{place}"):
        raise CheckpointInvalid(
            f"{key} says that it is of lineage {manifest.lineage!r}, version {manifest.version}, seq {manifest.seq}: "
            "not its own"
        )
    for partition, offset in manifest.next_offsets.items():
        if not (0 <= partition <= PARTITION_MAX and 0 <= offset <= OFFSET_MAX):
            raise CheckpointInvalid(f"{key} says that partition {partition} goes on at {offset}, which cannot be")
    home = key.removesuffix(MANIFEST)
    for part in manifest.parts:
        if not is_safe(part.name) or part.key != _part_key(home, part.name, part.sha256):
            raise CheckpointInvalid(f"{key} names {part.key}, which is not a part of its own")


def read_part(store: ObjectStore, part: Part) -> bytes:
    """A part's bytes, verified. Raises CheckpointInvalid naming the part."""
    try:
        if (size := store.head(part.key).size) != part.size:
            raise CheckpointInvalid(f"{part.key} has {size} bytes, its manifest says {part.size}")
        data = store.get(part.key).data
    except NotFound as error:
        raise CheckpointInvalid(f"{part.key} is missing") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise CheckpointInvalid(f"{part.key} is damaged: its SHA-256 is not the one in its manifest")
    return data


def complete(store: ObjectStore, layout: Layout) -> Iterator[tuple[int, str]]:
    """(seq, key of the MANIFEST) of every complete checkpoint, oldest first."""
    for info in store.list(layout.checkpoints):
        seq = seq_of(info.key)
        if seq is not None and info.key == layout.manifest(seq):
            yield seq, info.key


def discard(store: ObjectStore, layout: Layout) -> int:
    """Remove the checkpoints of the layout's version, MANIFEST first; how many objects."""
    manifests = [key for _, key in complete(store, layout)]
    others = [info.key for info in store.list(layout.checkpoints) if not info.key.endswith(f"/{MANIFEST}")]
    for key in [*manifests, *others]:
        store.delete(key)
    return len(manifests) + len(others)


def _put_part(store: ObjectStore, home: str, name: str, path: Path) -> Part:
    with path.open("rb") as file:
        size = path.stat().st_size
        if not size:
            raise ValueError(f"checkpoint part {name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            sha256 = hashlib.sha256(view).hexdigest()
            key = _part_key(home, name, sha256)
            with suppress(PreconditionFailed):  # the same bytes are there: the name says so
                store.put(key, view, if_absent=True)
    return Part(name, key, sha256, size)


def _part_key(home: str, name: str, sha256: str) -> str:
    stem, _, ending = name.partition(".")
    return f"{home}{stem}.{sha256[:_HASHED]}.{ending}"


def _shallow(manifest: Manifest) -> dict[str, Any]:
    return {**asdict(manifest), "totals": manifest.totals}
