"""Hostile objects, made on purpose: Parquet whose footer lies, pickles, and a lineage in which they are planted."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from typing import Any

from stream import checkpoint
from stream.naming import seq_of
from stream.thrift import BINARY, BOOL, BYTE, DOUBLE, I32, LIST, STRUCT, Fields, Reader
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT, Rig, clicks

MARK = "headrace_hostile_pickle"
"""The module that our pickles want imported: whoever asks for it has begun to unpickle one."""


def evil() -> bytes:
    """A pickle that imports `MARK` as soon as it is loaded."""
    return b"\x80\x04c" + f"{MARK}\nboom\n".encode() + b")R."


def reforged(data: bytes, edit: Callable[[Fields], object]) -> bytes:
    """A Parquet file with another footer."""
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    fields = Reader(data[start:-8]).struct()
    edit(fields)
    footer = encoded(fields)
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def encoded(fields: Fields) -> bytes:
    """A struct in Thrift's compact protocol."""
    out, last = b"", 0
    for (number, kind), value in sorted(fields.items(), key=lambda field: field[0][0]):
        wire = (BOOL if value else 2) if kind == BOOL else kind
        out += bytes([(number - last) << 4 | wire]) + (b"" if kind == BOOL else _value(kind, value))
        last = number
    return out + b"\0"


def _value(kind: int, value: Any) -> bytes:
    if kind == STRUCT:
        return encoded(value)
    if kind == BINARY:
        return varint(len(value)) + bytes(value)
    if kind == LIST:
        inner = _kind_of(value[0]) if value else I32
        return bytes([15 << 4 | inner]) + varint(len(value)) + b"".join(_value(inner, each) for each in value)
    if kind in {BYTE, DOUBLE}:
        raise NotImplementedError(kind)
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _kind_of(value: Any) -> int:
    return STRUCT if isinstance(value, dict) else BINARY if isinstance(value, bytes) else I32


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def lineage(count: int = 400) -> MemoryStore:
    """A real lineage with plans and checkpoints."""
    store = MemoryStore()
    Rig(store, clicks(count)).run()
    return store


def newest(store: MemoryStore) -> str:
    """The key of its newest MANIFEST."""
    return [key for _, key in checkpoint.complete(store, LAYOUT)][-1]


def replant(store: MemoryStore, name: str, data: bytes) -> str:
    """Put `data` in the place of a part of the newest checkpoint, so that size and hash are those that it names."""
    key = newest(store)
    manifest = json.loads(store.get(key).data)
    part = next(part for part in manifest["parts"] if part["name"] == name)
    sha256 = hashlib.sha256(data).hexdigest()
    stem, _, ending = name.partition(".")
    part |= {"sha256": sha256, "size": len(data), "key": f"{key.rpartition('/')[0]}/{stem}.{sha256[:16]}.{ending}"}
    store.put(part["key"], data)
    store.put(key, json.dumps(manifest).encode())
    return str(part["key"])


def retold(store: MemoryStore, edit: Callable[[dict[str, Any]], object]) -> str:
    """Edit the newest MANIFEST."""
    key = newest(store)
    manifest = json.loads(store.get(key).data)
    edit(manifest)
    store.put(key, json.dumps(manifest).encode())
    return key


def without_checkpoints(store: MemoryStore) -> MemoryStore:
    """So that recovery has to read every plan and every staged object."""
    for key in [key for key in store.objects if "/checkpoint/" in key]:
        del store.objects[key]
    return store


def plans_of(store: MemoryStore) -> list[str]:
    return [info.key for info in store.list(LAYOUT.plans) if seq_of(info.key) is not None]


def loads(data: bytes) -> object:
    """What must never happen in the product: for the test of the test."""
    return pickle.loads(data)
