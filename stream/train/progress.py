"""How a training goes, for a person: a bar per epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from stream.train.fit import Epoch


class Progress:
    """Says nothing. The base of the others, and what a test or a program uses."""

    def say(self, text: str) -> None:
        """Something happened that a person may want to know."""

    def reading(self, key: str, done: int, of: int) -> None:
        """`done` of so many bytes of an object are read."""

    def begin(self, epoch: int, epochs: int, clicks: int) -> None:
        """An epoch over `clicks` begins."""

    def learned(self, clicks: int, loss: float) -> None:
        """So many clicks of the epoch are learned, at this mean loss."""

    def end(self, epoch: Epoch) -> None:
        """The epoch is over."""


class Lines(Progress):
    """A line per event and per epoch."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._epochs = self._clicks = 0
        self._since = 0.0

    def say(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def begin(self, epoch: int, epochs: int, clicks: int) -> None:  # noqa: ARG002 - the line comes at its end
        self._epochs, self._clicks, self._since = epochs, clicks, time.monotonic()

    def end(self, epoch: Epoch) -> None:
        self.say(_line(epoch, self._epochs, self._clicks, time.monotonic() - self._since))


class Bars(Progress):
    """A bar for reading, and one per epoch, with loss and events per second."""

    def __init__(self, console: Console) -> None:
        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._epoch = TaskID(0)
        self._epochs = self._clicks = 0
        self._since = 0.0

    def say(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False)

    def reading(self, key: str, done: int, of: int) -> None:
        if key not in self._tasks:
            self._tasks[key] = self.bars.add_task(f"reading {key}", total=of, facts="")
        self.bars.update(self._tasks[key], completed=done, facts=f"{done / 2**20:,.1f} MiB")

    def begin(self, epoch: int, epochs: int, clicks: int) -> None:
        self._epochs, self._clicks, self._since = epochs, clicks, time.monotonic()
        self._epoch = self.bars.add_task(f"epoch {epoch}/{epochs}", total=clicks, facts="")

    def learned(self, clicks: int, loss: float) -> None:
        rate = clicks / max(time.monotonic() - self._since, 1e-9)
        self.bars.update(self._epoch, completed=clicks, facts=f"loss {loss:.4f}  {rate:,.0f} events/s")

    def end(self, epoch: Epoch) -> None:
        self.bars.remove_task(self._epoch)
        self.say(_line(epoch, self._epochs, self._clicks, time.monotonic() - self._since))


@contextmanager
def on_terminal(out: TextIO) -> Iterator[Progress]:
    """Bars where `out` is a terminal, else lines."""
    if not out.isatty():
        yield Lines(out)
        return
    bars = Bars(Console(file=out))
    with bars.bars:
        yield bars


def _line(epoch: Epoch, epochs: int, clicks: int, seconds: float) -> str:
    line = f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}  {clicks / max(seconds, 1e-9):,.0f} events/s"
    if math.isnan(epoch.held_mrr):
        return line
    return f"{line}  newest clicks: HR@20 {epoch.held_hits:.3f}  MRR@20 {epoch.held_mrr:.4f}"
