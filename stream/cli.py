"""The command line. Parses, delegates, prints; errors say what to do next, and each kind has its own exit code."""

from __future__ import annotations

import time

_STARTED = time.monotonic()

import os  # noqa: E402

# Before numpy is imported, here and, by inheritance, in an embedded Ray: one BLAS thread per process. More cost a
# factor of five on a busy machine, and results would depend on their number.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import sys  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from contextlib import suppress  # noqa: E402
from dataclasses import asdict, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Annotated, Any  # noqa: E402

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

from stream.backup.command import backup  # noqa: E402
from stream.errors import EXIT_CODES, ConfigError, HeadraceError  # noqa: E402
from stream.letterbox import app as letterbox  # noqa: E402
from stream.models import app as models  # noqa: E402
from stream.models import retrain  # noqa: E402
from stream.terminal import Json, Lineage, Store  # noqa: E402
from stream.terminal import load as _settings  # noqa: E402
from stream.terminal import say as _print  # noqa: E402
from stream.terminal import table as _table  # noqa: E402

if TYPE_CHECKING:
    from stream.verify.walk import Verdict

_EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="headrace",
    help="A recommender that learns from clicks as they happen: Kafka in, a live model, checkpoints on S3.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Names = Annotated[Path | None, typer.Option(help="Parquet, CSV or JSON with product_id and name.", show_default=False)]


def main() -> None:
    """Entry point: a `HeadraceError` becomes one message and its exit code; no error is printed with a secret in it."""
    threading.excepthook = lambda failed: _say_failed(failed.exc_value)
    try:
        app()
    except HeadraceError as error:
        sys.stderr.write(_masked(f"headrace: {error}\n"))
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - Python would print it too, but with whatever it holds
        _say_failed(error)
        sys.exit(1)


