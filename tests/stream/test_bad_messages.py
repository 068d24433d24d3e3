"""The list of bad input, each with the reason under which it is set aside; and what is odd but right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from stream.decode import DecodeRules, decode_chunk, decode_one
from stream.events import Event, RawChunk

NOW = 1_700_000_000_000
DAY = 86_400_000
RULES = DecodeRules(message_bytes_max=2000)


def message(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "product_id": "p", **fields}, ensure_ascii=False).encode()


def without(name: str) -> bytes:
    return json.dumps({key: "x" for key in ("user_id", "product_id") if key != name}).encode()


REJECTED = [
    ("null_value", None),
    ("not_json", b""),
    ("not_json", b"not json"),
    ("not_json", b'{"user_id":"u","product_id":"p"'),
    ("not_json", message() + message()),
    ("not_json", b'{"user_id":"u\n","product_id":"p"}'),
    ("not_json", b'{"user_id":"\\ud800","product_id":"p"}'),
    ("not_json", b'{"user_id":"u","product_id":"p","timestamp":NaN}'),
    ("not_utf8", b"\xff\xfe{}"),
    ("not_utf8", b'{"user_id":"u\xff","product_id":"p"}'),
    ("not_utf8", b'{"user_id":"u","product_id":"\xc3\x28"}'),
    ("not_an_object", b"null"),
    ("not_an_object", b"17"),
    ("not_an_object", b'["user_id","product_id"]'),
    ("too_deep", b"[" * 1999),
    ("too_deep", b'{"user_id":' + b"[" * 1900),
    ("too_deep", b'{"user_id":"u","product_id":"p","x":' + b"[" * 1900),
    ("too_large", message(x="y" * 2000)),
    ("too_large", b"[" * 100_000),
    ("missing_user_id", b"{}"),
    ("missing_user_id", without("user_id")),
    ("missing_user_id", message(user_id=None)),
    ("missing_product_id", without("product_id")),
    ("missing_product_id", message(product_id=None)),
    ("empty_user_id", message(user_id="")),
    ("empty_product_id", message(product_id="")),
    ("user_id_too_long", message(user_id="x" * 257)),
    ("user_id_too_long", message(user_id="é" * 129)),
    ("user_id_too_long", message(user_id=10**256)),
    ("product_id_too_long", message(product_id="😀" * 65)),
    ("event_id_too_long", message(event_id="x" * 257)),
    ("event_type_too_long", message(event_type="x" * 65)),
    ("event_type_too_long", message(event_type="é" * 33)),
    ("wrong_type", message(user_id=True)),
    ("wrong_type", message(user_id=1.5)),
    ("wrong_type", message(product_id=["p"])),
    ("wrong_type", message(product_id={"id": "p"})),
    ("wrong_type", message(event_type=3)),
    ("wrong_type", message(event_id=1.5)),
    ("wrong_type", message(timestamp=True)),
    ("wrong_type", message(timestamp=[NOW])),
    ("bad_timestamp", message(timestamp="")),
    ("bad_timestamp", message(timestamp="yesterday")),
    ("bad_timestamp", message(timestamp="nan")),
    ("bad_timestamp", message(timestamp="1_700_000_000")),
    ("bad_timestamp", message(timestamp="2023-02-30T00:00:00Z")),
    ("absurd_timestamp", message(timestamp=-1)),
    ("absurd_timestamp", message(timestamp="-1")),
    ("absurd_timestamp", message(timestamp=10**20 - 1)),
    ("absurd_timestamp", message(timestamp=10**400)),
    ("absurd_timestamp", message(timestamp=4_102_444_800)),
    ("absurd_timestamp", message(timestamp="1969-12-31T23:59:59Z")),
    ("absurd_timestamp", message(timestamp="2100-01-01T00:00:00Z")),
]


@pytest.mark.parametrize(("reason", "value"), REJECTED, ids=range(len(REJECTED)))
def test_bad_message_gets_its_reason(reason: str, value: bytes | None) -> None:
    """Alone or among good ones: the message goes under its reason, and nothing else is lost."""
    chunk = RawChunk(0, np.arange(7, 10), np.full(3, NOW), [message(), value, message(user_id="v")])
    result = decode_one(value, NOW, RULES)

    decoded = decode_chunk(chunk, RULES)

    assert not isinstance(result, Event)
    assert reason == result[0]
    assert [(8, reason)] == [(reject.offset, reject.reason) for reject in decoded.rejects]
    assert decoded.users == ["u", "v"]


ACCEPTED = [
    (Event("u", "p", "view", NOW), message()),
    (Event("u", "p", "view", NOW), message(timestamp=None, event_type=None, event_id=None)),
    (Event("u", "p", "view", NOW), message(event_type="", event_id="")),
    (Event("u", "p", "juggled", NOW), message(event_type="juggled")),
    (Event("7", "-8", "view", NOW, "0"), message(user_id=7, product_id=-8, event_id=0)),
    (Event("\x00", " ", "view", NOW), b'{"user_id":"\\u0000","product_id":" "}'),
    (Event("v", "p", "view", NOW), b'{"user_id":1.5,"user_id":"v","product_id":"p"}'),
    (Event("u", "p", "view", NOW), b'{"user_id":"u","product_id":"p","unused":"\xff"}'),
    (Event("u", "p", "view", NOW), message(timestamp=NOW + DAY + 1)),
    (Event("u", "p", "view", NOW + DAY), message(timestamp=NOW + DAY)),
]


@pytest.mark.parametrize(("event", "value"), ACCEPTED, ids=range(len(ACCEPTED)))
def test_odd_message_is_still_a_click(event: Event, value: bytes) -> None:
    """What is missing or empty has a default, what is unknown is kept, and a future time becomes the record's own."""
    decoded = decode_chunk(RawChunk(0, np.arange(1), np.full(1, NOW), [value]), RULES)

    assert event == decode_one(value, NOW, RULES)
    assert (decoded.users, decoded.items, decoded.types) == ([event.user_id], [event.product_id], [event.event_type])
    assert (decoded.times.tolist(), decoded.event_ids or [None]) == ([event.time], [event.event_id])


