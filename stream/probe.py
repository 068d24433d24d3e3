"""The start-up probe: whether a store keeps the promises that the cycle is built on."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

from stream.errors import Conflict, HeadraceError, NotFound, PreconditionFailed, StoreRefused
from stream.naming import Layout
from stream.ports import ObjectStore

ABANDONED_SECONDS = 3600
FIRST, SECOND = b"headrace probe: first", b"headrace probe: second"
STORES = (
    "Stores that have all of this: AWS S3, MinIO, SeaweedFS, RustFS 1.0, or a local directory (HEADRACE_STORE=/path). "
    "Garage 2.0 and `rclone serve s3` do not"
)
Put = Callable[..., str]


@runtime_checkable
class PutsInParts(Protocol):
    """A store that sends large objects in several parts: its conditions are checked at another place, by other code."""

    def put_in_parts(
        self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """As `put`, but in parts whatever the size."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """One check: the store, and a key that nobody else has."""

    store: ObjectStore
    key: str

    def refuse(self, missing: str, harm: str) -> NoReturn:
        """Raise `StoreRefused` in the words of every refusal."""
        raise StoreRefused(f"{self.store} cannot be used: it {missing}. {harm}. {STORES}")


def probe(store: ObjectStore, layout: Layout) -> None:
    """Try out every semantic that the cycle relies on, on small objects below `layout.probes`, and remove them again.

    Raises `StoreRefused` saying which semantic is missing, what would go wrong without it and which stores have it;
    `StoreUnavailable` when the store cannot be asked now.
    """
    folder = f"{layout.probes}{uuid.uuid4().hex}/"
    try:
        for number, check in enumerate((_reads_back, _creates_once, _swaps, _lists, _deletes)):
            check(_Trial(store, f"{folder}{number}"))
        if isinstance(store, PutsInParts):
            _conditions_in_parts(_Trial(store, f"{folder}parts"), store.put_in_parts)
    except HeadraceError:
        # What the probe found matters more than what its cleaning meets.
        with suppress(HeadraceError):
            _remove(store, folder)
        raise
    _remove(store, folder)
    _remove_abandoned(store, layout)


def _reads_back(trial: _Trial) -> None:
    etag = trial.store.put(trial.key, FIRST)
    blob = trial.store.get(trial.key)
    if (blob.data, blob.etag) != (FIRST, etag):
        trial.refuse("does not read back what was just written", "A restart would miss plans that were committed")
    if trial.store.get_range(trial.key, 9, 5) != FIRST[9:14]:
        trial.refuse("does not answer ranged reads", "Recovery could not read parts of a checkpoint")


def _creates_once(trial: _Trial) -> None:
    _check_create(trial, trial.store.put, "create-once writes (If-None-Match: *)")


def _swaps(trial: _Trial) -> None:
    trial.store.put(trial.key, FIRST)
    _check_swap(trial, trial.store.put, "compare-and-swap writes (If-Match)")


def _conditions_in_parts(trial: _Trial, put: Put) -> None:
    _check_create(trial, put, "create-once on multipart uploads")
    _check_swap(trial, put, "compare-and-swap on multipart uploads")


def _check_create(trial: _Trial, put: Put, semantic: str) -> None:
    try:
        put(trial.key, FIRST, if_absent=True)
    except PreconditionFailed:
        # The key is new, so this can only be our own write, repeated because its reply was lost.
        if trial.store.get(trial.key).data != FIRST:
            raise
    _check_refused(trial, lambda: put(trial.key, SECOND, if_absent=True), f"ignores {semantic}: the second writer won")


def _check_swap(trial: _Trial, put: Put, semantic: str) -> None:
    stale = trial.store.get(trial.key).etag
    if put(trial.key, SECOND, if_match=stale) == stale:
        trial.refuse("gives another content the same ETag", "A replaced writer could not be told from the present one")
    _check_refused(trial, lambda: put(trial.key, FIRST, if_match=stale), f"ignores {semantic}: a stale ETag was taken")


def _check_refused(trial: _Trial, write: Callable[[], str], missing: str) -> None:
    """The write must be refused and must have changed nothing."""
    before = trial.store.get(trial.key).data
    harm = "Two processes would both believe that they own the stream, and each would overwrite the other's plans"
    # A 409 is a refusal as well: nothing was written.
    with suppress(PreconditionFailed, Conflict):
        write()
        trial.refuse(missing, harm)
    if trial.store.get(trial.key).data != before:
        trial.refuse(f"{missing}, although it answered that it refused", harm)


def _lists(trial: _Trial) -> None:
    keys = [f"{trial.key}/{name}" for name in ("a-b", "a/b", "b")]
    for key in reversed(keys):
        trial.store.put(key, FIRST)
    harm = "A restart would take an old plan for the newest and learn clicks twice"
    if [info.key for info in trial.store.list(f"{trial.key}/")] != keys:
        trial.refuse("does not list what was just written, in key order", harm)
    if [info.key for info in trial.store.list(f"{trial.key}/", keys[0])] != keys[1:]:
        trial.refuse("does not begin a listing where it is asked to (StartAfter)", harm)


def _deletes(trial: _Trial) -> None:
    trial.store.put(trial.key, FIRST)
    trial.store.delete(trial.key)
    with suppress(NotFound):
        trial.store.head(trial.key)
        trial.refuse("still shows what was just deleted", "Clicks that were trained and cleared would be trained again")


def _remove(store: ObjectStore, folder: str) -> None:
    for info in list(store.list(folder)):
        store.delete(info.key)


def _remove_abandoned(store: ObjectStore, layout: Layout) -> None:
    """What probes left that were killed; age by the store's own clock, and one object tells its time."""
    left = list(store.list(layout.probes))
    if not left:
        return
    clock = f"{layout.probes}{uuid.uuid4().hex}/clock"
    store.put(clock, FIRST)
    now = store.head(clock).modified
    for info in [*left, store.head(clock)]:
        if info.key == clock or now - info.modified > ABANDONED_SECONDS:
            store.delete(info.key)
