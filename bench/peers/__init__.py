"""The peers by name. Each has one or more variants; the best one's figures are the peer's, which says which it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.peers.peer import Peer
from bench.peers.popularity import HALF_LIVES_HOURS, Popularity
from bench.peers.recent import Recent
from bench.peers.rules import Rules
from bench.peers.stan import Stan
from bench.peers.vmis import Vmis
from bench.peers.vsknn import Vsknn

Variants = Mapping[str, Callable[[], Peer]]

PEERS: Mapping[str, Variants] = {
    "recent": {"half_life_1h": Recent},
    "popularity": {f"half_life_{hours:g}h": partial(Popularity, hours) for hours in HALF_LIVES_HOURS},
    "rules": {"lags_10": Rules},
    "vmis": {"reminders": partial(Vmis, reminders=True), "no_reminders": partial(Vmis, reminders=False)},
    "vsknn": {"reminders": partial(Vsknn, reminders=True), "no_reminders": partial(Vsknn, reminders=False)},
    "stan": {
        "sharp": partial(Stan, 5.0, 2.05, reminders=True),
        "flat": partial(Stan, 20.0, 20.0, reminders=True),
        "flat_no_reminders": partial(Stan, 20.0, 20.0, reminders=False),
    },
}
