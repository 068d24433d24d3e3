"""Producers that deliver at least once, and clocks that are wrong: one click is one click, and times stay sane."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.stand import Stand

pytestmark = [pytest.mark.services, pytest.mark.faults]
DAY_MS = 86_400_000
SKEW = """
import os, time
_now, _skew = time.time, {path!r}
def _skewed():
    try:
        with open(_skew) as file:
            return _now() + float(file.read() or 0)
    except (OSError, ValueError):
        return _now()
time.time = _skewed
"""


def send(stand: Stand, rows: list[tuple[str, dict[str, object]]]) -> None:
    """Messages of one partition, in order, each with the outcome that it must have."""
    stand.sent += Counter(outcome for outcome, _ in rows)
    stand.broker.produce(stand.topic, [json.dumps(row).encode() for _, row in rows], partition=0)


def click(event_id: str | None, at: object = 1_700_000_000) -> dict[str, object]:
    return {"user_id": "u1", "product_id": f"i{event_id}", "timestamp": at, "event_id": event_id}


@pytest.mark.timeout(600)
def test_the_same_event_again(stand: Stand) -> None:
    """An event_id again in one batch, in a later one and across a kill is dropped; outside the window it is learned."""
    stand.window = 50
    send(stand, [("trained", click("a")), ("duplicates", click("a")), ("trained", click("b"))])
    stand.start()
    stand.wait_level()
    send(stand, [("duplicates", click("a")), ("trained", click("c"))])
    stand.wait_level()
    stand.kill()
    send(stand, [("duplicates", click("c")), ("duplicates", click("b"))])
    stand.start()
    stand.wait_level()
    send(stand, [("trained", click(f"n{number}")) for number in range(60)])
    stand.wait_level()
    stand.stop()
    send(stand, [("trained", click("a")), ("duplicates", click("n59"))])
    stand.start()
    stand.prove()


@pytest.mark.timeout(600)
def test_clocks_that_are_wrong(stand: Stand, tmp_path: Path) -> None:
    """Events from 1970, 2099 and 2100, a wall clock that jumps an hour back: learned at sane times, or refused."""
    folder, skew = tmp_path / "skewed", tmp_path / "skew"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SKEW.format(path=str(skew)))
    stand.changes = {"PYTHONPATH": f"{folder}:{':'.join(sys.path)}"}
    future = [("trained", click("2099", 4_102_358_400)), ("rejected", click("2100", 4_102_444_800))]
    send(stand, [("trained", click("1970", 0)), *future, ("trained", click("none", None))])
    stand.publish(200)
    stand.start()
    stand.wait_level()
    newest = stand.plans()[-1]["created_ms"]
    skew.write_text("-3600")
    stand.publish(300)
    stand.wait_level()
    stand.kill()
    stand.publish(100)
    stand.start()
    stand.wait_level()

    assert stand.plans()[-1]["created_ms"] < newest
    times = [time for plan in stand.plans() for time in staged_times(stand, plan)]
    assert 0 <= min(times) <= max(times) < newest + DAY_MS
    assert (stand.page("/healthz")[0], stand.page("/readyz")[0]) == (200, 200)
    stand.prove()


def staged_times(stand: Stand, plan: dict[str, list[dict[str, dict[str, str]]]]) -> list[int]:
    """Milliseconds since the epoch of each click of a plan."""
    keys = [planned["staged"]["key"] for planned in plan["ranges"] if planned["staged"]]
    tables = [pq.read_table(io.BytesIO(stand.store.get(key).data)) for key in keys]
    return [time for table in tables for time in table["timestamp"].cast("int64").to_pylist()]
