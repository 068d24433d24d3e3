"""The peers by name. Each has one or more variants; the best one's figures are the peer's, which says which it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.peers.cbow import Cbow
from bench.peers.implicits import Factors, ItemItem
from bench.peers.lightfm import LightFm
from bench.peers.peer import Peer
from bench.peers.popularity import HALF_LIVES_HOURS, Popularity
from bench.peers.recent import Recent
from bench.peers.river import River
from bench.peers.rules import Rules
from bench.peers.sasrec import SasRec
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
    "als": {"user": partial(Factors, "als", by_context=False), "context": partial(Factors, "als", by_context=True)},
    "bpr": {"user": partial(Factors, "bpr", by_context=False), "context": partial(Factors, "bpr", by_context=True)},
    "itemitem": {"cosine": partial(ItemItem, "cosine"), "bm25": partial(ItemItem, "bm25")},
    "lightfm": {"warp": LightFm},
    "cbow": {"epochs_1": partial(Cbow, 1), "epochs_5": partial(Cbow, 5)},
    "river": {"step_025": partial(River, 0.025), "step_1": partial(River, 0.1)},
    "sasrec_online": {"epochs_5": partial(SasRec, online=True)},
    "sasrec": {"every_fifth": partial(SasRec, online=False)},
}
