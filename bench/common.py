"""What the benchmarks share: a stream that looks like a real one, timing, and how a result is printed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

HEADRACE = str(Path(sys.executable).with_name("headrace"))
EXIT_LACKING = 3
"""What the benchmark needs is not installed here."""


def lacking(message: str) -> SystemExit:
    """The end of a benchmark that cannot run here: says why on standard error, exit code 3."""
    print(message, file=sys.stderr)
    return SystemExit(EXIT_LACKING)


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """One JSON object on standard output, or the same as lines."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


def replayed(clicks: Path, folder: Path, settings: Mapping[str, str]) -> Path:
    """The directory store, in `folder`, of the product's own service that has replayed `clicks` to their end."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
    env = {**theirs, "HEADRACE_HTTP_PORT": "0", **settings}
    store = folder / "store"
    argv = [HEADRACE, "run", "--replay", str(clicks), "--store", str(store)]
    subprocess.run(argv, env=env, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return store


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code. `load`: processes that wanted a core in the last minute."""
    return {"cpus": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2)}


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, this one by default."""
    return int(psutil.Process(pid).memory_info().rss)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def click_messages(events: int, data: Path | None, seed: int = 0) -> list[bytes]:
    """`events` clicks as JSON, about 130 bytes each, in time order: of the Parquet file `data`, repeated where it
    is shorter; else made up, with users and items by Zipf's law, new ones appearing all along.
    """
    users, items, times, types = _recorded(events, data) if data is not None else _invented(events, seed)
    encode = msgspec.json.Encoder().encode
    rows = zip(users, items, times, types, range(events), strict=True)
    return [
        encode(
            {"user_id": user, "product_id": item, "timestamp": time, "event_type": kind, "event_id": f"{place:016x}"}
        )
        for user, item, time, kind, place in rows
    ]


def _invented(events: int, seed: int) -> tuple[list[str], list[str], list[int], list[str]]:
    random = np.random.default_rng(seed)
    users, items = (random.zipf(exponent, events) % size for exponent, size in ((1.15, 40_000), (1.2, 60_000)))
    times = 1_700_000_000_000 + np.cumsum(random.exponential(400, events)).astype(np.int64)
    kinds = random.choice(["view", "cart", "purchase"], events, p=[0.8, 0.15, 0.05])
    return [f"user-{user}" for user in users], [f"item-{item}" for item in items], times.tolist(), kinds.tolist()


def _recorded(events: int, data: Path) -> tuple[list[str], list[str], list[int], list[str]]:
    from stream.replay.columns import ColumnRows

    rows = ColumnRows(data)
    places = np.arange(events) % len(rows)
    texts = [msgspec.json.decode(line) for line in rows.lines(places.astype(np.int64)) if line is not None]
    return (
        [text["user_id"] for text in texts],
        [text["product_id"] for text in texts],
        rows.times[places].tolist(),
        [text.get("event_type") or "view" for text in texts],
    )
