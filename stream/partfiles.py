"""The files of a checkpoint: arrays as safetensors (no code in them, ever), ids as Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save_file

from model.batch import Strings

Arrays = dict[str, npt.NDArray[Any]]

_IDS = pa.schema([pa.field("table", pa.string(), nullable=False), pa.field("id", pa.string(), nullable=False)])
_ENDING = ".safetensors"


def write_arrays(parts: Mapping[str, Arrays], folder: Path) -> None:
    """One `NAME.safetensors` in `folder` per part. Runs in a forked child: no threads, no clean-up."""
    for name, arrays in parts.items():
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / f"{name}{_ENDING}")


def read_arrays(files: Mapping[str, bytes]) -> dict[str, Arrays]:
    """Parts by name from the bytes of their files."""
    return {name.removesuffix(_ENDING): load(data) for name, data in files.items()}


def write_ids(ids: Mapping[str, Sequence[str]], path: Path) -> None:
    """All id tables in one Parquet file, rows in table order, so that row k of a table is its k-th id."""
    names = pa.array([name for name in sorted(ids) for _ in range(len(ids[name]))], pa.string())
    values = pa.array([value for name in sorted(ids) for value in ids[name]], pa.string())
    pq.write_table(pa.table([names, values], _IDS), path, compression="zstd", compression_level=1)


def read_ids(data: bytes) -> dict[str, list[str]]:
    """Id lists by table name; a table without ids is absent."""
    table = pq.read_table(io.BytesIO(data), schema=_IDS)
    names = table["table"].combine_chunks().dictionary_encode()
    return {name: table.filter(pa.compute.equal(table["table"], name))["id"].to_pylist() for name in _distinct(names)}


def last(chunks: Sequence[Strings], limit: int) -> Strings:
    """The last `limit` strings of some chunks, as one."""
    lengths = np.concatenate([np.zeros(0, np.int64), *[np.diff(chunk.offsets) for chunk in chunks]])
    data = np.concatenate([np.zeros(0, np.uint8), *[chunk.data for chunk in chunks]])
    kept = lengths[max(0, len(lengths) - limit) :]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=offsets[1:])
    return Strings(data[len(data) - int(offsets[-1]) :], offsets)


def _distinct(encoded: pa.Array | pa.ChunkedArray) -> list[str]:
    array = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return [str(name) for name in array.dictionary.to_pylist()] if len(array) else []
