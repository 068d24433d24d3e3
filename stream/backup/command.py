"""`headrace backup`: parses, delegates, prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stream.terminal import Json, Lineage, Store, load, say


def backup(
    to: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET or a directory; else HEADRACE_BACKUP_TO.", show_default=False),
    ] = None,
    store: Store = None,
    lineage: Lineage = None,
    as_json: Json = False,
) -> None:
    """Copy a lineage into another bucket or directory, while the service goes on; again, to bring the copy up to date.

    A service that is pointed at the copy goes on from it. See docs/operate.md.
    """
    from stream import wiring
    from stream.backup.copying import copy

    settings = load({"store.location": store, "store.lineage": lineage, "backup.to": to})
    source, layout = wiring.open_lineage(settings)
    target = wiring.open_backup(settings)
    done = copy(source, target, layout)
    if as_json:
        say(asdict(done))
        return
    checkpoints = ", ".join(f"version {version} at {seq}" for version, seq in sorted(done.checkpoints.items()))
    typer.echo(
        f"copied lineage {done.lineage} up to plan {done.seq} to {settings.backup.to} "
        f"(checkpoints: {checkpoints or 'none yet'}): {done.objects:,} objects ({done.bytes:,} bytes) written, "
        f"{done.kept:,} there already, {done.removed:,} removed as the source has collected them"
    )
