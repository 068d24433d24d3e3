"""The files of a checkpoint: arrays as safetensors (no code in them, ever), ids as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from model.batch import Strings
from stream import parquet
from stream.footer import Limits
from stream.thrift import Unreadable

Arrays = dict[str, npt.NDArray[Any]]

_IDS = pa.schema([pa.field("table", pa.string(), nullable=False), pa.field("id", pa.string(), nullable=False)])
_LIMITS = Limits(footer=16 << 20, rows=1 << 27, size=4 << 30, groups=4096)
"""Of the ids: more rows, or more bytes of text, than a machine that holds their embeddings has."""
_ENDING = ".safetensors"


def write_arrays(parts: Mapping[str, Arrays], folder: Path) -> None:
    """One `NAME.safetensors` in `folder` per part. Runs in a forked child: no threads, no clean-up."""
    for name, arrays in parts.items():
        save_file({key: np.asarray(array, order="C") for key, array in arrays.items()}, folder / f"{name}{_ENDING}")


def read_arrays(files: Mapping[str, bytes]) -> dict[str, Arrays]:
    """Parts by name from the bytes of their files. Raises Unreadable naming the part that is no such file.

    The reader holds a header's claims against the bytes that are there before it makes an array of them.
    """
    return {name.removesuffix(_ENDING): _load(name, data) for name, data in files.items()}


def _load(name: str, data: bytes) -> Arrays:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Unreadable(f"{name} is not readable as safetensors: {error}") from error


def write_ids(ids: Mapping[str, Strings], path: Path) -> None:
    """All id tables in one Parquet file, one row group each, in order: row k of a table is its k-th id."""
    with pq.ParquetWriter(path, _IDS, compression="zstd", compression_level=1) as writer:
        for name in sorted(ids):
            column = _text(ids[name])
            writer.write_table(pa.table([pa.repeat(pa.scalar(name), len(column)), column], _IDS))


def read_ids(data: bytes) -> dict[str, Strings]:
    """Ids by table name; a table without ids is absent. Raises Unreadable when they are no such file."""
    try:
        table = parquet.table(data, _IDS, _LIMITS)
    except Unreadable as error:
        raise Unreadable(f"the ids are not readable: {error}") from error
    names = pc.unique(table["table"]).to_pylist()
    return {str(name): _strings(table.filter(pc.equal(table["table"], name))["id"]) for name in names}


def last(chunks: Sequence[Strings], limit: int) -> Strings:
    """The last `limit` strings of some chunks, as one."""
    lengths = np.concatenate([np.zeros(0, np.int64), *[np.diff(chunk.offsets) for chunk in chunks]])
    data = np.concatenate([np.zeros(0, np.uint8), *[chunk.data for chunk in chunks]])
    kept = lengths[max(0, len(lengths) - limit) :]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=offsets[1:])
    return Strings(data[len(data) - int(offsets[-1]) :], offsets)


def _text(strings: Strings) -> pa.Array:
    """Strings as an Arrow column, without making Python objects of them."""
    buffers = [None, pa.py_buffer(strings.offsets), pa.py_buffer(np.ascontiguousarray(strings.data))]
    return pa.Array.from_buffers(pa.large_string(), len(strings), buffers).cast(pa.string())


def _strings(column: pa.ChunkedArray) -> Strings:
    """The inverse of `_text`."""
    plain = column.cast(pa.large_string()).combine_chunks()
    plain = pa.concat_arrays([plain]) if isinstance(plain, pa.Array) else pa.concat_arrays(plain.chunks)
    _, offsets, data = plain.buffers()
    cuts = np.frombuffer(offsets, np.int64)[plain.offset : plain.offset + len(plain) + 1]
    raw = np.frombuffer(data, np.uint8)[cuts[0] : cuts[-1]] if data is not None else np.empty(0, np.uint8)
    return Strings(raw, cuts - cuts[0])
