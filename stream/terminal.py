"""What every command has in common: options, and what it does at its ends (read settings, print JSON, a table)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from stream.settings.settings import Settings

Store = Annotated[
    str | None, typer.Option("--store", help="`s3` or a local directory; else HEADRACE_STORE.", show_default=False)
]
Lineage = Annotated[str | None, typer.Option(help="Which lineage; else the one that serves.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]


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
