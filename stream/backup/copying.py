"""Copies a lineage, object by object, in such an order that the copy can be started from whenever it is cut short.

What a plan or a MANIFEST names is written before it, and verified by its hash on the way; what the copy has already is
not read again. In the end the copy holds the newest checkpoint of each version, the plans after, and the archive: what
the source has collected goes from the copy too.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from stream import bounded, checkpoint, lineage, staged
from stream.backup import note, seen
from stream.backup.note import Note
from stream.backup.seen import Manifests, Seen, StoredPlan
from stream.checkpoint import Part
from stream.errors import CheckpointInvalid, ConfigError, NotFound, StoreRefused, StoreUnavailable
from stream.naming import FIRST_VERSION, MANIFEST, Layout, seq_of
from stream.ports import ObjectStore

log = structlog.get_logger()
ATTEMPTS = 5
CHUNK = 16 << 20


@dataclass(slots=True)
class Copied:
    """What one call did. `seq`: newest plan in the copy; `checkpoints`: by version, up to which plan. `objects` and
    `bytes` were written, `kept` were there already, `removed` are collected at the source.
    """

    lineage: str
    seq: int = -1
    checkpoints: dict[int, int] = field(default_factory=dict)
    objects: int = 0
    bytes: int = 0
    kept: int = 0
    removed: int = 0


def copy(source: ObjectStore, target: ObjectStore, layout: Layout) -> Copied:
    """Copy the layout's lineage as it is now; again and again into the same place, to bring the copy up to date.

    Raises ConfigError where there is nothing to copy; StoreRefused when the target holds something else, or the source
    is damaged; StoreUnavailable when either store is out of reach: what was copied stays, and the next call goes on.
    """
    with TemporaryDirectory(prefix="headrace-backup-") as folder:
        for _ in range(ATTEMPTS):
            try:
                found = seen.look(source, layout)
                return _Copy(source, target, layout, Path(folder)).run(found)
            except NotFound as error:
                log.info("collected while it was being copied, looking again", error=str(error))
    raise StoreUnavailable(
        f"lineage {layout.lineage} is collected faster than it can be copied: raise HEADRACE_STREAM_GC_GRACE_SECONDS"
    )


@dataclass(slots=True)
class _Copy:
    """One pass. `there`: sizes of what the target holds, by key."""

    source: ObjectStore
    target: ObjectStore
    layout: Layout
    folder: Path
    there: dict[str, int] = field(default_factory=dict)
    done: Copied = field(init=False)

    def run(self, found: Seen) -> Copied:
        self.done = Copied(self.layout.lineage, found.head.seq)
        self._claim(found)
        self.there = {info.key: info.size for info in self.target.list(f"{self.layout.root}/")}
        for info in found.archive:
            self._carry(info.key, info.size)
        self._say("archive is copied")
        self._records(found.asides)
        if found.archived:
            self._plans(found.plans)
            self._checkpoints(found)
        else:  # between plans of an older copy and those of now there may be a gap, which only a checkpoint spans
            self._checkpoints(found)
            spanned = self.done.checkpoints.get(found.serves, 0)
            self._plans([each for each in found.plans if each.seq >= spanned])
        self._say("plans and checkpoints are copied")
        self._records(found.records)
        if found.serving is not None:
            self._write(self.layout.serving, found.serving)
        self._name_current()
        self._tidy(found)
        return self.done

    def _say(self, what: str) -> None:
        """For who waits: an archive of months takes its time."""
        log.info(what, written=self.done.objects, bytes=self.done.bytes, kept=self.done.kept)

    def _claim(self, found: Seen) -> None:
        known = note.read(self.target, self.layout)
        sha256 = seen.sha256_of(self.source, self.layout, found, known.note.seq) if known is not None else None
        note.check(self.target, self.layout, known, found.head.seq, sha256)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        note.write(self.target, self.layout, Note(self.layout.lineage, found.head.seq, found.head.sha256, at), known)

    def _records(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._put(key, bounded.read(self.source, key, bounded.CURRENT_BYTES_MAX))

    def _plans(self, found: Sequence[StoredPlan]) -> None:
        """In order, each after what it names; before that, those go that are collected by now."""
        plans, first = self.layout.plans, found[0].seq
        self._remove(sorted(key for key in self.there if key.startswith(plans) and (seq_of(key) or 0) < first))
        for stored in found:
            self._plan(stored)
        wanted = {planned.staged.key for each in found for planned in each.plan.ranges if planned.staged}
        self._remove([key for key in self.there if key.startswith(self.layout.staged) and key not in wanted])

    def _plan(self, stored: StoredPlan) -> None:
        for planned in stored.plan.ranges:
            if planned.staged is None:
                continue
            if self.there.get(planned.staged.key) == planned.staged.size:
                self.done.kept += 1
                continue
            data = staged.read(self.source, planned.staged)
            if staged.digest(data) != planned.staged.sha256:
                raise StoreRefused(f"{planned.staged.key} was altered, so it is not copied: see `headrace verify`")
            self._write(planned.staged.key, data)
        self._put(self.layout.plan(stored.seq), stored.data)

    def _checkpoints(self, found: Seen) -> None:
        for each in found.manifests:
            newest = self._checkpoint(each)
            whole = each.layout.version == FIRST_VERSION and found.first.seq == 0
            if newest is None and each.layout.version == found.serves and not whole:
                raise StoreRefused(f"no checkpoint of version {found.serves}, which serves, verifies: not copied")

    def _checkpoint(self, each: Manifests) -> int | None:
        """Copy the newest checkpoint that verifies; answers its seq."""
        for seq, key in each.found:
            try:
                manifest = checkpoint.read_manifest(self.source, key)
                for part in manifest.parts:
                    self._part(part)
            except CheckpointInvalid as error:
                self.source.head(key)  # raises NotFound: not damaged, but collected
                log.error(  # noqa: TRY400 - the error says what is wrong with the checkpoint
                    "checkpoint does not verify, copying the next older one", seq=seq, error=str(error)
                )
                continue
            self._put(key, bounded.read(self.source, key, checkpoint.MANIFEST_BYTES_MAX))
            self.done.checkpoints[each.layout.version] = seq
            return seq
        return None

    def _part(self, part: Part) -> None:
        if self.there.get(part.key) == part.size:
            self.done.kept += 1
            return
        with self._fetched(part.key) as data:
            if staged.digest(data) != part.sha256:
                raise CheckpointInvalid(f"{part.key} is damaged: its SHA-256 is not the one in its manifest")
            self._write(part.key, data)

    def _tidy(self, found: Seen) -> None:
        """Of each version only the newest checkpoint stays. MANIFEST first: what is half deleted is no checkpoint."""
        for each in found.manifests:
            place, newest = each.layout, self.done.checkpoints.get(each.layout.version)
            kept = place.checkpoint(newest) if newest is not None else " "
            old = [key for key in self.there if key.startswith(place.checkpoints) and not key.startswith(kept)]
            self._remove(sorted(old, key=lambda key: not key.endswith(f"/{MANIFEST}")))

    def _name_current(self) -> None:
        current = lineage.read(self.source, self.layout.prefix)
        if current is not None and current.lineage == self.layout.lineage:
            data = bounded.read(self.source, self.layout.current, bounded.CURRENT_BYTES_MAX)
            self._write(self.layout.current, data)

    def _carry(self, key: str, size: int) -> None:
        """An object of any size, which is never written twice with another content."""
        if self.there.get(key) == size:
            self.done.kept += 1
            return
        with self._fetched(key) as data:
            if len(data) != size:
                raise StoreRefused(f"{key} has {len(data)} bytes, and {size} by the store's own listing: not copied")
            self._write(key, data)

    @contextmanager
    def _fetched(self, key: str) -> Iterator[memoryview]:
        """The object's bytes, on disk and not in memory. Raises NotFound, and ConfigError when there is no room."""
        path = self.folder / "object"
        try:
            with path.open("wb") as file:
                while data := self.source.get_range(key, file.tell(), CHUNK):
                    file.write(data)
        except OSError as error:
            raise ConfigError(f"{key} does not fit into {self.folder}: {error.strerror}. Set TMPDIR") from error
        if not path.stat().st_size:  # which cannot be mapped
            yield memoryview(b"")
            return
        with (
            path.open("rb") as written,
            mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view

    def _put(self, key: str, data: bytes) -> None:
        """Write what has one content only, unless it is there."""
        if self.there.get(key) == len(data):
            self.done.kept += 1
            return
        self._write(key, data)

    def _write(self, key: str, data: bytes | memoryview) -> None:
        self.target.put(key, data)
        self.done.objects += 1
        self.done.bytes += len(data)

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.target.delete(key)
        self.done.removed += len(keys)
