"""Shared negatives: a mixture of a long ring of recent targets,
a short one and the whole catalogue, with its log-Q correction.

q_j = .64 c_long^.75 / Z_long + .30 c_short^.75 / Z_short + .06 / items, where c counts the item in a ring and Z sums
c^.75 over the ring's items. Negatives are distinct; after D draws item j is among them with probability
1 - (1 - q_j)^D, about 1 - exp(-q_j D), and its logit is corrected by the log of that.
"""

from __future__ import annotations

import math

import numpy as np

from model.batch import Float32, Float64, Int32, Int64
from model.kernels import inlined, kernel

THINNING = 0.75
SHARES = (0.64, 0.30, 0.06)
DRAWS_PER_NEGATIVE = 4
"""Give up after this many draws per negative wanted: a small catalogue has no more distinct items to give."""


def shares(long_filled: int, short_filled: int) -> Float64:
    """Mixture shares (long, short, uniform), float64 [3]: an empty ring's share goes to the others in proportion."""
    mixture = np.array(SHARES) * (long_filled > 0, short_filled > 0, True)
    return np.asarray(mixture / mixture.sum(), np.float64)


@inlined
def _thinned(count: int) -> float:
    """count^.75, by square roots: a power takes five times as long."""
    return math.sqrt(count * math.sqrt(count))


@kernel
def draw_negatives(
    uniforms: Float64,
    mixture: Float64,
    long_ring: Int32,
    short_ring: Int32,
    long_counts: Int32,
    short_counts: Int32,
    norms: Float64,
    slots: Int32,
    rows: Int32,
    correction: Float32,
) -> int:
    """Draw distinct items into rows int32 [M] and their log inclusion probability into correction; how many is
    answered.

    `uniforms` [2 * attempts] in [0, 1); rings hold the filled part only; `norms` = (Z_long, Z_short). `slots` [items]
    is -1 everywhere on entry; on exit it points from each item drawn to its place, and the caller puts it back.
    """
    items, found, draws = slots.shape[0], 0, 0
    for attempt in range(uniforms.shape[0] // 2):
        u, accept = uniforms[2 * attempt], uniforms[2 * attempt + 1]
        if u < mixture[0]:
            row = long_ring[min(int(u / mixture[0] * long_ring.shape[0]), long_ring.shape[0] - 1)]
            thin = 1.0 / math.sqrt(math.sqrt(long_counts[row]))
        elif u < mixture[0] + mixture[1]:
            row = short_ring[min(int((u - mixture[0]) / mixture[1] * short_ring.shape[0]), short_ring.shape[0] - 1)]
            thin = 1.0 / math.sqrt(math.sqrt(short_counts[row]))
        else:
            row = min(int((u - mixture[0] - mixture[1]) / mixture[2] * items), items - 1)
            thin = 1.0
        if accept < thin:
            draws += 1
            if slots[row] < 0:
                slots[row] = found
                rows[found] = row
                found += 1
                if found == rows.shape[0]:
                    break
    for m in range(found):
        row = rows[m]
        q = mixture[2] / items
        if mixture[0] > 0.0:
            q += mixture[0] * _thinned(long_counts[row]) / norms[0]
        if mixture[1] > 0.0:
            q += mixture[1] * _thinned(short_counts[row]) / norms[1]
        correction[m] = np.log(-np.expm1(-q * draws))
    return found


@kernel
def push_targets(rows: Int32, ring: Int32, pushed: Int64, which: int, counts: Int32, norms: Float64) -> None:
    """Put rows into the ring in order, over the oldest; keep counts [items] and norms[which] = sum of counts^.75."""
    size = ring.shape[0]
    for row in rows:
        place = pushed[which] % size
        if pushed[which] >= size:
            old = ring[place]
            counts[old] -= 1
            norms[which] += _thinned(counts[old]) - _thinned(counts[old] + 1)
        ring[place] = row
        counts[row] += 1
        norms[which] += _thinned(counts[row]) - _thinned(counts[row] - 1)
        pushed[which] += 1


class TargetRing:
    """The last `sizes` = (long, short) targets of finished batches.

    `pushed` int64 [2]: how many went into each, those not counted whose items lost their rows. `seen` int64 [1]: how
    many ever came.
    """

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.rings = tuple(np.zeros(size, np.int32) for size in sizes)
        self.pushed = np.zeros(2, np.int64)
        self.seen = np.zeros(1, np.int64)
        self.norms = np.zeros(2, np.float64)

    def filled(self, which: int) -> Int32:
        """The part of a ring (0 long, 1 short) that holds targets, int32 view."""
        return self.rings[which][: int(min(self.pushed[which], len(self.rings[which])))]

    def push(self, rows: Int32, long_counts: Int32, short_counts: Int32) -> None:
        """Count the targets rows int32 [n] in, oldest first."""
        for which, counts in enumerate((long_counts, short_counts)):
            push_targets(rows, self.rings[which], self.pushed, which, counts, self.norms)
        self.seen += len(rows)

    def renumber(self, numbers: Int32, long_counts: Int32, short_counts: Int32) -> None:
        """Items have new rows, numbers int32 [old rows], -1 for those that are gone: their targets leave the rings.

        The counts are those of the new rows.
        """
        for which, counts in enumerate((long_counts, short_counts)):
            ring, first = self.rings[which], int(self.pushed[which]) % len(self.rings[which])
            held = self.filled(which)
            ordered = np.concatenate((held[first:], held[:first])) if len(held) == len(ring) else held
            left = numbers[ordered]
            left = left[left >= 0]
            ring[: len(left)] = left
            self.pushed[which] = len(left)
            roots = np.sqrt(counts[counts > 0].astype(np.float64))
            self.norms[which] = float((roots * np.sqrt(roots)).sum())

    def mixture(self) -> Float64:
        return shares(len(self.filled(0)), len(self.filled(1)))
