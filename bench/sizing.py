"""What Headrace takes of memory and store, by the unit: the figures of docs/operate.md.

`memory` (of the live learner, serving view included) and `checkpoint`: bytes by user and by item, each clicked once, at
the default width, ids of twelve characters.
`store`: a stream is replayed through the product's own service (`headrace run --replay`, default batches), whose plans
are collected and archived as soon as may be; then the files of its directory store are counted. Two streams: real
purchases, without event ids; and made-up clicks with event ids of sixteen characters, which do not compress.
How many clicks a core learns is what `bench.pipeline` measures.

    python -m bench.sizing --json [--rows N] [--events N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.common import click_messages, lacking, machine, replayed, say, show
from bench.rows import click, row_bytes
from model.batch import Strings
from model.config import LearnerConfig
from model.learner import Learner
from stream.demo.data import purchases
from stream.errors import ConfigError
from stream.events import Position, Totals
from stream.host import HostConfig, LearnerHost
from stream.naming import Layout
from stream.store.directory import DirectoryStore

FEW = 1000


def main() -> None:
    options = _options()
    memory = {kind: each["served"] for kind, each in row_bytes(options.rows).items()}
    say(f"bytes of memory by row: {memory}")
    checkpoint = {kind: checkpoint_bytes(kind, options.rows) for kind in memory}
    say(f"bytes of a checkpoint by row: {checkpoint}")
    store = {name: stored(name, options.events) for name in ("purchases", "with event ids")}
    show(
        {"memory": memory, "checkpoint": checkpoint, "store": store, "dim": LearnerConfig().dim, **machine()},
        as_json=options.json,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="users, and items, that are measured")
    parser.add_argument("--events", type=int, default=700_000, help="of each stream; 64 full batches are an archive")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def checkpoint_bytes(kind: str, count: int) -> int:
    """By how many bytes a checkpoint is larger for each of `count` more rows of that kind."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        host = LearnerHost(HostConfig(LearnerConfig(), Layout("headrace", "bench"), DirectoryStore(folder), 0))
        learner, sizes = Learner(LearnerConfig()), []
        for seq, (start, stop) in enumerate(((0, FEW), (FEW, FEW + count))):
            click(learner, kind, start, stop)
            host.begin_with(learner, Position(seq, "", 0, {}, Totals(), Strings.of([])))
            host.begin_checkpoint()
            sizes.append(host.finish_checkpoint().size)
    return round((sizes[1] - sizes[0]) / count)


def stored(name: str, events: int) -> dict[str, float]:
    """Bytes in the store by event, of a stream that was replayed to its end."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as made:
        folder = Path(made)
        clicks = _clicks(name, events, folder)
        settings = {
            "HEADRACE_STREAM_CHECKPOINTS_KEPT": "1",
            "HEADRACE_STREAM_CHECKPOINT_BATCHES": "16",
            "HEADRACE_STREAM_GC_GRACE_SECONDS": "0",
        }
        return _counted(replayed(clicks, folder, settings), events)


def _clicks(name: str, events: int, folder: Path) -> Path:
    if name == "purchases":
        try:
            return purchases(folder, events, 0).path
        except ConfigError as error:
            raise lacking(str(error)) from error
    path = folder / "clicks.jsonl"
    path.write_bytes(b"\n".join(click_messages(events, None)))
    return path


def _counted(root: Path, events: int) -> dict[str, float]:
    """Of plans and staged objects that are still there, and of the archive."""
    home = root / "headrace" / "lineage" / "main"
    documents = [path.read_bytes() for path in sorted((home / "plan").iterdir())]
    ranges = [each for data in documents for each in json.loads(data)["plan"]["ranges"] if each["staged"]]
    rows = sum(each["staged"]["rows"] for each in ranges)
    archive = [path.stat().st_size for path in (home / "archive").iterdir()]
    if not archive or not rows:
        raise SystemExit("nothing was archived: more --events")
    return {
        "staged_bytes_per_event": round(sum(each["staged"]["size"] for each in ranges) / rows, 1),
        "plan_bytes_per_event": round(sum(map(len, documents)) / rows, 2),
        "archived_bytes_per_event": round(sum(archive) / (events - rows), 1),
        "objects_per_batch": round((len(ranges) + len(documents)) / len(documents), 1),
    }


if __name__ == "__main__":
    main()
