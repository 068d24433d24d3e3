"""How a training is shown: bars with loss and rate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from stream.train.fit import Epoch
from stream.train.progress import on_terminal


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO) -> str:
    """What a short training leaves on `out`."""
    with on_terminal(out) as progress:
        progress.say("reading [brackets] as they are")
        progress.reading("data/clickstream.json", 5, 10)
        progress.begin(1, 3, 100)
        progress.learned(50, 2.5)
        progress.end(Epoch(1, 2.25, 10, 0.125, 0.5))
    return out.getvalue()


def test_plain_lines_without_a_terminal() -> None:
    """One line per epoch with loss, rate and quality; no control codes."""
    text = shown(io.StringIO())

    assert "epoch 1/3  loss 2.2500" in text
    assert "events/s  newest clicks: HR@20 0.500  MRR@20 0.1250" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that is drawn over, and the finished epoch's line above it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")

    text = shown(Terminal())

    assert "\x1b[" in text
    assert "reading data/clickstream.json" in text
    assert "epoch 1/3  loss 2.2500" in text
    assert "[brackets]" in text
