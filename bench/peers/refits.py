"""For peers that learn by fitting anew: when it is due, and all clicks so far."""

from __future__ import annotations

import numpy as np

from bench.peers.peer import Clicks
from model.batch import Int32


class Refits:
    """Due whenever another `share` of the stream has passed."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._next = share
        self._users: list[Int32] = []
        self._items: list[Int32] = []

    def due(self, clicks: Clicks) -> bool:
        """Note the clicks; whether to fit now. At the stream's end it never is: nobody would ask."""
        self._users.append(clicks.users)
        self._items.append(clicks.items)
        if clicks.share_done < self._next or clicks.share_done >= 1.0:
            return False
        while self._next <= clicks.share_done:
            self._next += self._share
        return True

    def history(self) -> tuple[Int32, Int32]:
        """Users and items of all clicks so far, in time order."""
        return np.concatenate(self._users), np.concatenate(self._items)
