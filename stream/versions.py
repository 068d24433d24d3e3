"""Versions of a lineage's model: which one serves, how each came into being, and who may say so.

All of them learn from the same plans, so changing the one that serves changes nothing about offsets: whichever it is,
it is brought level by the plans that it has not learned yet. Three records tell a retrained version's life, each
written once: `request` (asked for), `trained` (its first checkpoint is complete, and how it compares), `result` (over).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec

from stream import bounded, stamps
from stream.errors import ConfigError, NotFound, PreconditionFailed, StoreRefused
from stream.naming import FIRST_VERSION, VERSION_MAX, Layout
from stream.ports import ObjectStore

HISTORY_MAX = 100
"""Versions that a rollback can go back over."""
NONCES = 20
"""Of so many newest versions the idempotency key is looked at."""
EPOCHS_MAX = 1000
REASON_CHARACTERS_MAX = 1000
Outcome = Literal["promoted", "kept", "failed", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("promoted", "kept", "failed", "cancelled")
_Record = TypeVar("_Record", bound=msgspec.Struct)


class RetrainRefused(ConfigError):
    """A retrain was asked for and cannot be now."""


class RetrainRunning(RetrainRefused):
    """Another one is not over."""


class Serving(msgspec.Struct, frozen=True):
    """Which version serves. `before`: those that served before, newest last. `pinned`: no retrain replaces it.

    `since`: ISO 8601. `why`: for people.
    """

    version: int = FIRST_VERSION
    before: tuple[int, ...] = ()
    pinned: bool = False
    since: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What `SERVING.json` says, and the ETag under which it did; None when there is none yet."""

    serving: Serving
    etag: str | None


class Request(msgspec.Struct, frozen=True):
    """A retrain that was asked for. `nonce`: the asker's idempotency key. `since_ms`: clicks before are left out (0:
    none are). `epochs`: passes at most; 0 leaves it to the settings. `by`: which door it came by.
    """

    nonce: str
    reason: str = ""
    since_ms: int = 0
    epochs: int = 0
    asked: str = ""
    by: str = ""


class Duel(msgspec.Struct, frozen=True):
    """Two versions ranking the same clicks, each before it learned them.

    `clicks`: ranked by both. `mrr`, `hit_ratio`: at 20, of the new version; `live_*`: of the one that serves.
    `error`: standard error of the difference in MRR, which is paired.
    """

    clicks: int = 0
    mrr: float = 0.0
    hit_ratio: float = 0.0
    live_mrr: float = 0.0
    live_hit_ratio: float = 0.0
    error: float = 0.0


class Trained(msgspec.Struct, frozen=True):
    """A new version is complete: its first checkpoint stands at plan `seq`.

    `against`: the version that it was compared with, and that was chosen to serve at `against_since` (None: a record
    from before that was noted). `clicks`: of one epoch. `epochs`: those run; `kept`: the best of
    them. `first_seq`: the first plan that it learned from. `seconds`: how long training took. `notes`: for people.
    """

    seq: int
    against: int
    clicks: int
    epochs: int
    kept: int
    first_seq: int
    seconds: float
    duel: Duel
    notes: tuple[str, ...] = ()
    against_since: str | None = None


