"""What the demo shows while it runs: a small live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stream.events import LearnReport

_PLAIN_SECONDS = 3.0


@dataclass(slots=True)
class Tally:
    """Running sums over the reports. `events`: how many there will be; `done`: how many have an outcome."""

    events: int
    done: int = 0
    trained: int = 0
    batches: int = 0
    users: int = 0
    items: int = 0
    new_users: int = 0
    new_items: int = 0
    scored: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    loss: float = float("nan")
    checkpoints: int = 0
    kills: int = 0
    revivals: int = 0
    delay: float = 0.0
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def learned(self, report: LearnReport) -> None:
        """Add a report of the learner."""
        if report.learned is None or report.scores is None or not report.learned.clicks:
            return
        scores = report.scores
        self.trained += report.learned.clicks
        self.batches += 1
        self.users, self.items = report.rows["users"], report.rows["items"]
        self.new_users, self.new_items = report.learned.new_users, report.learned.new_items
        self.scored += scores.scored
        parts = (scores.mrr, scores.hits, scores.popular_mrr, scores.popular_hits)
        self.sums = [total + part for total, part in zip(self.sums, parts, strict=True)]
        self.loss = report.quality["loss"]

    def finish(self) -> None:
        """The stream has ended."""
        self.ended = time.monotonic()

    @property
    def events_per_second(self) -> float:
        """Mean over the stream so far, kill and recovery included."""
        return self.trained / max(1e-9, (self.ended or time.monotonic()) - self.began)

    def quality(self) -> dict[str, float]:
        """Prequential means over all clicks scored so far, by the names of the demo's last line."""
        names = ("mrr20", "hr20", "mrr20_popularity", "hr20_popularity")
        return {name: round(total / max(1, self.scored), 5) for name, total in zip(names, self.sums, strict=True)}


class Screen:
    """Draws a tally, at most ten times a second."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawn = 0.0
        self.draw()
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"[yellow]{text}[/]" if self._live else text, highlight=False)

    def draw(self) -> None:
        """Show the tally as it is now."""
        now = time.monotonic()
        if now - self._drawn < (0.1 if self._live else _PLAIN_SECONDS):
            return
        self._drawn = now
        if self._live is not None:
            self._live.update(table(self._tally), refresh=True)
        else:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _line(self) -> str:
        tally, quality = self._tally, self._tally.quality()
        return (
            f"{tally.trained:>9,} events  {tally.events_per_second:>7,.0f}/s"
            f"  users {tally.users:,} (+{tally.new_users:,})  items {tally.items:,} (+{tally.new_items:,})"
            f"  loss {tally.loss:.3f}  HR@20 {quality['hr20']:.4f} (popularity {quality['hr20_popularity']:.4f})"
            f"  MRR@20 {quality['mrr20']:.4f} (popularity {quality['mrr20_popularity']:.4f})"
            f"  checkpoints {tally.checkpoints}  freshness {tally.delay * 1000:.0f} ms"
        )


def table(tally: Tally) -> Table:
    """The live table as it is now."""
    quality = tally.quality()
    drawn = Table.grid(padding=(0, 2))
    rows = [
        ("events", f"{tally.trained:,} of {tally.events:,}", f"{tally.events_per_second:,.0f} a second"),
        ("users", f"{tally.users:,}", f"{tally.new_users:,} new in the last batch"),
        ("items", f"{tally.items:,}", f"{tally.new_items:,} new in the last batch"),
        ("loss", f"{tally.loss:.3f}", "nats, decayed mean"),
        ("HR@20", f"{quality['hr20']:.4f}", f"popularity alone {quality['hr20_popularity']:.4f}"),
        ("MRR@20", f"{quality['mrr20']:.4f}", f"popularity alone {quality['mrr20_popularity']:.4f}"),
        ("batches", f"{tally.batches:,}", f"checkpoints {tally.checkpoints}, learner revived {tally.revivals} times"),
        ("freshness", f"{tally.delay * 1000:.0f} ms", "from arrival to learned"),
    ]
    for name, value, note in rows:
        drawn.add_row(f"[dim]{name}[/]", f"[bold]{value}[/]", f"[dim]{note}[/]")
    return drawn
