"""The note that a copy carries, so that nothing but a copy is ever written over.

It lies beside the lineage (`backup/LINEAGE.json` under the prefix), is written before anything else, and says up to
which plan the copy goes, or is about to go. A service that was started on the copy has written more plans than that:
it is a lineage of its own then, and no longer a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stream import bounded
from stream.errors import NotFound, PreconditionFailed, StoreRefused
from stream.naming import Layout, join, seq_of
from stream.ports import ObjectStore


class Note(msgspec.Struct, frozen=True):
    """The copy of `lineage` goes up to plan `seq`, whose hash is `sha256`. `at`: ISO 8601, by the copying machine."""

    lineage: str
    seq: int
    sha256: str
    at: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the note says, and the ETag under which it did."""

    note: Note
    etag: str


def key(layout: Layout) -> str:
    """Where the note lies."""
    return join(layout.prefix, "backup", f"{layout.lineage}.json")


def read(target: ObjectStore, layout: Layout) -> Known | None:
    """The note, if there is one. Raises StoreRefused when it cannot be read."""
    place = key(layout)
    try:
        blob = bounded.blob(target, place, bounded.CURRENT_BYTES_MAX)
        return Known(msgspec.json.decode(blob.data, type=Note), blob.etag)
    except NotFound:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreRefused(f"{place} cannot be read: {error}. Copy to an empty place.") from error


def check(target: ObjectStore, layout: Layout, known: Known | None, head: int, sha256: str | None) -> None:
    """Raise StoreRefused unless `target` holds nothing of the lineage, or an earlier copy of this very one.

    `head`: the newest plan that is to be copied. `sha256`: of the plan that the note names, as the source has it; None
    when the source cannot tell any more.
    """
    elsewhere = "Copy to an empty bucket or directory (HEADRACE_BACKUP_TO)."
    if known is None:
        if next(iter(target.list(f"{layout.root}/")), None) is not None:
            raise StoreRefused(f"{target} holds a lineage {layout.lineage} that is no copy: not touched. {elsewhere}")
        return
    newest = max((seq_of(info.key) or 0 for info in target.list(layout.plans, layout.plan(known.note.seq))), default=0)
    if newest > known.note.seq:
        raise StoreRefused(
            f"{target} was a copy up to plan {known.note.seq} and has plan {newest} now: a service has been started on "
            f"it, so it is not touched. {elsewhere}"
        )
    if known.note.seq > head or sha256 not in {None, known.note.sha256}:
        raise StoreRefused(
            f"{target} holds a copy up to plan {known.note.seq} of another history of lineage {layout.lineage}: not "
            f"touched. {elsewhere}"
        )


def write(target: ObjectStore, layout: Layout, note: Note, known: Known | None) -> None:
    """Say what is about to be copied. Raises StoreRefused when another copy into the same place has just begun."""
    data = msgspec.json.encode(note)
    try:
        target.put(key(layout), data, if_absent=known is None, if_match=known.etag if known is not None else None)
    except PreconditionFailed:
        if not bounded.is_same(target, key(layout), data):
            raise StoreRefused(f"{target} is being written by another `headrace backup`: wait for it") from None
