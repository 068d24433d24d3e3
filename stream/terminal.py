"""What every command does at its ends: read the settings, print JSON, print a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from stream.settings.settings import Settings


def load(arguments: Mapping[str, object]) -> Settings:
    """The settings in force, logging set up by them."""
    from stream import log
    from stream.settings.settings import Settings

    settings = Settings.load(arguments)
    log.configure(settings.log.level, settings.log.format, settings.secrets())
    return settings


def say(value: Any) -> None:
    """One value as one line of JSON."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def table(rows: Iterable[Mapping[str, Any]], title: str) -> None:
    """Print rows with the same columns; one row at least."""
    rows = list(rows)
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows[0]:
        shown.add_column(name, overflow="fold", no_wrap=name in {"when", "name"})
    for row in rows:
        shown.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    typer.echo(title)  # as the table's own title it would be folded to the width of a narrow table
    Console().print(shown)
