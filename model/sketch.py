"""How often ids without a row were seen: a count-min sketch in bounded space that forgets by halving.

Four rows of counters; an id has one counter in each, and was seen at most as often as the least of them says (Cormode
and Muthukrishnan, J. Algorithms 2005). Where the counters stand follows from two halves of one hash (Kirsch and
Mitzenmacher, ESA 2006). Only counters below the new estimate are raised (conservative update: Estan and Varghese,
SIGCOMM 2002). Once as many ids have been noted as a quarter of the width, every counter is halved, so that what was
seen once is forgotten (the reset of TinyLFU: Einziger, Friedman and Manes, ACM ToS 2017).

An id never seen passes for one that was with a chance of (1 - e^(-n / width))^4 after n others: 0.24 % right before a
halving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.batch import Int64, UInt8

UInt64 = npt.NDArray[np.uint64]
DEPTH = 4
PART = 4
"""Ids noted before the counters are halved: this part of the width."""
MOST = 255
"""Counters stop here."""


def fingerprints(names: Sequence[str]) -> UInt64:
    """A hash of each id, uint64 [n]: the same in every process."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


class Sketch:
    """`counts` uint8 [4, width], or [4, 0] before anything is noted; `noted` int64 [1]: ids since they were halved."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.counts = np.zeros((DEPTH, 0), np.uint8)
        self.noted = np.zeros(1, np.int64)

    def estimate(self, prints: UInt64) -> Int64:
        """How often each id was seen, at most, int64 [n]."""
        if not self.counts.size:
            return np.zeros(len(prints), np.int64)
        return self._least(self._cells(prints))

    def add(self, prints: UInt64, times: Int64) -> None:
        """Note distinct ids, each seen `times` int64 [n]; their order does not matter."""
        if not len(prints):
            return
        if not self.counts.size:
            self.counts = np.zeros((DEPTH, self.width), np.uint8)
        cells = self._cells(prints)
        wanted = np.minimum(self._least(cells) + times, MOST).astype(np.uint8)
        for row, places in zip(self.counts, cells, strict=True):
            np.maximum.at(row, places, wanted)
        self.noted += len(prints)
        if self.noted[0] >= self.width // PART:
            self.counts >>= 1
            self.noted[:] = 0

    def load(self, counts: UInt8, noted: Int64) -> None:
        """Take over what another one held. Raises `ValueError` for a shape or a type that cannot be."""
        if counts.dtype != np.uint8 or counts.shape not in {(DEPTH, 0), (DEPTH, self.width)}:
            raise ValueError(f"is {counts.dtype} {counts.shape}, but must be uint8 {(DEPTH, self.width)}, or empty")
        self.counts = counts.copy()
        self.noted[:] = noted

    def _cells(self, prints: UInt64) -> Int64:
        """Each id's counters, int64 [4, n]."""
        low, high = prints & np.uint64(0xFFFFFFFF), (prints >> np.uint64(32)) | np.uint64(1)
        steps = np.arange(DEPTH, dtype=np.uint64)[:, None]
        return ((low + steps * high) % np.uint64(self.width)).astype(np.int64)

    def _least(self, cells: Int64) -> Int64:
        least: Int64 = np.full(cells.shape[1], MOST, np.int64)
        for row, places in zip(self.counts, cells, strict=True):
            np.minimum(least, row[places], out=least)
        return least
