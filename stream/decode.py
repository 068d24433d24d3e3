"""From a message's bytes to a click, or to a reject with a reason. Any bytes in, never an exception.

A chunk is decoded by columns (`decode_chunk`); only a chunk in which some message is not plainly right is taken message
by message (`decode_one`), which is also the definition of what is right. A test holds the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from stream.events import Decoded, Event, Int64, RawChunk, Reject, RejectReason

DECODER_VERSION = "1"
ID_BYTES_MAX = 256
TYPE_BYTES_MAX = 64
TIME_MS_MAX = 4_102_444_800_000
"""2100-01-01; a later time, or one before 1970, is absurd."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ZONED = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_UTF8_BYTES_PER_CHARACTER_MAX = 4
_UNITS = ((1e11, 1000.0, 1.0), (1e14, 1.0, 1.0), (1e17, 1.0, 1e3), (1e20, 1.0, 1e6))
"""Epoch numbers below the first figure are seconds, then milliseconds, microseconds, nanoseconds; times the second
figure, over the third, they are milliseconds."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_BYTES_MAX)]
Timestamp = str | int | float | None


class _Click(msgspec.Struct, gc=False):
    user_id: Text | int
    product_id: Text | int
    timestamp: Timestamp = None
    event_type: Text | None = None
    event_id: Text | int | None = None


_decode_click = msgspec.json.Decoder(_Click).decode


class _Refused(Exception):
    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: RejectReason = reason
        self.detail = detail


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
    return columns if columns is not None else _decode_singly(chunk, rules)


def decode_one(value: bytes | None, record_ms: int, rules: DecodeRules) -> Event | tuple[RejectReason, str]:
    """Decode one message: the click, or (reason, detail for a person). The detail never quotes an id."""
    try:
        return _decode_object(_fields(value, rules), record_ms, rules)
    except _Refused as refused:
        return refused.reason, refused.detail


def _decode_columns(chunk: RawChunk, rules: DecodeRules) -> Decoded | None:
    """The whole chunk at once; None when any message needs a closer look."""
    values = chunk.values
    try:
        if max(map(len, values), default=0) > rules.message_bytes_max:  # type: ignore[arg-type]
            return None
        clicks = [_decode_click(value) for value in values]  # type: ignore[arg-type]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
        return None
    users = [user if user.__class__ is str else str(user) for user in [click.user_id for click in clicks]]
    items = [item if item.__class__ is str else str(item) for item in [click.product_id for click in clicks]]
    default = rules.default_event_type
    types = [click.event_type or default for click in clicks]
    times = _times([click.timestamp for click in clicks], chunk.timestamps)
    event_ids = [click.event_id for click in clicks]
    if times is None or not all(_surely_short(column) for column in (users, items)) or _too_long(types):
        return None
    known = None if set(event_ids) <= {None} else [None if key is None else str(key) for key in event_ids]
    if known is not None and not _surely_short([key for key in known if key is not None]):
        return None
    times = _clamp(times, chunk.timestamps, rules)
    return Decoded(chunk.partition, chunk.offsets, users, items, types, times, known)


def _surely_short(column: Sequence[str]) -> bool:
    return max(map(len, column), default=0) * _UTF8_BYTES_PER_CHARACTER_MAX <= ID_BYTES_MAX


def _too_long(types: Sequence[str]) -> bool:
    return any(len(name.encode()) > TYPE_BYTES_MAX for name in set(types))


def _times(stamps: Sequence[Timestamp], record_ms: Int64) -> Int64 | None:
    """Milliseconds [n] where all stamps are numbers or all are missing; text is parsed one by one. None: look closer."""
    kinds = set(map(type, stamps))
    if kinds <= {type(None)}:
        return record_ms
    if kinds <= {int, float}:
        return _times_of_numbers(stamps)
    if kinds == {str} and (times := _times_of_texts(stamps)) is not None:
        return times
    try:
        return np.fromiter(
            (_time(stamp, int(record)) for stamp, record in zip(stamps, record_ms, strict=True)), np.int64, len(stamps)
        )
    except _Refused:
        return None


def _times_of_numbers(stamps: Sequence[Timestamp]) -> Int64 | None:
    numbers = np.array(stamps, np.float64)
    if not len(numbers):
        return np.empty(0, np.int64)
    if numbers.min() < 0 or numbers.max() >= _UNITS[-1][0]:
        return None
    units = np.array(_UNITS)
    _, factor, divisor = units[np.searchsorted(units[:, 0], numbers, side="right")].T
    times = np.rint(numbers * factor / divisor)
    return None if times.max() >= TIME_MS_MAX else times.astype(np.int64)


def _times_of_texts(stamps: Sequence[Timestamp]) -> Int64 | None:
    """ISO 8601 texts by Arrow, ten times faster than one by one; None where they are mixed or unusual."""
    zone = "UTC" if _ZONED.search(str(stamps[0])) else None
    try:
        micros = pa.array(stamps, pa.string()).cast(pa.timestamp("us", zone)).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    if micros.min() < 0 or micros.max() >= TIME_MS_MAX * 1000:
        return None
    return np.asarray(micros // 1000, np.int64)


def _clamp(times: Int64, record_ms: Int64, rules: DecodeRules) -> Int64:
    late = (times > record_ms + rules.future_ms_max) & (record_ms > 0)
    return np.where(late, record_ms, times) if late.any() else times


def _decode_singly(chunk: RawChunk, rules: DecodeRules) -> Decoded:
    kept: list[int] = []
    events: list[Event] = []
    rejects: list[Reject] = []
    for place, (value, offset, stamp) in enumerate(
        zip(chunk.values, chunk.offsets.tolist(), chunk.timestamps.tolist(), strict=True)
    ):
        result = decode_one(value, stamp, rules)
        if isinstance(result, Event):
            kept.append(place)
            events.append(result)
            continue
        headers = chunk.headers[place] if chunk.headers is not None else ()
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
    """The message's fields: strictly typed where it is right, else parsed at large to find out what is wrong with it."""
    if value is not None and len(value) <= rules.message_bytes_max:
        try:
            return msgspec.structs.asdict(_decode_click(value))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass
    return _parse(value, rules)


