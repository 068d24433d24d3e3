"""What follows a commit of the batch job: pickle, archive, clearing. Each may be repeated, by whoever comes next."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from model.learner import Learner
from stream.errors import Fenced, PreconditionFailed, StoreRefused
from stream.ports import ObjectInfo, ObjectStore
from stream.train import pickled
from stream.train.clickfile import Consumed, find, hash_head
from stream.train.progress import Progress
from stream.train.state import Generation, States

_ATTEMPTS = 5


@contextmanager
def spooled() -> Iterator[IO[bytes]]:
    """A temporary file on disk, gone when its process is, however that ends."""
    with tempfile.TemporaryFile(prefix="headrace-train-") as file:
        yield file


@contextmanager
def mapped(file: IO[bytes]) -> Iterator[memoryview]:
    """The file's bytes, where they lie."""
    file.flush()
    if not file.seek(0, 2):
        yield memoryview(b"")
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view, memoryview(view) as content:
        yield content


def put_once(store: ObjectStore, key: str, file: IO[bytes]) -> bool:
    """Create `key` with the bytes of `file`; False when there is such an object already."""
    with mapped(file) as content:
        try:
            store.put(key, content, if_absent=True)
        except PreconditionFailed:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Finisher:
    """Does what a generation owes. All of it may be done twice, and by two processes at once."""

    store: ObjectStore
    states: States
    progress: Progress

    def owes(self, generation: Generation) -> bool:
        """Whether something may be left to do; a pickle that somebody removed is."""
        return not self.states.is_finished(generation.seq) or find(self.store, self.states.model_key) is None

    def finish(self, generation: Generation, learner: Learner, bytes_read: IO[bytes] | None = None) -> None:
        """Write the pickle, archive and clear the new clicks, mark the generation.

        `bytes_read`: what is to be archived, if it is still at hand.
        """
        self._export(generation, learner)
        self.settle(generation, bytes_read)
        self.states.mark_finished(generation.seq)

    def _export(self, generation: Generation, learner: Learner) -> None:
        with spooled() as file:
            pickled.write(learner, generation.metadata, generation.duty.top_n, file)
            for _ in range(_ATTEMPTS):
                before = find(self.store, self.states.model_key)
                # Looked at after the pickle's ETag: a later generation's pickle can never be overwritten.
                self.states.check_newest(generation.seq)
                if self._replace(before, file):
                    return
        raise Fenced(f"{self.states.model_key} is being written by another program: stop it, and run again")

    def _replace(self, before: ObjectInfo | None, file: IO[bytes]) -> bool:
        with mapped(file) as content:
            try:
                if before is None:
                    self.store.put(self.states.model_key, content, if_absent=True)
                else:
                    self.store.put(self.states.model_key, content, if_match=before.etag)
            except PreconditionFailed:
                return False
        return True

    def settle(self, generation: Generation, bytes_read: IO[bytes] | None = None) -> None:
        """Archive the new clicks that this generation trained, then remove them where they came from."""
        duty = generation.duty
        if duty.consumed is None or not duty.archive_key:
            return
        if bytes_read is not None:
            self._archive(duty.archive_key, bytes_read)
        else:
            self._archive_again(duty.archive_key, duty.consumed)
        self._clear(duty.consumed)

    def _archive(self, key: str, content: IO[bytes]) -> None:
        if not put_once(self.store, key, content) and not self._holds(key, content):
            raise StoreRefused(f"{key} holds something else than the clicks to archive: move it away, and run again")
        self.progress.say(f"archived the new clicks as {key}")

    def _archive_again(self, key: str, consumed: Consumed) -> None:
        """Archive after a restart: the bytes must be read anew, if they are still there."""
        with spooled() as file:
            info = find(self.store, consumed.key)
            if info is not None and _matches(self.store, info, consumed, file):
                self._archive(key, file)
            elif find(self.store, key) is None:
                self.progress.say(
                    f"warning: the clicks of {consumed.key} that were trained are gone from there before they could be "
                    f"archived as {key}; the model has them"
                )

    def _holds(self, key: str, content: IO[bytes]) -> bool:
        """Whether the object is what we would have written: our own earlier try."""
        info = find(self.store, key)
        with mapped(content) as wanted:
            if info is None or info.size != wanted.nbytes:
                return False
            return bool(hash_head(self.store, key, info.size).hashed.digest() == hashlib.sha256(wanted).digest())

    def _clear(self, consumed: Consumed) -> None:
        """Remove the object of new clicks, if there is nothing in it but what was trained."""
        info = find(self.store, consumed.key)
        if info is None:
            return
        if info.size == consumed.end and _matches(self.store, info, consumed):
            try:
                self.store.delete(consumed.key, if_match=info.etag)
                self.progress.say(f"cleared {consumed.key}")
                return
            except PreconditionFailed:
                pass  # it has been replaced in this very moment
        self.progress.say(f"{consumed.key} holds clicks that came after this run began: the next one trains those")


def _matches(store: ObjectStore, info: ObjectInfo, consumed: Consumed, copy: IO[bytes] | None = None) -> bool:
    """Whether the object begins with what was consumed; `copy` gets the part that is to be archived."""
    if info.size < consumed.end:
        return False
    if info.etag == consumed.etag and copy is None:
        return True
    head: Any = hash_head(store, info.key, consumed.end, copy, consumed.start)
    return bool(head.hashed.hexdigest() == consumed.sha256)
