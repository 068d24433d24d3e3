"""A checkpoint's files: arrays and ids come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.batch import Strings
from stream.partfiles import last, read_arrays, read_ids, write_arrays, write_ids

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=6)


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int64", "uint8", "uint64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 0)])
def test_arrays_keep_kind_and_shape(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Scalars and empty ones too; a part comes back under its name."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)

    write_arrays({"first": {"a": array, "b": array[..., ::-1] if shape else array}, "second": {"a": array}}, tmp_path)
    back = read_arrays({path.name: path.read_bytes() for path in tmp_path.iterdir()})

    assert sorted(back) == ["first", "second"]
    assert (back["first"]["a"].dtype, back["first"]["a"].shape) == (array.dtype, shape)
    np.testing.assert_array_equal(back["second"]["a"], array)
    np.testing.assert_array_equal(back["first"]["b"], array[..., ::-1] if shape else array)


@given(texts, texts)
def test_ids_keep_their_order(tmp_path_factory: pytest.TempPathFactory, users: list[str], items: list[str]) -> None:
    """Row k of a table is its k-th id, whatever characters it has; a table without ids is absent."""
    path = tmp_path_factory.mktemp("ids") / "ids.parquet"

    write_ids({"users": Strings.of(users), "items": Strings.of(items)}, path)

    expected = {name: ids for name, ids in (("users", users), ("items", items)) if ids}
    assert {name: found.tolist() for name, found in read_ids(path.read_bytes()).items()} == expected


@given(st.lists(texts, max_size=4), st.integers(0, 8))
def test_the_last_strings_across_chunks(chunks: list[list[str]], limit: int) -> None:
    """As many as asked for from the end, fewer where there are fewer, in order."""
    everything = [text for chunk in chunks for text in chunk]

    kept = last([Strings.of(chunk) for chunk in chunks], limit)

    assert kept.tolist() == everything[max(0, len(everything) - limit) :]
    assert kept.offsets[0] == 0
