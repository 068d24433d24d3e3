"""By what a learner's memory grows on a stream of few users and items, as `make soak` sends it: part by part.

Tables of users and items are full at once there; what still grows are the sessions that neighbours are looked for in,
until there are as many as `LearnerConfig.sessions` allows, and their copy in the serving view.

    python -m bench.growth --json [--clicks N] [--sessions N]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import psutil

from bench.common import machine, say, show
from model import snapshot
from model.batch import Batch, Coded, Strings
from model.config import LearnerConfig
from model.learner import Learner
from model.view import ServingView

BATCH = 1000
USERS, ITEMS = 100, 300
_TABLES = [Strings.of([f"{kind}{number}" for number in range(count)]) for kind, count in (("u", USERS), ("i", ITEMS))]


def batches(clicks: int) -> list[int]:
    """First click of each batch."""
    return list(range(0, clicks, BATCH))


def batch(first: int, random: np.random.Generator) -> Batch:
    """A thousand clicks, one a second, items by a Pareto law, as `tests/faults/stand.py` draws them."""
    users = random.integers(0, USERS, BATCH).astype(np.int32)
    items = ((random.pareto(0.9, BATCH) + 1).astype(np.int64) % ITEMS).astype(np.int32)
    times = (1_700_000_000 + first + np.arange(BATCH)) * 1000
    view = Coded(np.zeros(BATCH, np.int32), Strings.of(["view"]))
    return Batch(Coded(users, _TABLES[0]), Coded(items, _TABLES[1]), view, times.astype(np.int64))


def main() -> None:
    options = _options()
    learner, view, random = Learner(LearnerConfig(sessions=options.sessions)), ServingView(), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number, first in enumerate(batches(options.clicks)):
        each = batch(first, random)
        learner.score(each)
        learner.learn(each)
        view.publish(learner)
        if number % max(1, options.clicks // BATCH // options.rows) == 0:
            rows.append(_row(learner, first + BATCH))
            say(str(rows[-1]))
    show({"rows": rows, "sessions_max": options.sessions, **machine()}, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=6_000_000)
    parser.add_argument("--sessions", type=int, default=LearnerConfig().sessions, help="most sessions that are kept")
    parser.add_argument("--rows", type=int, default=12, help="measurements")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def _row(learner: Learner, clicks: int) -> dict[str, Any]:
    """Resident memory of the process, and bytes of the state by part."""
    parts = snapshot.dump(learner).parts
    sizes = {name: sum(array.nbytes for array in part.values()) for name, part in parts.items()}
    return {
        "clicks": clicks,
        "resident_bytes": psutil.Process().memory_info().rss,
        "state_bytes": sum(sizes.values()),
        "sessions": len(learner.state.sessions),
        "sessions_bytes": sizes["sessions"],
    }


if __name__ == "__main__":
    main()
