"""Sampled softmax: the cross-entropy of the target among its own candidates and the shared negatives, and its gradient.

With logits s (those of negatives already less the log of their inclusion probability) and a click's weight w,
loss = -log(exp(s_target) / sum_c exp(s_c)), and d(w loss)/ds_c = w (p_c - [c is the target]).
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Float64


def softmax_gradient(own: Float32, shared: Float32, weights: Float32) -> Float64:
    """Turn logits into gradients, in place; the loss of each click in nats is answered, float64 [B].

    `own` float32 [B, C], the target in column 0, -inf where there is no candidate; `shared` float32 [B, M], -inf
    where a negative is masked; `weights` float32 [B] of the clicks (they scale the gradients, not the loss).
    """
    top = own.max(axis=1)
    if shared.shape[1]:
        np.maximum(top, shared.max(axis=1), out=top)
    own -= top[:, None]
    shared -= top[:, None]
    target = own[:, 0].astype(np.float64)
    np.exp(own, out=own)
    np.exp(shared, out=shared)
    mass = own.sum(axis=1) + shared.sum(axis=1)
    factor = (weights / mass)[:, None]
    own *= factor
    shared *= factor
    own[:, 0] -= weights
    return np.asarray(np.log(mass.astype(np.float64)) - target, np.float64)
