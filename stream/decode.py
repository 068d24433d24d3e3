"""From a message's bytes to a click, or to a reject with a reason. Any bytes in, never an exception.

A chunk is decoded by columns (`decode_chunk`); only a piece of it in which some message is not plainly right is taken
message by message (`decode_one`), which is also the definition of what is right. A test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np

from model.batch import Int64
from stream import stamps
from stream.events import Decoded, Event, Headers, RawChunk, Reject, RejectReason
from stream.stamps import TIME_MS_MAX, Refused, Timestamp

DECODER_VERSION = "2"
REPLAY_HEADER = "headrace-event-id"
"""Of a message that was told again from its dead letter: its `event_id`, unless it has one of its own."""
ID_BYTES_MAX = 256
TYPE_BYTES_MAX = 64
_UTF8_BYTES_PER_CHARACTER_MAX = 4
_PIECE = 128
"""Where a chunk has an odd message, pieces of so many are tried, and only those with one are taken singly."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_BYTES_MAX)]


class _Click(msgspec.Struct, gc=False):
    user_id: Text | int
    product_id: Text | int
    timestamp: Timestamp = None
    event_type: Text | None = None
    event_id: Text | int | None = None


_decode_click = msgspec.json.Decoder(_Click).decode


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """What decoding must know.

    `message_bytes_max`: a larger message is rejected before it is parsed. `default_event_type`: stands in for a missing
    one. `future_ms_max`: an event time further than this after its record's own time is a producer's wrong clock; the
    record's time stands in.
    """

    message_bytes_max: int = 65_536
    default_event_type: str = "view"
    future_ms_max: int = 86_400_000


def decode_chunk(chunk: RawChunk, rules: DecodeRules) -> Decoded:
    """Decode every message of `chunk`; accepted clicks and rejects keep offset order."""
    columns = _decode_columns(chunk, rules)
    if columns is not None:
        return columns
    pieces = [chunk.slice(start, start + _PIECE) for start in range(0, len(chunk), _PIECE)]
    return _joined([_decode_columns(piece, rules) or _decode_singly(piece, rules) for piece in pieces])


def decode_one(
    value: bytes | None, record_ms: int, rules: DecodeRules, headers: Headers = ()
) -> Event | tuple[RejectReason, str]:
    """Decode one message: the click, or (reason, detail for a person). The detail never quotes an id.

    `record_ms`: the record's own time, which the producer may have set to anything; 0 or less is none.
    """
    try:
        event = _decode_object(_fields(value, rules), min(max(record_ms, 0), TIME_MS_MAX - 1), rules)
    except Refused as refused:
        return refused.reason, refused.detail
    return event if event.event_id is not None or not headers else replace(event, event_id=_replayed_id(headers))


def _decode_columns(chunk: RawChunk, rules: DecodeRules) -> Decoded | None:
    """The whole chunk at once; None when any message needs a closer look."""
    clicks = _clicks(chunk.values, rules)
    if clicks is None:
        return None
    users = [user if user.__class__ is str else str(user) for user in [click.user_id for click in clicks]]
    items = [item if item.__class__ is str else str(item) for item in [click.product_id for click in clicks]]
    types = [click.event_type or rules.default_event_type for click in clicks]
    event_ids = _event_ids(clicks, chunk.headers)
    columns = (users, items, [key for key in event_ids or () if key is not None])
    if not all(_short(column, ID_BYTES_MAX) for column in columns) or not _short(set(types), TYPE_BYTES_MAX):
        return None
    record_ms = np.clip(chunk.timestamps, 0, TIME_MS_MAX - 1)
    times = stamps.read_all([click.timestamp for click in clicks], record_ms)
    if times is None:
        return None
    return Decoded(chunk.partition, chunk.offsets, users, items, types, _clamp(times, record_ms, rules), event_ids)


def _clicks(values: Sequence[bytes | None], rules: DecodeRules) -> list[_Click] | None:
    try:
        if max(map(len, values), default=0) > rules.message_bytes_max:  # type: ignore[arg-type]
            return None
        return [_decode_click(value) for value in values]  # type: ignore[arg-type]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
        return None


def _event_ids(clicks: Sequence[_Click], headers: Sequence[Headers] | None) -> list[str | None] | None:
    keys = [click.event_id for click in clicks]
    if headers is not None:
        keys = [_replayed_id(own) if key is None else key for key, own in zip(keys, headers, strict=True)]
    return None if set(keys) <= {None} else [None if key is None else str(key) for key in keys]


def _replayed_id(headers: Headers) -> str | None:
    """The event id that `headrace dlq replay` gave a message that had none. What is no id is passed over."""
    for name, value in headers:
        if name == REPLAY_HEADER and value and len(value) <= ID_BYTES_MAX:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


def _short(column: Collection[str], limit: int) -> bool:
    """Whether no text has more than `limit` bytes; those that surely have not are not encoded to see."""
    sure = limit // _UTF8_BYTES_PER_CHARACTER_MAX
    if max(map(len, column), default=0) <= sure:
        return True
    return all(len(text) <= sure or len(text.encode()) <= limit for text in column)


