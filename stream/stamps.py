"""Time stamps as producers write them: ISO 8601 text, or seconds, milliseconds, microseconds or nanoseconds.

A column is read at once where it is uniform (`read_all`); `read` takes one stamp, and is also the definition of what is
right. A test holds the two equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from model.batch import Int64
from stream.events import RejectReason

TIME_MS_MAX = 4_102_444_800_000
"""2100-01-01; a later time, or one before 1970, is absurd."""


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, to the second, UTC: for records that people read."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ZONED = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_BASIC_DATE_DIGITS = 8
"""Text of so many digits is a date (20240131): as epoch seconds it would lie in 1971 at the latest."""

_UNITS = ((1e11, 1000.0, 1.0), (1e14, 1.0, 1.0), (1e17, 1.0, 1e3), (1e20, 1.0, 1e6))
"""Epoch numbers below the first figure are seconds, then milliseconds, microseconds, nanoseconds; times the second
figure, over the third, they are milliseconds."""

Timestamp = str | int | float | None


class Refused(Exception):
    """A message cannot be a click, for this reason; the detail is for a person, and quotes no id."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: RejectReason = reason
        self.detail = detail


def read_all(stamps: Sequence[Timestamp], record_ms: Int64) -> Int64 | None:
    """Milliseconds [n] of n stamps; a missing one is its `record_ms`. At once where all are alike, else one by one.

    None when a stamp must be refused: `read` says which, and why.
    """
    kinds = set(map(type, stamps))
    if kinds <= {type(None)}:
        return record_ms
    if kinds <= {int, float}:
        return _times_of_numbers(stamps)
    if kinds == {str} and (times := _times_of_texts(stamps)) is not None:
        return times
    try:
        return np.fromiter(
            (read(stamp, int(record)) for stamp, record in zip(stamps, record_ms, strict=True)), np.int64, len(stamps)
        )
    except Refused:
        return None


def _times_of_numbers(stamps: Sequence[Timestamp]) -> Int64 | None:
    try:
        numbers = np.array(stamps, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        return None
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


def read(stamp: object, record_ms: int) -> int:
    """Milliseconds since the epoch, UTC; a time without a zone is UTC."""
    if stamp is None:
        return record_ms
    if isinstance(stamp, bool) or not isinstance(stamp, str | int | float):
        raise Refused("wrong_type", f"timestamp is a {type(stamp).__name__}, ISO 8601 or an epoch number is expected")
    time = _time_of_text(stamp) if isinstance(stamp, str) else _time_of_number(stamp)
    if not 0 <= time < TIME_MS_MAX:
        raise Refused("absurd_timestamp", "timestamp lies before 1970 or after 2099")
    return time


def _time_of_number(stamp: float) -> int:
    try:
        number = float(stamp)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not 0 <= number < _UNITS[-1][0]:
        raise Refused("absurd_timestamp", "timestamp is negative or too large for an epoch number")
    factor, divisor = next((factor, divisor) for limit, factor, divisor in _UNITS if number < limit)
    return round(number * factor / divisor)


def _time_of_text(stamp: str) -> int:
    """Numbers first: ISO 8601 can read 1712010112345 as a quarter to midnight in the year 1712."""
    if len(stamp) != _BASIC_DATE_DIGITS and _NUMBER.fullmatch(stamp):
        return _time_of_number(float(stamp))
    try:
        moment = datetime.fromisoformat(stamp)
        return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise Refused("bad_timestamp", "timestamp is neither ISO 8601 nor an epoch number") from None
