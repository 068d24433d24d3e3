"""The vocabulary of the model: a batch of clicks as arrays, and what learning it reported.

Everything in `model` speaks these types; this file imports nothing of ours.
Strings travel as one byte buffer with offsets (`Strings`) and as codes into such a buffer (`Coded`), so that a batch
crosses a process boundary as a handful of arrays whatever its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strings:
    """n strings as UTF-8 bytes.

    `data` uint8 [total bytes]; `offsets` int64 [n + 1], string k is `data[offsets[k]:offsets[k + 1]]`.
    """

    data: UInt8
    offsets: Int64

    @classmethod
    def of(cls, values: Sequence[str]) -> Strings:
        """Encode `values`; the order is kept."""
        encoded = [value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def tolist(self) -> list[str]:
        """Decode to a list of n Python strings."""
        raw = self.data.tobytes()
        cuts = self.offsets.tolist()
        return [raw[start:end].decode() for start, end in pairwise(cuts)]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of n strings: `codes` int32 [n] point into the m distinct strings of `values`."""

    codes: Int32
    values: Strings

    @classmethod
    def of(cls, column: Sequence[str]) -> Coded:
        """Code `column`; distinct values keep the order of their first appearance."""
        index: dict[str, int] = {}
        codes = np.fromiter((index.setdefault(value, len(index)) for value in column), np.int32, len(column))
        return cls(codes, Strings.of(list(index)))

    def take(self, places: slice | Int64) -> Coded:
        """The column at some places, pointing into the same strings."""
        return Coded(self.codes[places], self.values)

    def tolist(self) -> list[str]:
        """The column as a list of n Python strings."""
        distinct = self.values.tolist()
        return [distinct[code] for code in self.codes.tolist()]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class Batch:
    """n clicks in the order in which they are to be learned.

    `users`, `items`, `types`: coded columns of length n. `times`: int64 [n], milliseconds since the epoch, UTC,
    not necessarily sorted.
    """

    users: Coded
    items: Coded
    types: Coded
    times: Int64

    @classmethod
    def of(
        cls,
        users: Sequence[str],
        items: Sequence[str],
        times: Sequence[int] | Int64,
        types: Sequence[str] | None = None,
    ) -> Batch:
        """Build a batch from plain columns of equal length; without `types` every click is a `view`."""
        column = types if types is not None else ["view"] * len(users)
        return cls(Coded.of(users), Coded.of(items), Coded.of(column), np.asarray(times, np.int64))

    def take(self, places: slice | Int64) -> Batch:
        """The clicks at some places."""
        return Batch(self.users.take(places), self.items.take(places), self.types.take(places), self.times[places])

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Scores:
    """Test-then-learn results over the scored clicks of one batch: sums, so that they add up across batches.

    `scored`: clicks scored. `hits`, `mrr`, `ndcg`: sums over them, cut at rank 20. `popular_hits`, `popular_mrr`:
    the same for the decayed-popularity baseline on the same clicks.
    """

    scored: int
    hits: float
    mrr: float
    ndcg: float
    popular_hits: float
    popular_mrr: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What one batch did to the model.

    `clicks`: taken in. `loss`: mean sampled-softmax cross-entropy in nats per trained click (nan when none had a
    context). `new_users`, `new_items`: rows that this batch added. `withheld`: of the clicks, those that only counted
    for admission, because their user or item has no row yet.
    """

    clicks: int
    loss: float
    new_users: int
    new_items: int
    withheld: int = 0