def _parse(value: bytes | None, rules: DecodeRules) -> dict[str, Any]:
    if value is None:
        raise _Refused("null_value", "the message has no value (a tombstone?)")
    if len(value) > rules.message_bytes_max:
        raise _Refused("too_large", f"{len(value)} bytes, at most {rules.message_bytes_max} are allowed")
    try:
        parsed = msgspec.json.decode(value)
    except RecursionError:
        raise _Refused("too_deep", "JSON nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _Refused("not_utf8", f"not UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.MsgspecError as error:
        raise _not_json(value, error) from None
    if not isinstance(parsed, dict):
        raise _Refused("not_an_object", f"a JSON object is expected, this is a {type(parsed).__name__}")
    return parsed


def _not_json(value: bytes, error: msgspec.MsgspecError) -> _Refused:
    try:
        value.decode()
    except UnicodeDecodeError as wrong:
        return _Refused("not_utf8", f"not UTF-8: {wrong.reason} at byte {wrong.start}")
    return _Refused("not_json", str(error))


def _decode_object(fields: dict[str, Any], record_ms: int, rules: DecodeRules) -> Event:
    user_id = _identifier(fields.get("user_id"), "missing_user_id", "empty_user_id", "user_id_too_long")
    product_id = _identifier(fields.get("product_id"), "missing_product_id", "empty_product_id", "product_id_too_long")
    time = _time(fields.get("timestamp"), record_ms)
    if record_ms > 0 and time > record_ms + rules.future_ms_max:
        time = record_ms
    event_type = fields.get("event_type")
    if event_type is not None and not isinstance(event_type, str):
        raise _Refused("wrong_type", f"event_type is a {type(event_type).__name__}, a string is expected")
    if event_type and len(event_type.encode()) > TYPE_BYTES_MAX:
        raise _Refused("event_type_too_long", f"event_type is longer than {TYPE_BYTES_MAX} bytes")
    event_id = fields.get("event_id")
    if event_id is not None and event_id != "":
        event_id = _identifier(event_id, "wrong_type", "wrong_type", "event_id_too_long")
    return Event(user_id, product_id, event_type or rules.default_event_type, time, event_id or None)


def _identifier(value: object, missing: RejectReason, empty: RejectReason, too_long: RejectReason) -> str:
    name = too_long.removesuffix("_too_long")
    if value is None:
        raise _Refused(missing, f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Refused("wrong_type", f"{name} is a {type(value).__name__}, a string or an integer is expected")
    text = value if isinstance(value, str) else str(value)
    if not text:
        raise _Refused(empty, f"{name} is empty")
    if len(text.encode()) > ID_BYTES_MAX:
        raise _Refused(too_long, f"{name} is longer than {ID_BYTES_MAX} bytes")
    return text


def _time(stamp: object, record_ms: int) -> int:
    """Milliseconds since the epoch, UTC; a time without a zone is UTC."""
    if stamp is None:
        return record_ms
    if isinstance(stamp, bool) or not isinstance(stamp, str | int | float):
        raise _Refused("wrong_type", f"timestamp is a {type(stamp).__name__}, ISO 8601 or an epoch number is expected")
    time = _time_of_text(stamp) if isinstance(stamp, str) else _time_of_number(stamp)
    if not 0 <= time < TIME_MS_MAX:
        raise _Refused("absurd_timestamp", "timestamp lies before 1970 or after 2099")
    return time


def _time_of_number(stamp: float) -> int:
    if not 0 <= stamp < _UNITS[-1][0]:
        raise _Refused("absurd_timestamp", "timestamp is negative or too large for an epoch number")
    number = float(stamp)
    factor, divisor = next((factor, divisor) for limit, factor, divisor in _UNITS if number < limit)
    return round(number * factor / divisor)


def _time_of_text(stamp: str) -> int:
    try:
        moment = datetime.fromisoformat(stamp)
        return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        pass
    try:
        return _time_of_number(float(stamp))
    except (ValueError, OverflowError):
        raise _Refused("bad_timestamp", "timestamp is neither ISO 8601 nor an epoch number") from None
