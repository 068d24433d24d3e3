"""Names of items for people: a file with the columns `product_id` and `name`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from stream.errors import ConfigError

_READERS = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".json": pyarrow.json.read_json,
    ".jsonl": pyarrow.json.read_json,
}


def load_names(path: Path) -> dict[str, str]:
    """Names by item id, from Parquet, CSV or JSON lines.

    Raises ConfigError naming the file and what is wrong with it.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path}: names are read from {', '.join(_READERS)} files")
    try:
        table = read(path)
        columns = [table[name].cast(pa.string()).to_pylist() for name in ("product_id", "name")]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: no table with the columns product_id and name: {error}") from error
    return {item: name for item, name in zip(*columns, strict=True) if item is not None and name}
