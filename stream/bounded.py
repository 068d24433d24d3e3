"""Objects read whole, but never more of them than they may have: the store's answer can be as large as it likes."""

from __future__ import annotations

from typing import Final

from stream.errors import StoreRefused
from stream.ports import Blob, ObjectStore

PLAN_BYTES_MAX: Final = 64 << 20
"""A hundred thousand messages, every other one rejected, make a plan of some two megabytes."""
STAGED_BYTES_MAX: Final = 1 << 30
ARCHIVED_PLANS_BYTES_MAX: Final = 1 << 30
CURRENT_BYTES_MAX: Final = 1 << 20


def read(store: ObjectStore, key: str, size_max: int) -> bytes:
    """The object's bytes. Raises NotFound, and StoreRefused naming it when it has more than `size_max`."""
    data = store.get_range(key, 0, size_max + 1)
    if len(data) > size_max:
        raise StoreRefused(f"{key} has more than the {size_max} bytes that such an object may have: not read")
    return data


def blob(store: ObjectStore, key: str, size_max: int) -> Blob:
    """The same with its ETag."""
    if (size := store.head(key).size) > size_max:
        raise StoreRefused(f"{key} has {size} bytes, at most {size_max} are expected: not read")
    return store.get(key)


def is_same(store: ObjectStore, key: str, data: bytes) -> bool:
    """Whether the object holds just these bytes."""
    return store.get_range(key, 0, len(data) + 1) == data