def _say_failed(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        sys.stderr.write(_masked("".join(traceback.format_exception(error))))


def _masked(text: str) -> str:
    from stream import log

    return log.masked(text)


@app.command(epilog=_EPILOG)
def run(
    replay: Annotated[
        Path | None, typer.Option(help="Learn from this Parquet or JSONL file in place of Kafka.", show_default=False)
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Events per second of --replay.", show_default=False)] = None,
    topic: Annotated[str | None, typer.Option(help="Else HEADRACE_KAFKA_TOPIC.", show_default=False)] = None,
    store: Store = None,
    lineage: Lineage = None,
    port: Annotated[int | None, typer.Option(help="Else HEADRACE_HTTP_PORT.", show_default=False)] = None,
    resume_from: Annotated[
        str | None,
        typer.Option(help="When retention has passed what comes next: `stop` or `earliest`.", show_default=False),
    ] = None,
) -> None:
    """Run the service: consume, learn, checkpoint, and answer /metrics, /healthz, /readyz and /v1/recommend.

    SIGTERM or Ctrl-C drains, checkpoints and exits 0; a second one exits at once, safely.
    """
    from stream import app as service

    settings = _settings(
        {
            "kafka.topic": topic,
            "store.location": store,
            "store.lineage": lineage,
            "http.port": port,
            "stream.resume_from": resume_from,
        }
    )
    service.run(settings, replay, rate, _STARTED)


@app.command()
def demo(
    events: Annotated[int | None, typer.Option(min=1, help="Stop after this many.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the model and of the order inside baskets.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Your own Parquet or JSONL in place of the purchases.", show_default=False)
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for store and log; emptied first.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Watch it learn from a year of real purchases, lose its learner half-way, and come back to the same model."""
    from stream.demo import play as show

    plan = show.Plan(events, seed, data, work or show.default_folder())
    result = show.play(plan, Console(stderr=as_json))
    if as_json:
        _print(result)


@app.command()
def train(
    incremental: Annotated[
        bool | None, typer.Option("--incremental/--full", help="Else INCREMENTAL_MODE.", show_default=False)
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Train from clickstream objects in the bucket: all of them, or only what is new. Writes the pickled model."""
    from stream.train import job

    job.main(_settings({"train.incremental": incremental, "store.location": store}), as_json=as_json)


@app.command()
def produce(
    file: Annotated[Path, typer.Argument(help="Parquet or JSON lines with user_id, product_id, timestamp.")],
    topic: Annotated[str | None, typer.Option(help="Else HEADRACE_KAFKA_TOPIC.", show_default=False)] = None,
    rate: Annotated[float | None, typer.Option(help="Events per second; else as fast as possible.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Of the topic, if it must be created.")] = 4,
    as_json: Json = False,
) -> None:
    """Publish a file of clicks to Kafka, keyed by user."""
    from stream import wiring
    from stream.kafka.produce import produce_file

    settings = _settings({"kafka.topic": topic})
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("publishing", total=None)
        done = produce_file(
            wiring.kafka_settings(settings),
            file,
            rate,
            lambda sent, of: bar.update(task, completed=sent, total=of),
            partitions,
        )
    if as_json:
        _print(asdict(done))
    else:
        if done.created:
            typer.echo(f"made the topic {settings.kafka.topic}, which was not there, with {partitions} partitions")
        typer.echo(
            f"published {done.messages:,} messages ({done.size:,} bytes) to {settings.kafka.topic} "
            f"in {done.seconds:.1f} s, {done.messages / max(done.seconds, 1e-9):,.0f} a second"
        )


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    top_n: Annotated[
        int | None, typer.Option("--top-n", min=1, max=1000, help="Else TOP_N.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask this running service instead of the store.", show_default=False)
    ] = None,
    names: Names = None,
    store: Store = None,
    lineage: Lineage = None,
    as_json: Json = False,
) -> None:
    """Top N for a user, from the newest checkpoint or from a running service."""
    from stream import inspect, wiring

    settings = _settings({"store.location": store, "store.lineage": lineage, "model.top_n": top_n})
    count = settings.model.top_n
    if url:
        answer = inspect.recommend_from_service(url, user, count)
    else:
        opened, layout = wiring.open_lineage(settings)
        answer = inspect.recommend_from_store(opened, layout, user, count)
    inspect.show(answer, inspect.load_names(names) if names else {}, as_json=as_json)


@app.command()
def explain(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    product: Annotated[
        str | None, typer.Argument(help="The product's id; else the one that ranks first.", show_default=False)
    ] = None,
    names: Names = None,
    store: Store = None,
    lineage: Lineage = None,
    as_json: Json = False,
) -> None:
    """Why a user would be shown a product, part by part, and the priorities learned so far."""
    from stream import explain as reasons
    from stream import inspect, wiring

    opened, layout = wiring.open_lineage(_settings({"store.location": store, "store.lineage": lineage}))
    found = reasons.from_store(opened, layout, user, product)
    reasons.show(found, inspect.load_names(names) if names else {}, as_json=as_json)


@app.command()
def checkpoints(store: Store = None, lineage: Lineage = None, as_json: Json = False) -> None:
    """List the checkpoints of a lineage, newest first."""
    from stream import inspect, wiring

    opened, layout = wiring.open_lineage(_settings({"store.location": store, "store.lineage": lineage}))
    rows = inspect.checkpoints(opened, layout)
    if as_json:
        _print(rows)
    elif rows:
        _table([_brief(row) for row in rows], f"checkpoints of lineage {layout.lineage}")
    else:
        typer.echo(f"lineage {layout.lineage} has no checkpoint yet, or there is no such lineage")


@app.command()
def verify(store: Store = None, lineage: Lineage = None, as_json: Json = False) -> None:
    """Prove that every stored offset is in exactly one of trained, rejected, duplicate; exit 1 at the first breach."""
    from stream import wiring
    from stream.verify import walk as checker

    settings = _settings({"store.location": store, "store.lineage": lineage})
    options = checker.Options(window=settings.stream.dedupe_window)
    store_to_read = wiring.open_to_read(settings)
    verdict = checker.prove(store_to_read, settings.store.prefix, settings.store.lineage or None, options)
    if as_json:
        _print(verdict.to_dict())
    else:
        _say_verdict(verdict)
    if verdict.breaches:
        raise typer.Exit(1)


app.command()(backup)
app.command()(retrain)
app.add_typer(models, name="models")
app.add_typer(letterbox, name="dlq")


@app.command()
def resume(store: Store = None, lineage: Lineage = None) -> None:
    """Close the circuit breaker of a running service: what was bad so far goes to the dead letters as usual."""
    from stream import resume as word
    from stream import wiring

    opened, layout = wiring.open_lineage(_settings({"store.location": store, "store.lineage": lineage}))
    word.say(opened, layout)
    typer.echo(
        f"told lineage {layout.lineage} to resume: a service whose circuit breaker is open notices within seconds "
        "(its log and /readyz say so); any other one goes on as it does"
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check configuration, Kafka, topic, store, Ray, clock and disk: one line each, with the remedy."""
    from stream.doctor import diagnose

    with suppress(ConfigError):  # which is the doctor's first finding
        _settings({})
    found = []
    for finding in diagnose():
        check = replace(finding, detail=_masked(finding.detail))
        found.append(asdict(check))
        if not as_json:
            mark = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}[check.state]
            typer.echo(f"{mark}  {check.name}: {check.detail}" + (f"\n      -> {check.remedy}" if check.remedy else ""))
    if as_json:
        _print(found)
    if any(check["state"] == "fail" for check in found):
        raise typer.Exit(1)


@app.command()
def config(as_json: Json = False) -> None:
    """Print the settings in force, secrets masked, and where each came from."""
    rows = [
        {"name": each.name, "value": each.value, "source": each.source, "meaning": each.description}
        for each in _settings({}).effective()
    ]
    if as_json:
        _print(rows)
    else:
        _table([{key: row[key] for key in ("name", "value", "source")} for row in rows], "settings in force")


def _say_verdict(verdict: Verdict) -> None:
    typer.echo(
        f"lineage {verdict.lineage}: {verdict.plans:,} plans, {verdict.trained:,} trained, "
        f"{verdict.rejected:,} rejected, {verdict.duplicates:,} duplicates, "
        f"{verdict.absent:,} offsets never delivered ({verdict.lost:,} lost to retention), "
        f"{verdict.archived:,} archived; "
        f"{verdict.checkpoints} checkpoints; {verdict.objects:,} objects ({verdict.bytes:,} bytes) verified; "
        f"{verdict.orphans:,} orphans (harmless)"
    )
    typer.echo(
        f"BROKEN in {verdict.breaches} places, the first: {verdict.first_breach}"
        if verdict.breaches
        else "every offset is in exactly one of trained, rejected, duplicate; all checksums are right"
    )


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's row for eighty columns: minutes (UTC), thousands apart, mebibytes, three decimals; without what
    fits into JSON only.
    """
    shown = {name: value for name, value in row.items() if name != "occupancy"}
    shown["when"] = str(row.get("when") or "")[:16].replace("T", " ")
    shown["size"] = f"{(row.get('size') or 0) / 2**20:,.1f}M"
    for name, value in shown.items():
        if isinstance(value, float):
            shown[name] = f"{value:.3f}"
        elif isinstance(value, int):
            shown[name] = f"{value:,}"
    return shown


if __name__ == "__main__":
    main()
