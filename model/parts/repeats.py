"""Repeats: a learned weight for "this is the item k clicks ago", large where people return, else negative."""

from __future__ import annotations

from model.batch import Float32, Int32
from model.kernels import kernel


@kernel
def add_repeats(clicked: Int32, weights: Float32, scores: Float32) -> None:
    """scores[clicked[b, k], b] += weights[k]; scores [items, B], clicked [B, K] with -1 where there is none."""
    for b in range(clicked.shape[0]):
        for k in range(clicked.shape[1]):
            if clicked[b, k] >= 0:
                scores[clicked[b, k], b] += weights[k]