SAME_MOMENT = [
    1_699_999_999,
    1_699_999_999.0,
    1_699_999_999_000,
    1_699_999_999_000_000,
    1_699_999_999_000_000_000,
    "1699999999",
    "1699999999.0",
    "1699999999000",
    "1.699999999e9",
    "2023-11-14T22:13:19",
    "2023-11-14T22:13:19Z",
    "2023-11-14 22:13:19.000+00:00",
    "2023-11-15T03:43:19+05:30",
    "2023-11-14T14:13:19-0800",
    "20231114T221319Z",
]


@pytest.mark.parametrize("stamp", SAME_MOMENT, ids=repr)
def test_stamp_of_any_unit_reads_alike(stamp: str | float) -> None:
    """Seconds, milliseconds, microseconds, nanoseconds or ISO 8601, as number or text; without a zone it is UTC."""
    assert Event("u", "p", "view", NOW - 1000) == decode_one(message(timestamp=stamp), NOW, RULES)


def test_digits_are_no_medieval_date() -> None:
    """1712010112345 is a moment of 2024, though ISO 8601 could read a day of 1712 in it; eight digits are a day."""
    stamps = ["1712010112345", "20231114"]

    events = [decode_one(message(timestamp=stamp), 0, RULES) for stamp in stamps]

    assert [Event("u", "p", "view", 1_712_010_112_345), Event("u", "p", "view", 1_699_920_000_000)] == events


@pytest.mark.parametrize(("record", "time"), [(-1, 0), (-(2**63), 0), (2**63 - 1, 4_102_444_799_999)])
def test_absurd_record_time_is_bounded(record: int, time: int) -> None:
    """A producer can set the record's own time to anything; what stands in for a missing time is bounded."""
    stamped = decode_one(message(timestamp=NOW), record, RULES)

    assert Event("u", "p", "view", time) == decode_one(message(), record, RULES)
    assert Event("u", "p", "view", NOW) == stamped
