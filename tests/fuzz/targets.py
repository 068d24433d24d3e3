"""What is fuzzed: a function per kind of bytes from outside. Each takes any, and raises only if a promise breaks.

`tests/fuzz/run.py` drives them by coverage (atheris), `tests/stream/test_fuzz_targets.py` by hypothesis.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import get_args

import numpy as np
from safetensors.numpy import save

from stream import checkpoint, partfiles, plans, staged
from stream.decode import DecodeRules, decode_chunk, decode_one
from stream.errors import CheckpointInvalid, StoreRefused
from stream.events import Decoded, Event, PlannedRange, RawChunk, RejectReason, Totals
from stream.events import Plan as PlanOf
from stream.thrift import Reader, Unreadable
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT

Target = Callable[[bytes], None]
NOW = 1_700_000_000_000
RULES = DecodeRules(message_bytes_max=4096)
REASONS = frozenset(get_args(RejectReason))
SEQ = 7


def message(data: bytes) -> None:
    """A message is a click or a reject with a known reason, alone and among others alike."""
    alone = decode_one(data, NOW, RULES)
    among = decode_chunk(RawChunk(0, np.arange(2), np.full(2, NOW), [data, b'{"user_id":"u","product_id":"p"}']), RULES)
    assert isinstance(alone, Event) or alone[0] in REASONS
    assert len(among.users) == 1 + isinstance(alone, Event)
    assert [reject.reason for reject in among.rejects] == ([] if isinstance(alone, Event) else [alone[0]])


def plan(data: bytes) -> None:
    """A plan is read as what was written, or refused; its ranges account for each offset once, or are refused."""
    try:
        found = plans.decode(data, "plan/x")
        plans.check_place(found, LAYOUT, LAYOUT.plan(SEQ))
        plans.check_ranges(found, {}, "plan/x")
    except StoreRefused:
        return
    assert plans.encode(plans.decode(plans.encode(found), "plan/x")) == plans.encode(found)
    assert all(sum(plans.count(each)) + each.absent == each.end - each.start for each in found.ranges)


def manifest(data: bytes) -> None:
    """A MANIFEST names parts of its own place only, or is invalid."""
    store = MemoryStore()
    store.put(LAYOUT.manifest(SEQ), data)
    try:
        found = checkpoint.read_manifest(store, LAYOUT.manifest(SEQ))
    except CheckpointInvalid:
        return
    assert all(part.key.startswith(LAYOUT.checkpoint(SEQ)) and ".." not in part.key for part in found.parts)


def arrays(data: bytes) -> None:
    """Arrays hold no more bytes than the file has, or it is unreadable."""
    try:
        found = partfiles.read_arrays({"x.safetensors": data})["x"]
    except Unreadable:
        return
    assert sum(array.nbytes for array in found.values()) <= len(data)


def clicks(data: bytes) -> None:
    """A staged object is a table of its columns, or refused by name."""
    try:
        found = staged.decode(data, "stage/x")
    except StoreRefused as error:
        assert "stage/x" in str(error)  # noqa: PT017 - any bytes may be refused, but never without a name
        return
    assert found.schema.equals(staged.SCHEMA)


def footer(data: bytes) -> None:
    """A footer alone is read to its end or unreadable, and costs no more memory than some times its bytes."""
    reader = Reader(data)
    try:
        reader.struct()
    except Unreadable:
        return
    assert reader.place <= len(data)


def ids(data: bytes) -> None:
    """Ids are texts by table, or the file is unreadable."""
    try:
        found = partfiles.read_ids(data)
    except Unreadable:
        return
    assert all(isinstance(text, str) for texts in found.values() for text in texts.tolist())


TARGETS: dict[str, Target] = {each.__name__: each for each in (message, plan, manifest, arrays, clicks, footer, ids)}


def seeds(name: str) -> list[bytes]:
    """Honest examples to begin from."""
    return _SEEDS[name]()


def _messages() -> list[bytes]:
    full = {"user_id": "u", "product_id": 7, "timestamp": "2026-11-27T10:00:00Z", "event_type": "cart", "event_id": "e"}
    return [
        json.dumps(full).encode(),
        b'{"user_id":"u","product_id":"p"}',
        b'{"user_id":1,"product_id":2,"timestamp":1.5}',
    ]


def _plans() -> list[bytes]:
    rejected = {"not_json": [(1, 3)], "null_value": [(4, 5)]}
    ranges = (PlannedRange(0, 0, 6, None, rejected, [(5, 6)], 2), PlannedRange(1, 3, 3))
    return [plans.encode(PlanOf(LAYOUT.lineage, SEQ, 1, "n", "", "rows", 5, "clicks", ranges))]


def _manifests() -> list[bytes]:
    store = MemoryStore()
    empty = checkpoint.Manifest(1, LAYOUT.lineage, SEQ, 1, "x", {0: 5}, Totals(1, 2, 3), (), {"n_users": 1})
    checkpoint.write(store, LAYOUT, empty, {})
    found = json.loads(store.get(LAYOUT.manifest(SEQ)).data)
    sha256 = "ab" * 32
    key = f"{LAYOUT.checkpoint(SEQ)}weights.{sha256[:16]}.safetensors"
    found["parts"] = [{"name": "weights.safetensors", "key": key, "sha256": sha256, "size": 9}]
    return [json.dumps(found).encode()]


def _arrays() -> list[bytes]:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return [
        save({"a": np.zeros(3, np.float32), "b": np.ones((2, 2), np.int64)}),
        struct.pack("<Q", len(text)) + text + b"\0" * 8,
    ]


def _clicks() -> list[bytes]:
    names = [f"u{number % 3}" for number in range(9)]
    return [staged.encode(staged.to_table(Decoded(0, np.arange(9), names, names, names, np.arange(9), None)))]


def _footers() -> list[bytes]:
    data = _clicks()[0]
    return [data[-8 - int.from_bytes(data[-8:-4], "little") : -8]]


def _ids() -> list[bytes]:
    import tempfile
    from pathlib import Path

    from model.batch import Strings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.parquet"
        partfiles.write_ids({"users": Strings.of(["a", "b"]), "items": Strings.of(["c"])}, path)
        return [path.read_bytes()]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "message": _messages,
    "plan": _plans,
    "manifest": _manifests,
    "arrays": _arrays,
    "clicks": _clicks,
    "footer": _footers,
    "ids": _ids,
}
