"""What the batch job remembers between runs, beside the pickle: generations, each complete once its MANIFEST exists.

Creating the MANIFEST of the next generation is the commit: it can happen once, so of two jobs at once one wins.
What must follow (pickle, archive, clearing) is written down in it, and done by whoever comes next if its maker dies.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from model import snapshot
from model.batch import Strings
from model.learner import Learner
from stream import checkpoint, modelfiles
from stream.checkpoint import Manifest
from stream.errors import CheckpointInvalid, Fenced, NotFound
from stream.events import Totals
from stream.freeze import scratch
from stream.naming import Layout, seq_of
from stream.ports import ObjectStore
from stream.train.clickfile import Consumed

LINEAGE = "batch"
WINDOW = "window"
FINISHED = "FINISHED.json"
KEPT = 2


@dataclass(frozen=True, slots=True)
class Duty:
    """What a generation owes besides its model.

    `source`: the object of all clicks it was trained from, if it was. `consumed`: what was taken of the object of new
    clicks, now or before. `archive_key`: where those bytes go ("": nothing to archive, nothing to clear).
    `fallback`: it was trained in full because there was no model to go on with.
    """

    nonce: str
    source: Consumed | None
    consumed: Consumed | None
    archive_key: str
    rejects_keys: tuple[str, ...]
    top_n: int
    fallback: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """A committed model. `metadata`: as it stands in the pickle."""

    manifest: Manifest
    duty: Duty

    @property
    def seq(self) -> int:
        return self.manifest.seq

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.manifest.metadata.items() if name != "duty"}


@dataclass(frozen=True, slots=True)
class States:
    """The generations of one model, in `store` beside the object `model_key`."""

    store: ObjectStore
    model_key: str

    @property
    def layout(self) -> Layout:
        folder, slash, name = self.model_key.rpartition("/")
        stem = name.rpartition(".")[0] or name
        return Layout(f"{folder}{slash}{stem}.state", LINEAGE)

    def newest_seq(self) -> int:
        """The newest generation's number; 0 when there is none."""
        return max((seq for seq, _ in checkpoint.complete(self.store, self.layout)), default=0)

    def newest(self) -> Generation | None:
        """The newest generation. Raises `CheckpointInvalid` when its MANIFEST is damaged."""
        seq = self.newest_seq()
        return self._read(seq) if seq else None

    def load(self, generation: Generation) -> tuple[Learner, list[str]]:
        """Its learner, and the event ids of its dedupe window, oldest first. Raises `CheckpointInvalid`."""
        what = f"generation {generation.seq} of the state"
        reading = modelfiles.read(self.store, generation.manifest, what)
        with modelfiles.loading(what):
            window = reading.ids.pop(WINDOW, Strings.of([]))
            return reading.learner(), window.tolist()

    def commit(
        self, seq: int, learner: Learner, window: Iterable[str], metadata: Mapping[str, Any], duty: Duty
    ) -> Generation:
        """Write generation `seq`, its MANIFEST last. Raises `Fenced` when another run was faster."""
        folder = scratch()
        try:
            files = _write_files(learner, window, folder)
            totals = Totals(*(int(metadata[name]) for name in ("n_events", "rejected", "duplicates")))
            facts = {**metadata, "duty": asdict(duty)}
            manifest = Manifest(checkpoint.FORMAT, LINEAGE, seq, 0, "", {}, totals, (), facts)
            checkpoint.write(self.store, self.layout, manifest, files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        written = self._read(seq)
        if written.duty.nonce != duty.nonce:
            raise Fenced(
                f"another run has committed generation {seq} of {self.layout.prefix} meanwhile; this one has changed "
                "nothing that counts. Run again: what is new will be trained then"
            )
        self.check_newest(seq)
        return written

    def check_newest(self, seq: int) -> None:
        """Raises `Fenced` when a later generation than `seq` exists."""
        newest = self.newest_seq()
        if newest != seq:
            raise Fenced(f"another run has committed generation {newest} of {self.layout.prefix}: it does what is left")

    def is_finished(self, seq: int) -> bool:
        """Whether everything that follows the commit is known to be done."""
        try:
            self.store.head(self._finished(seq))
        except NotFound:
            return False
        return True

    def mark_finished(self, seq: int) -> None:
        self.store.put(self._finished(seq), msgspec.json.encode({"seq": seq}))

    def prune(self, seq: int) -> None:
        """Remove generations older than the last `KEPT`, MANIFEST first, so that none looks complete and is not."""
        old = [info.key for info in self.store.list(self.layout.checkpoints) if _seq_in(info.key) <= seq - KEPT]
        for key in sorted(old, key=lambda key: seq_of(key) is None):
            self.store.delete(key)

    def _read(self, seq: int) -> Generation:
        manifest = checkpoint.read_manifest(self.store, self.layout.manifest(seq))
        try:
            return Generation(manifest, msgspec.convert(manifest.metadata["duty"], Duty))
        except (KeyError, msgspec.ValidationError) as error:
            raise CheckpointInvalid(f"{self.layout.manifest(seq)} is not one of the batch job's: {error}") from error

    def _finished(self, seq: int) -> str:
        return f"{self.layout.checkpoint(seq)}{FINISHED}"


def fresh_nonce() -> str:
    return uuid.uuid4().hex


def _seq_in(key: str) -> int:
    """The generation that an object below `checkpoints` belongs to."""
    number = key.rsplit("/", 2)[1]
    return int(number) if number.isdigit() else 1 << 62


def _write_files(learner: Learner, window: Iterable[str], folder: Path) -> dict[str, Path]:
    dumped = snapshot.dump(learner)
    modelfiles.write(folder, replace(dumped, ids={**dumped.ids, WINDOW: Strings.of(list(window))}))
    return {path.name: path for path in folder.iterdir()}
