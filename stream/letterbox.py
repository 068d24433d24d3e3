"""`headrace dlq`: dead letters listed, shown, told again, purged. What is listed names no user; `show` shows bytes."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from stream.errors import ConfigError
from stream.terminal import Json, load, say, table

if TYPE_CHECKING:
    from stream.letters import Choice, Letter

app = typer.Typer(no_args_is_help=True, help="Dead letters: what was rejected, with its original bytes.")
Reason = Annotated[list[str] | None, typer.Option("--reason", help="Only of this reason; may be given again.")]
Since = Annotated[str | None, typer.Option(help="Only written at or after this time (ISO 8601, UTC).")]
Until = Annotated[str | None, typer.Option(help="Only written before this time.")]
Topic = Annotated[str | None, typer.Option(help="Source topic; else HEADRACE_KAFKA_TOPIC.", show_default=False)]
File = Annotated[
    Path | None, typer.Option(help="Read the letters of a `--replay` from its .rejects.jsonl.", show_default=False)
]


@app.command("list")
def list_letters(
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the oldest first.")] = 100,
    topic: Topic = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """List dead letters: where each message stood, why and when it was rejected; then how many there are by reason."""
    found = list(map(_row, _letters(_choice(reason, since, until), topic, file)))
    rows = found[:limit]
    if as_json:
        say({"letters": rows, "reasons": _counts(found), "total": len(found)})
    elif rows:
        table(rows, f"{len(rows):,} of {len(found):,} dead letters")
        typer.echo(", ".join(f"{name}: {count:,}" for name, count in _counts(found).items()))
    else:
        typer.echo("no dead letters of that kind")


@app.command()
def show(
    place: Annotated[str, typer.Argument(help="topic/partition/offset, as `list` names it.")],
    file: File = None,
    as_json: Json = False,
) -> None:
    """Show one letter whole: headers and original bytes. They may hold what a user did."""
    from stream.letters import Choice

    topic = place.rsplit("/", 2)[0] or None
    letter = next((each for each in _letters(Choice(), topic, file) if each.place == place), None)
    if letter is None:
        raise ConfigError(f"there is no dead letter of {place}: `headrace dlq list` names those that there are")
    row = _row(letter)
    headers = [[name, _text(value)] for name, value in letter.headers]
    if as_json:
        say({**row, "headers": headers, "value": _text(letter.value)})
        return
    for name, value in [*row.items(), *headers]:
        typer.echo(f"{name}: {value}")
    typer.echo(_text(letter.value) if letter.value is not None else "(no value)")


@app.command()
def replay(
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    topic: Topic = None,
    as_json: Json = False,
) -> None:
    """Publish letters to their topic again, through the same decode. A letter is trained once, however often told.

    Letters stay where they are. An event without an id gets one made of where its message first stood, in a header.
    """
    from stream import wiring
    from stream.kafka import dlq

    settings = load({"kafka.topic": topic})
    kafka = wiring.kafka_settings(settings)
    letters = dlq.read(kafka, settings.kafka.dead_letter_topic, _choice(reason, since, until))
    done = dlq.replay(kafka, letters)
    if as_json:
        say({"replayed": done.replayed, "cut": done.cut, "foreign": done.foreign})
        return
    typer.echo(f"published {done.replayed:,} letters to {kafka.topic} again")
    if done.cut:
        typer.echo(f"{done.cut:,} were of messages too large to be kept whole, and were left out")
    if done.foreign:
        typer.echo(f"{done.foreign:,} were of another topic or of partitions that are gone, and were left out")


@app.command()
def purge(
    until: Until = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: they cannot be had back.")] = False,
    topic: Topic = None,
    as_json: Json = False,
) -> None:
    """Delete dead letters written before --until, or all. Kafka deletes from the beginning on, whatever the reason."""
    from stream import wiring
    from stream.kafka import dlq

    settings = load({"kafka.topic": topic})
    letters = settings.kafka.dead_letter_topic
    if not yes:
        what = f"written before {until}" if until else "that are there now"
        raise ConfigError(f"this deletes all letters of {letters} {what}, for good: say --yes to do it")
    done = dlq.purge(wiring.kafka_settings(settings), letters, _moment(until, "--until") if until else None)
    if as_json:
        say({"records": done.records, "next_offsets": done.next_offsets})
    else:
        typer.echo(f"deleted {done.records:,} records of {letters}")


def _letters(choice: Choice, topic: str | None, file: Path | None) -> Iterator[Letter]:
    if file is not None:
        return (letter for letter in _of_file(file) if choice.takes(letter))
    from stream import wiring
    from stream.kafka import dlq

    settings = load({"kafka.topic": topic})
    return dlq.read(wiring.kafka_settings(settings), settings.kafka.dead_letter_topic, choice)


def _choice(reason: list[str] | None, since: str | None, until: str | None) -> Choice:
    from stream.events import RejectReason
    from stream.letters import Choice

    unknown = sorted(set(reason or ()) - set(get_args(RejectReason)))
    if unknown:
        raise ConfigError(f"--reason {unknown[0]}: there is no such reason, only {', '.join(get_args(RejectReason))}")
    return Choice(
        frozenset(reason or ()),
        _moment(since, "--since") if since else 0,
        _moment(until, "--until") if until else 1 << 62,
    )


def _moment(text: str, option: str) -> int:
    """Milliseconds since the epoch; a time without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: not a time in ISO 8601, such as 2026-11-27T10:00:00Z") from error
    return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _row(letter: Letter) -> dict[str, Any]:
    """What may be seen of a letter by everybody: no bytes of the message."""
    when = datetime.fromtimestamp(max(letter.written, 0) / 1000, UTC)
    return {
        "when": when.isoformat(timespec="seconds").removesuffix("+00:00"),
        "place": letter.place,
        "reason": letter.reason,
        "bytes": letter.original_bytes or len(letter.value or b""),
        "whole": letter.is_whole,
        "decoder": letter.decoder,
    }


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many letters there are of each reason, the most frequent first."""
    return dict(Counter(row["reason"] for row in rows).most_common())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _of_file(path: Path) -> Iterator[Letter]:
    """The letters that `--replay` wrote beside it; the time of each is its message's."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield _of_line(line, f"{path}, line {number}")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _of_line(line: bytes, where: str) -> Letter:
    from stream.letters import Letter

    try:
        row = json.loads(line)
        headers = [(str(name), None if text is None else b64decode(text)) for name, text in row["headers"]]
        return Letter(
            str(row.get("topic", "")),
            int(row["partition"]),
            int(row["offset"]),
            str(row["reason"]),
            str(row.get("decoder", "1")),
            int(row["timestamp"]),
            int(row["timestamp"]),
            None if row["value"] is None else b64decode(row["value"]),
            headers,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where} is no dead letter: {error!r}") from error