class Result(msgspec.Struct, frozen=True):
    """How a retrain ended, and why, for people. `at`: ISO 8601."""

    outcome: Outcome
    why: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """Everything that is recorded of a version. `attempts`: how often its training was begun."""

    number: int
    request: Request | None = None
    trained: Trained | None = None
    result: Result | None = None
    attempts: int = 0

    @property
    def open(self) -> bool:
        """Asked for, and not over."""
        return self.request is not None and self.result is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can carry."""
        parts = {name: getattr(self, name) for name in ("request", "trained", "result")}
        return {"version": self.number, "attempts": self.attempts} | {
            name: msgspec.to_builtins(part) if part is not None else None for name, part in parts.items()
        }


def read_serving(store: ObjectStore, layout: Layout) -> Known:
    """Which version serves. Raises StoreRefused when the record cannot be read."""
    try:
        blob = bounded.blob(store, layout.serving, bounded.CURRENT_BYTES_MAX)
    except NotFound:
        return Known(Serving(), None)
    serving = _decode(blob.data, Serving, layout.serving)
    if not all(FIRST_VERSION <= number <= VERSION_MAX for number in (serving.version, *serving.before)):
        raise StoreRefused(f"{layout.serving} names a version that cannot be one. Restore it, or `models promote` one.")
    return Known(serving, blob.etag)


def write_serving(store: ObjectStore, layout: Layout, serving: Serving, known: Known) -> None:
    """Say which version serves, if nobody has said so since `known` was read. Raises PreconditionFailed else.

    One's own write, whose reply was lost, counts as written.
    """
    data = msgspec.json.encode(serving)
    try:
        store.put(layout.serving, data, if_absent=known.etag is None, if_match=known.etag)
    except PreconditionFailed:
        if not bounded.is_same(store, layout.serving, data):
            raise


def promoted(serving: Serving, version: int, since: str, why: str) -> Serving:
    """`version` serves in the place of the one that does."""
    if version == serving.version:
        return serving
    return Serving(version, (*serving.before, serving.version)[-HISTORY_MAX:], serving.pinned, since, why)


def rolled_back(serving: Serving, since: str, why: str) -> Serving:
    """The one that served before serves again. Raises ConfigError when there was none."""
    if not serving.before:
        raise ConfigError(f"version {serving.version} is the first that served: there is none to roll back to")
    return Serving(serving.before[-1], serving.before[:-1], serving.pinned, since, why)


def pinned(serving: Serving, *, pin: bool) -> Serving:
    """The same, so that no retrain replaces it, or may again."""
    return msgspec.structs.replace(serving, pinned=pin)


def numbers(store: ObjectStore, layout: Layout) -> list[int]:
    """All versions, oldest first: the first one, and those that were ever asked for. One request for each."""
    found = [FIRST_VERSION]
    while (number := _after(store, layout, found[-1])) is not None:
        found.append(number)
    return found


def newest_number(store: ObjectStore, layout: Layout, known: int = FIRST_VERSION) -> int:
    """The highest number, which is `known` or higher: found by one request if it is `known`, by few if it is not."""
    low, step = known, 1
    while (found := _after(store, layout, low + step - 1)) is not None:
        low, step = found, 2 * step
    high = low + step - 1
    while low < high:
        middle = (low + high) // 2
        found = _after(store, layout, middle)
        low, high = (low, middle) if found is None else (found, high)
    return low


def _after(store: ObjectStore, layout: Layout, number: int) -> int | None:
    """The lowest version above `number`, which need not be there itself."""
    after = f"{layout.versions}{min(number, VERSION_MAX):06d}/~"  # greater than any key of that version
    while (info := next(iter(store.list(layout.versions, after)), None)) is not None:
        name = info.key.removeprefix(layout.versions).split("/")[0]
        if len(name) == 6 and name.isascii() and name.isdigit() and int(name) > FIRST_VERSION:
            return int(name)
        after = f"{layout.versions}{name}/~"
    return None


def read(store: ObjectStore, layout: Layout) -> Version:
    """What is recorded of the layout's version."""
    records = {
        name: _read(store, layout.record(name), kind)
        for name, kind in (("request", Request), ("trained", Trained), ("result", Result))
    }
    return Version(layout.version, **records, attempts=sum(1 for _ in _attempts(store, layout)))  # type: ignore[arg-type]


def newest(store: ObjectStore, layout: Layout) -> Version:
    """What is recorded of the version with the highest number."""
    return read(store, layout.of_version(newest_number(store, layout)))


def is_complete(store: ObjectStore, layout: Layout) -> bool:
    """Whether the layout's version was trained to the end, as the first one always was."""
    return layout.version == FIRST_VERSION or _read(store, layout.record("trained"), Trained) is not None


def overview(store: ObjectStore, layout: Layout) -> dict[str, Any]:
    """Which version serves, and what is recorded of each, newest first: plain values that JSON can carry."""
    known = read_serving(store, layout)
    found = [read(store, layout.of_version(number)).to_dict() for number in reversed(numbers(store, layout))]
    return {"lineage": layout.lineage, "serving": msgspec.to_builtins(known.serving), "versions": found}


