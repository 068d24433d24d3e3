"""What a retrain takes of memory: the peak of its process, in models as the live learner's process holds one.

A made-up history in which each user and each item comes twice, replayed through the product's own service into a
directory store. Then, each in a process of its own: a learner without a row, the live model restored from its
checkpoint, and the whole training, with the duel and the first checkpoint. What the first one takes is no model's.

    python -m bench.retrain_memory --json [--users N] [--items N] [--epochs N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from bench.common import machine, replayed, rss_bytes, say, show
from model.config import LearnerConfig
from model.learner import warm_up
from stream import checkpoint
from stream.history import Archive
from stream.host import HostConfig, LearnerHost
from stream.metrics import NullMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.policy import Backoff
from stream.retrain.training import Task, Training
from stream.store.directory import DirectoryStore
from stream.versions import Request

LAYOUT = Layout("headrace", "main")
MIB = 2**20


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as made:
        root = _replay(Path(made), options.users, options.items)
        empty, live, trained = (_alone(role, root, options.epochs) for role in (_empty, _live, _trained))
    model = live[0] - empty[0]
    show(
        {
            "models": round((trained[1] - empty[0]) / model, 2),
            "restoring_models": round((live[1] - empty[0]) / model, 2),
            "model_mib": round(model / MIB),
            "empty_mib": round(empty[0] / MIB),
            "training_peak_mib": round(trained[1] / MIB),
            "users": options.users,
            "items": options.items,
            "dim": LearnerConfig().dim,
            **machine(),
        },
        as_json=options.json,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def _replay(folder: Path, users: int, items: int) -> Path:
    """The store with the history, and one checkpoint at its end."""
    random = np.random.default_rng(0)
    clicks = 2 * max(users, items)
    who, what = (
        np.concatenate([random.permutation(np.arange(clicks // 2) % size) for _ in range(2)]) for size in (users, items)
    )
    encode = msgspec.json.Encoder().encode
    rows = zip(who.tolist(), what.tolist(), range(clicks), strict=True)
    path = folder / "clicks.jsonl"
    path.write_bytes(
        b"\n".join(
            encode({"user_id": f"{user:012d}", "product_id": f"{item:012d}", "timestamp": 1_700_000_000_000 + 50 * at})
            for user, item, at in rows
        )
    )
    return replayed(path, folder, {"HEADRACE_STREAM_CHECKPOINTS_KEPT": "1"})


def _alone(role: Callable[[DirectoryStore, int], object], root: Path, epochs: int) -> tuple[int, int]:
    """Resident bytes of a process that has done its part, as it then stands and at its peak."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_measured, role, root, epochs).result()
    say(f"{role.__name__[1:]}: {found[0] / MIB:.0f} MiB, {found[1] / MIB:.0f} at most")
    return found


def _measured(role: Callable[[DirectoryStore, int], object], root: Path, epochs: int) -> tuple[int, int]:
    warm_up(LearnerConfig())
    _held = role(DirectoryStore(root), epochs)
    return rss_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _empty(store: DirectoryStore, _epochs: int) -> LearnerHost:
    return LearnerHost(HostConfig(LearnerConfig(), LAYOUT, store, 0))


def _live(store: DirectoryStore, epochs: int) -> LearnerHost:
    host = _empty(store, epochs)
    _, key = next(checkpoint.complete(store, LAYOUT))
    host.restore(key)
    return host


def _trained(store: DirectoryStore, epochs: int) -> object:
    request = Request("bench", "a benchmark", epochs=epochs)
    task = Task(store, LAYOUT.of_version(2), 1, request, LearnerConfig(), 0, proof_clicks=1, proof_seconds=0.0)
    patience = Patience(Backoff(), threading.Event().wait, NullMeter())
    return Training(task, Archive(store, LAYOUT, patience, NullMeter())).run()


if __name__ == "__main__":
    main()
