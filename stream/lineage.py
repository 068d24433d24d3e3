"""Which lineage serves: the object CURRENT, created once, changed only over the version that was read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from stream import bounded
from stream.errors import NotFound, PreconditionFailed, StoreRefused
from stream.naming import current_key, is_safe
from stream.ports import ObjectStore


class _Current(msgspec.Struct):
    lineage: str


@dataclass(frozen=True, slots=True)
class Current:
    """The serving lineage, and the ETag under which CURRENT said so."""

    lineage: str
    etag: str


def read(store: ObjectStore, prefix: str) -> Current | None:
    """What CURRENT says; None when there is none yet. Raises StoreRefused when it is not readable."""
    key = current_key(prefix)
    try:
        blob = bounded.blob(store, key, bounded.CURRENT_BYTES_MAX)
        lineage = msgspec.json.decode(blob.data, type=_Current).lineage
    except NotFound:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreRefused(f"{key} does not say which lineage serves: {error}. Restore or delete it.") from error
    if not is_safe(lineage):
        raise StoreRefused(f"{key} names a lineage that cannot be one. Restore or delete it.")
    return Current(lineage, blob.etag)


def resolve(store: ObjectStore, prefix: str, fresh: str) -> str:
    """The serving lineage; where there is none yet, `fresh` becomes it (or whatever a faster process chose)."""
    found = read(store, prefix)
    if found is None:
        with suppress(PreconditionFailed):
            store.put(current_key(prefix), msgspec.json.encode(_Current(fresh)), if_absent=True)
        found = read(store, prefix)
    if found is None:
        raise StoreRefused(f"{current_key(prefix)} was written and cannot be read back: the store is not consistent")
    return found.lineage