def request_of(key: str, since: object, epochs: int, reason: str, by: str) -> Request:
    """A request for a retrain, checked. Raises ConfigError naming what is wrong."""
    if not 0 <= epochs <= EPOCHS_MAX:
        raise ConfigError(f"epochs={epochs}: a whole number from 1 to {EPOCHS_MAX}")
    if len(reason) > REASON_CHARACTERS_MAX:
        raise ConfigError(f"the reason has more than {REASON_CHARACTERS_MAX} characters")
    try:
        since_ms = 0 if since is None else stamps.read(since, 0)
    except stamps.Refused as error:
        raise ConfigError(f"since={since!r}: {error}") from error
    asked = datetime.now(UTC).isoformat(timespec="seconds")
    return Request(key, reason, since_ms, epochs, asked, by)


def ask(store: ObjectStore, layout: Layout, request: Request) -> Version:
    """Ask for a new version, under the next number. The same nonce again answers what it was given before, if that is
    one of the newest `NONCES`.

    Raises RetrainRunning when another retrain is not over.
    """
    number = FIRST_VERSION
    while True:
        number = newest_number(store, layout, number)
        given = _given(store, layout, number, request.nonce)
        if given is not None:
            return given
        if (last := read(store, layout.of_version(number))).open:
            raise _running(last)
        place = layout.of_version(number + 1)
        with suppress(PreconditionFailed):  # somebody was faster, or one's own reply was lost
            store.put(place.record("request"), msgspec.json.encode(request), if_absent=True)


def _given(store: ObjectStore, layout: Layout, newest: int, nonce: str) -> Version | None:
    """The version that was asked for by this key."""
    for number in range(newest, max(newest - NONCES, FIRST_VERSION), -1):
        place = layout.of_version(number)
        request = _read(store, place.record("request"), Request)
        if request is not None and request.nonce == nonce:
            return read(store, place)
    return None


def _running(version: Version) -> RetrainRunning:
    asked = version.request or Request("")
    return RetrainRunning(
        f"version {version.number} is being trained, asked for at {asked.asked} by {asked.by} "
        f"({asked.reason or 'no reason given'}): wait for it, or `headrace retrain --cancel`"
    )


def note_attempt(store: ObjectStore, layout: Layout) -> int:
    """Training of the layout's version begins; answers for which time."""
    number = max((_attempt_of(key) for key in _attempts(store, layout)), default=0) + 1
    with suppress(PreconditionFailed):
        store.put(f"{layout.record('attempt')}.{number}", b"{}", if_absent=True)
    return number


def forget_attempt(store: ObjectStore, layout: Layout, number: int) -> None:
    """It was broken off by an orderly end of the service, and says nothing against the training."""
    store.delete(f"{layout.record('attempt')}.{number}")


def close(store: ObjectStore, layout: Layout, result: Result) -> Result:
    """The retrain is over. Answers how, which is another result than `result` when somebody closed it before."""
    return _once(store, layout.record("result"), result)


def note_trained(store: ObjectStore, layout: Layout, trained: Trained) -> Trained:
    """The version is complete. Answers what is recorded: another process may have been faster."""
    return _once(store, layout.record("trained"), trained)


def _once(store: ObjectStore, key: str, record: _Record) -> _Record:
    with suppress(PreconditionFailed):
        store.put(key, msgspec.json.encode(record), if_absent=True)
    found = _read(store, key, type(record))
    if found is None:
        raise StoreRefused(f"{key} was written and cannot be read back: the store is not consistent")
    return found


def _attempts(store: ObjectStore, layout: Layout) -> Iterator[str]:
    return (info.key for info in store.list(f"{layout.record('attempt')}."))


def _attempt_of(key: str) -> int:
    number = key.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def _read(store: ObjectStore, key: str, kind: type[_Record]) -> _Record | None:
    try:
        return _decode(bounded.read(store, key, bounded.CURRENT_BYTES_MAX), kind, key)
    except NotFound:
        return None


def _decode(data: bytes, kind: type[_Record], key: str) -> _Record:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreRefused(f"{key} cannot be read: {error}. Restore it from a backup, or delete it.") from error
