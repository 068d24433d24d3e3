"""`headrace models`: which versions there are, which one serves, and the lever that changes it.

All of it is said in the store: a running service notices within seconds, one that starts later goes by it at once.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream import checkpoint, history, versions
from stream.errors import CheckpointInvalid, ConfigError, PreconditionFailed
from stream.naming import FIRST_VERSION, Layout
from stream.terminal import Json, Lineage, Store, load, say, table
from stream.versions import Result, Serving, Version

if TYPE_CHECKING:
    from stream.ports import ObjectStore

app = typer.Typer(no_args_is_help=True, help="Versions of the model: compare, promote, roll back, pin.")
Number = Annotated[int, typer.Argument(min=FIRST_VERSION, help="A version's number, as `list` names it.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever reads the records.")]
_POLL_SECONDS = 1.0
_UNHEARD_SECONDS = 60.0


@app.command("list")
def list_versions(store: Store = None, lineage: Lineage = None, as_json: Json = False) -> None:
    """List the versions, newest first: how each came into being, and how it compared with the one that served."""
    opened, layout = _open(store, lineage)
    serving = versions.read_serving(opened, layout).serving
    rows = [_row(opened, layout.of_version(number), serving) for number in reversed(versions.numbers(opened, layout))]
    if as_json:
        say({"lineage": layout.lineage, "serving": serving.version, "pinned": serving.pinned, "versions": rows})
        return
    table([{name: _short(value) for name, value in row.items()} for row in rows], f"versions of {layout.lineage}")
    if serving.pinned:
        typer.echo(f"version {serving.version} is pinned: no retrain replaces it until `headrace models unpin`")


@app.command()
def show(version: Number, store: Store = None, lineage: Lineage = None, as_json: Json = False) -> None:
    """Show everything recorded of one version."""
    opened, layout = _open(store, lineage)
    found = versions.read(opened, _existing(opened, layout, version))
    serving = versions.read_serving(opened, layout).serving
    row = _row(opened, layout.of_version(version), serving)
    if as_json:
        say({**found.to_dict(), "state": row["state"], "checkpoint": row["checkpoint"]})
        return
    for name, value in row.items():
        typer.echo(f"{name}: {_short(value)}")
    for name, part in found.to_dict().items():
        for field, value in (part or {}).items() if isinstance(part, dict) else ():
            typer.echo(f"{name}.{field}: {value}")


@app.command()
def promote(version: Number, reason: Reason = "", store: Store = None, lineage: Lineage = None) -> None:
    """Let a version serve: it learns the plans that it has not seen from the store, then takes over."""
    opened, layout = _open(store, lineage)
    place = _existing(opened, layout, version)
    _check_can_serve(opened, place)
    _change(opened, layout, lambda now: versions.promoted(now, version, _now(), reason or "promoted by hand"))


@app.command()
def rollback(reason: Reason = "", store: Store = None, lineage: Lineage = None) -> None:
    """Go back to the version that served before; the stream goes on with it, and nothing is lost."""
    opened, layout = _open(store, lineage)

    def back(now: Serving) -> Serving:
        before = versions.rolled_back(now, _now(), reason or "rolled back by hand")
        _check_can_serve(opened, layout.of_version(before.version))
        return before

    _change(opened, layout, back)


@app.command()
def pin(version: Number, reason: Reason = "", store: Store = None, lineage: Lineage = None) -> None:
    """Let a version serve, and let no retrain replace it until `unpin`."""
    opened, layout = _open(store, lineage)
    _check_can_serve(opened, _existing(opened, layout, version))

    def pinned(now: Serving) -> Serving:
        return versions.pinned(versions.promoted(now, version, _now(), reason or "pinned by hand"), pin=True)

    _change(opened, layout, pinned)


@app.command()
def unpin(store: Store = None, lineage: Lineage = None) -> None:
    """Let retrains take over again when they are better."""
    opened, layout = _open(store, lineage)
    _change(opened, layout, lambda now: versions.pinned(now, pin=False))


def retrain(
    since: Annotated[
        str | None, typer.Option(help="Leave out clicks before this time (ISO 8601).", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Passes at most; else HEADRACE_MODEL_EPOCHS.", show_default=False),
    ] = None,
    reason: Reason = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is over; exit 1 if it failed.")] = False,
    key: Annotated[
        str,
        typer.Option(help="Asked again with the same key, it is the same retrain: for a job that is tried again."),
    ] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="End the one that is under way.")] = False,
    store: Store = None,
    lineage: Lineage = None,
    as_json: Json = False,
) -> None:
    """Ask the running service for a full retrain; the new version takes over if it is no worse on live clicks."""
    opened, layout = _open(store, lineage)
    if cancel:
        version = _cancel(opened, layout)
    else:
        request = versions.request_of(key or uuid.uuid4().hex, since, epochs or 0, reason, "headrace retrain")
        version = versions.ask(opened, layout, request)
        if not as_json:
            typer.echo(f"asked for version {version.number}: a running service begins within seconds")
        if wait:
            version = _wait(opened, layout.of_version(version.number), quiet=as_json)
    if as_json:
        say(version.to_dict())
    elif version.result is not None:
        typer.echo(f"version {version.number} {version.result.outcome}: {version.result.why}")
    if version.result is not None and version.result.outcome == "failed":
        raise typer.Exit(1)


def _open(store: str | None, lineage: str | None) -> tuple[ObjectStore, Layout]:
    from stream import wiring

    return wiring.open_lineage(load({"store.location": store, "store.lineage": lineage}))


def _change(store: ObjectStore, layout: Layout, change: Callable[[Serving], Serving]) -> None:
    """Write which version serves, and say so. Raises ConfigError when somebody else does at the same moment."""
    known = versions.read_serving(store, layout)
    wanted = change(known.serving)
    try:
        versions.write_serving(store, layout, wanted, known)
    except PreconditionFailed:
        raise ConfigError(
            "somebody else changed at that moment which version serves: look at `headrace models list`, and try again"
        ) from None
    pinned = ", pinned" if wanted.pinned else ""
    if wanted.version == known.serving.version:
        typer.echo(f"version {wanted.version} of {layout.lineage} serves{pinned}, as before")
        return
    typer.echo(
        f"version {wanted.version} of {layout.lineage} is to serve in the place of {known.serving.version}{pinned}: a "
        "running service brings it level and goes over to it (its log and /readyz say so)"
    )


def _existing(store: ObjectStore, layout: Layout, version: int) -> Layout:
    if version not in (known := versions.numbers(store, layout)):
        raise ConfigError(f"there is no version {version} of {layout.lineage}, only {', '.join(map(str, known))}")
    return layout.of_version(version)


def _check_can_serve(store: ObjectStore, layout: Layout) -> None:
    """Raises ConfigError unless the version can be brought level: it is complete, has a checkpoint, and there are all
    plans after that. A checkpoint alone may be what an attempt to train it has left, which the next one removes.
    """
    newest = _newest_checkpoint(store, layout)
    if not versions.is_complete(store, layout) or (newest is None and layout.version != FIRST_VERSION):
        raise ConfigError(
            f"version {layout.version} has no checkpoint that could be restored: it is still being trained, failed, or "
            "was removed as one of the oldest (HEADRACE_RETRAIN_VERSIONS_KEPT)"
        )
    after = newest if newest is not None else -1
    if not history.continues(store, layout, after):
        raise ConfigError(
            f"version {layout.version} stands at plan {after}, and the plans after it were collected without an "
            "archive (HEADRACE_STREAM_ARCHIVE): it cannot be brought level"
        )


def _newest_checkpoint(store: ObjectStore, layout: Layout) -> int | None:
    newest = None
    for seq, key in checkpoint.complete(store, layout):
        try:
            checkpoint.read_manifest(store, key)
        except CheckpointInvalid:
            continue
        newest = seq
    return newest


def _cancel(store: ObjectStore, layout: Layout) -> Version:
    newest = versions.newest(store, layout)
    if not newest.open:
        raise ConfigError("no retrain is under way")
    place = layout.of_version(newest.number)
    versions.close(store, place, Result("cancelled", "headrace retrain --cancel", _now()))
    return versions.read(store, place)


def _wait(store: ObjectStore, layout: Layout, *, quiet: bool) -> Version:
    """Until the version is trained and judged. Says when it is begun."""
    attempts, began = 0, time.monotonic()
    while True:
        version = versions.read(store, layout)
        if not version.attempts and not quiet and version.open and time.monotonic() - began > _UNHEARD_SECONDS:
            began = math.inf  # once
            typer.echo(
                "no service has begun it yet: does one run, and is HEADRACE_RETRAIN_ENABLED true there?", err=True
            )
        if version.attempts > attempts:
            attempts = version.attempts
            if not quiet:
                typer.echo(f"version {version.number} is being trained (attempt {attempts})")
        if not version.open:
            return version
        time.sleep(_POLL_SECONDS)


def _row(store: ObjectStore, layout: Layout, serving: Serving) -> dict[str, Any]:
    version = versions.read(store, layout)
    duel = version.trained.duel if version.trained is not None else None
    request = version.request
    return {
        "version": layout.version,
        "state": _state(version, serving),
        "when": (version.result.at if version.result else request.asked if request else "") or None,
        "checkpoint": _newest_checkpoint(store, layout),
        "mrr20": round(duel.mrr, 4) if duel is not None and duel.clicks else None,
        "live_mrr20": round(duel.live_mrr, 4) if duel is not None and duel.clicks else None,
        "clicks": duel.clicks if duel is not None else None,
        "reason": request.reason if request is not None else "learned from the stream alone",
    }


def _state(version: Version, serving: Serving) -> str:
    if version.number == serving.version:
        return "serves, pinned" if serving.pinned else "serves"
    if version.open:
        return "training" if version.attempts else "asked for"
    if version.number in serving.before:
        return "served before"
    if version.result is None:
        return "never served"
    return "rolled back" if version.result.outcome == "promoted" else version.result.outcome


def _short(value: Any) -> Any:
    return str(value)[:16].replace("T", " ") if isinstance(value, str) and value[4:5] == "-" else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