def _clamp(times: Int64, record_ms: Int64, rules: DecodeRules) -> Int64:
    late = (times > record_ms + rules.future_ms_max) & (record_ms > 0)
    return np.where(late, record_ms, times) if late.any() else times


def _joined(pieces: Sequence[Decoded]) -> Decoded:
    event_ids = [key for piece in pieces for key in piece.event_ids or [None] * len(piece.users)]
    return Decoded(
        pieces[0].partition,
        np.concatenate([piece.offsets for piece in pieces]),
        [user for piece in pieces for user in piece.users],
        [item for piece in pieces for item in piece.items],
        [name for piece in pieces for name in piece.types],
        np.concatenate([piece.times for piece in pieces]),
        None if set(event_ids) <= {None} else event_ids,
        [reject for piece in pieces for reject in piece.rejects],
    )


def _decode_singly(chunk: RawChunk, rules: DecodeRules) -> Decoded:
    kept: list[int] = []
    events: list[Event] = []
    rejects: list[Reject] = []
    for place, (value, offset, stamp) in enumerate(
        zip(chunk.values, chunk.offsets.tolist(), chunk.timestamps.tolist(), strict=True)
    ):
        headers = chunk.headers[place] if chunk.headers is not None else ()
        result = decode_one(value, stamp, rules, headers)
        if isinstance(result, Event):
            kept.append(place)
            events.append(result)
            continue
        rejects.append(Reject(chunk.partition, offset, *result, value, headers, stamp))
    event_ids = [event.event_id for event in events]
    return Decoded(
        chunk.partition,
        chunk.offsets[np.array(kept, np.int64)],
        [event.user_id for event in events],
        [event.product_id for event in events],
        [event.event_type for event in events],
        np.array([event.time for event in events], np.int64),
        None if set(event_ids) <= {None} else event_ids,
        rejects,
    )


def _fields(value: bytes | None, rules: DecodeRules) -> dict[str, Any]:
    """The message's fields: strictly typed where it is right, else parsed at large to find out what is wrong."""
    if value is not None and len(value) <= rules.message_bytes_max:
        try:
            return msgspec.structs.asdict(_decode_click(value))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass
    return _parse(value, rules)


def _parse(value: bytes | None, rules: DecodeRules) -> dict[str, Any]:
    if value is None:
        raise Refused("null_value", "the message has no value (a tombstone?)")
    if len(value) > rules.message_bytes_max:
        raise Refused("too_large", f"{len(value)} bytes, at most {rules.message_bytes_max} are allowed")
    try:
        parsed = msgspec.json.decode(value)
    except RecursionError:
        raise Refused("too_deep", "JSON nested too deeply") from None
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise _not_json(value, error) from None
    if not isinstance(parsed, dict):
        raise Refused("not_an_object", f"a JSON object is expected, this is a {type(parsed).__name__}")
    return parsed


def _not_json(value: bytes, error: Exception) -> Refused:
    try:
        value.decode()
    except UnicodeDecodeError as wrong:
        return Refused("not_utf8", f"not UTF-8: {wrong.reason} at byte {wrong.start}")
    return Refused("not_json", str(error))


def _decode_object(fields: dict[str, Any], record_ms: int, rules: DecodeRules) -> Event:
    user_id = _identifier(fields.get("user_id"), "missing_user_id", "empty_user_id", "user_id_too_long")
    product_id = _identifier(fields.get("product_id"), "missing_product_id", "empty_product_id", "product_id_too_long")
    time = stamps.read(fields.get("timestamp"), record_ms)
    if record_ms > 0 and time > record_ms + rules.future_ms_max:
        time = record_ms
    event_type = fields.get("event_type")
    if event_type is not None and not isinstance(event_type, str):
        raise Refused("wrong_type", f"event_type is a {type(event_type).__name__}, a string is expected")
    if event_type and len(event_type.encode()) > TYPE_BYTES_MAX:
        raise Refused("event_type_too_long", f"event_type is longer than {TYPE_BYTES_MAX} bytes")
    event_id = fields.get("event_id")
    if event_id is not None and event_id != "":
        event_id = _identifier(event_id, "wrong_type", "wrong_type", "event_id_too_long")
    return Event(user_id, product_id, event_type or rules.default_event_type, time, event_id or None)


def _identifier(value: object, missing: RejectReason, empty: RejectReason, too_long: RejectReason) -> str:
    name = too_long.removesuffix("_too_long")
    if value is None:
        raise Refused(missing, f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("wrong_type", f"{name} is a {type(value).__name__}, a string or an integer is expected")
    text = value if isinstance(value, str) else str(value)
    if not text:
        raise Refused(empty, f"{name} is empty")
    if len(text.encode()) > ID_BYTES_MAX:
        raise Refused(too_long, f"{name} is longer than {ID_BYTES_MAX} bytes")
    return text
