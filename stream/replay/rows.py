"""What a replay reads from: rows that can be taken by position, wherever they come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.batch import Int64

UInt32 = npt.NDArray[np.uint32]
Indices = Int64 | range


class Rows(Protocol):
    """n rows in stream order. `hashes` uint32 [n]: crc32 of the user id in UTF-8, 0 where a row has none. `times`
    int64 [n]: event time in milliseconds since the epoch, 0 where a row has none that can be read.
    """

    @property
    def hashes(self) -> UInt32: ...

    @property
    def times(self) -> Int64: ...

    def __len__(self) -> int: ...

    def lines(self, indices: Indices) -> list[bytes | None]:
        """The rows at `indices`, each as one JSON text."""

    def keys(self, indices: Indices) -> list[bytes | None]:
        """The user ids at `indices` in UTF-8; None where a row has none."""

    def line_number(self, index: int) -> int:
        """Where the row at `index` stands in its file, counted from 1, as an editor counts."""
