"""A learner as files: what a checkpoint, a generation of the batch job's state and a training's shelf are made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError

from model import snapshot
from model.batch import Strings
from model.learner import Learner
from stream import checkpoint
from stream.checkpoint import Manifest
from stream.errors import CheckpointInvalid, LearnerFailed
from stream.freeze import scratch
from stream.partfiles import Arrays, read_arrays, read_ids, write_arrays, write_ids
from stream.ports import ObjectStore

IDS = "ids.parquet"
MODEL = "model.json"


def write_texts(folder: Path, ids: Mapping[str, Strings], meta: Mapping[str, Any]) -> None:
    """The files beside the arrays."""
    write_ids(ids, folder / IDS)
    (folder / MODEL).write_text(json.dumps(meta))


def write(folder: Path, dumped: snapshot.Snapshot) -> None:
    """All the files of a learner. Raises OSError or SafetensorError when they cannot be written."""
    write_arrays(dumped.parts, folder)
    write_texts(folder, dumped.ids, dumped.meta)


class Reading:
    """Files on their way to be a learner. Each is read as it comes, so that no two of them are held as bytes."""

    def __init__(self) -> None:
        self.parts: dict[str, Arrays] = {}
        self.ids: dict[str, Strings] = {}
        self._meta: dict[str, Any] = {}
        self._wanted = {IDS, MODEL}

    def add(self, name: str, data: bytes) -> None:
        """One more file. Raises what its reader raises when it is no such file."""
        self._wanted.discard(name)
        if name == IDS:
            self.ids = read_ids(data)
        elif name == MODEL:
            self._meta = json.loads(data)
        else:
            self.parts |= read_arrays({name: data})

    def learner(self, **config: Any) -> Learner:
        """Once all were added. `config`: settings that it is to have instead of its own.

        Raises ValueError naming what is missing or does not fit.
        """
        if self._wanted:
            raise ValueError(f"{min(self._wanted)} is missing")
        meta = self._meta | ({"config": {**self._meta["config"], **config}} if config else {})
        return snapshot.load(snapshot.Snapshot(self.parts, self.ids, meta))


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Raises CheckpointInvalid for whatever a damaged, foreign or old checkpoint makes its readers say."""
    try:
        yield
    except Exception as error:
        raise CheckpointInvalid(f"{what} cannot be loaded: {error}") from error


def read(store: ObjectStore, manifest: Manifest, what: str) -> Reading:
    """The parts of a checkpoint. Raises CheckpointInvalid naming the one that is wrong; what the store raises."""
    reading = Reading()
    for part in manifest.parts:
        data = checkpoint.read_part(store, part)
        with loading(what):
            reading.add(part.name, data)
    return reading


class Shelf:
    """One learner, on this machine's disk instead of in memory."""

    def __init__(self) -> None:
        self._folder = scratch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, learner: Learner) -> None:
        """In the place of what was there. Raises LearnerFailed when the disk has no room for it."""
        dumped = snapshot.dump(learner)
        try:
            write(self._folder, dumped)
        except (OSError, SafetensorError) as error:
            raise LearnerFailed(
                f"a model that waits for its turn cannot be written to {self._folder.parent}: {error}. Make room there "
                "for three checkpoints (in the chart: tmp.sizeLimit), or let TMPDIR name another folder"
            ) from error

    def take(self, **config: Any) -> Learner:
        """A copy of what is there. `config`: see `Reading.learner`."""
        reading = Reading()
        for path in sorted(self._folder.iterdir()):
            reading.add(path.name, path.read_bytes())
        return reading.learner(**config)
