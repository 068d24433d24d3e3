"""The peers by name. Each has one or more variants; the best one's figures are the peer's, which says which it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.peers.peer import Peer
from bench.peers.popularity import HALF_LIVES_HOURS, Popularity
from bench.peers.recent import Recent

Variants = Mapping[str, Callable[[], Peer]]

PEERS: Mapping[str, Variants] = {
    "recent": {"half_life_1h": Recent},
    "popularity": {f"half_life_{hours:g}h": partial(Popularity, hours) for hours in HALF_LIVES_HOURS},
}
