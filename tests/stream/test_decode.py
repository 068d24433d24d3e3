"""Decoding: any bytes become a click or a reject with a reason, and the fast way says the same as the slow one."""

from __future__ import annotations

import json
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.decode import DecodeRules, decode_chunk, decode_one
from stream.events import Decoded, Event, RawChunk, Reject, RejectReason

RULES = DecodeRules(message_bytes_max=2000)
NOW = 1_700_000_000_000
REASONS = set(typing.get_args(RejectReason))
SECRET = "quote-me-not"
NESTED = b"[" * 900 + b"]" * 900
UNREADABLE = b"[" * 1900


def message(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "product_id": "p", **fields}, ensure_ascii=False).encode()


def chunk_of(values: list[bytes | None], records: list[int] | None = None) -> RawChunk:
    count = len(values)
    stamps = np.array(records if records is not None else [NOW] * count, np.int64)
    return RawChunk(3, np.arange(count, dtype=np.int64) * 2 + 10, stamps, values)


def rows(decoded: Decoded) -> list[tuple[int, Event]]:
    """A decoded chunk's clicks one by one."""
    ids = decoded.event_ids if decoded.event_ids is not None else [None] * len(decoded.users)
    columns = (decoded.users, decoded.items, decoded.types, decoded.times.tolist(), ids)
    return list(zip(decoded.offsets.tolist(), [Event(*row) for row in zip(*columns, strict=True)], strict=True))


# Each range of plain numbers is one unit; the odd ones lie on its borders, or are no time at all.
numbers = st.one_of(
    st.integers(1, 10**19),
    st.floats(1.0, 4.2e12),
    st.sampled_from(
        [10**11, 10**14, 10**17, 10**20 - 1, 10**20, 10**400, -1, 0, 0.5, -0.0, 1e300, 4_102_444_800, 2**63]
    ),
)
iso = st.datetimes().map(lambda moment: moment.isoformat())
zoned = st.tuples(iso, st.sampled_from(["Z", "+00:00", "+05:30", "-0800", "+01", "z"])).map("".join)
texts = st.one_of(
    iso,
    zoned,
    numbers.map(str),
    st.sampled_from(
        ["", "now", "nan", "inf", "1_7", "20240131", "2024-01", "1712010112345", "٢٠٢٤-01-01", "2024-01-01\x00"]
    ),
)
names: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["é" * 128, "é" * 129, "a" * 256, "a" * 257, "€" * 80, "😀" * 64, "😀" * 65, "\x00", "v" * 64, "v" * 65]
    ),
    st.integers(),
    st.sampled_from([10**255, 10**256, 0, True, False, None, 1.5, [], {}, ["u"]]),
)
fields = st.fixed_dictionaries(
    {"user_id": st.one_of(st.just("u"), names), "product_id": st.one_of(st.just("p"), names)},
    optional={
        "timestamp": st.one_of(numbers, texts, names),
        "event_type": st.one_of(st.sampled_from(["view", "purchase", ""]), names),
        "event_id": st.one_of(st.uuids().map(str), names),
        "other": st.one_of(names, st.recursive(st.none(), st.lists, max_leaves=3)),
    },
)
good = st.builds(
    lambda user, stamp, key: message(
        user_id=user, **({"timestamp": stamp} if stamp else {}), **({"event_id": key} if key else {})
    ),
    st.sampled_from(["u", "v", 7]),
    st.one_of(st.none(), st.integers(1, 1_700_000_000), zoned.filter(lambda text: text >= "1971"), iso),
    st.one_of(st.none(), st.text(min_size=1, max_size=4)),
)
odd = fields.map(lambda found: json.dumps(found, ensure_ascii=False).encode())
crafted = st.sampled_from(
    [
        None,
        b"",
        b"null",
        b"{}",
        b'{"user_id":"u","product_id":"p"',
        b'{"user_id":"\\ud800","product_id":"p"}',
        b'{"user_id":"u","product_id":"p","x":"\\udfff"}',
        b'{"user_id":"u\xff","product_id":"p"}',
        b'{"user_id":"u","product_id":"p","x":"\xff"}',
        b'{"user_id":"u","product_id":"p","\xff":1}',
        b'{"user_id":"u","user_id":null,"product_id":"p"}',
        b'{"user_id":1.5,"user_id":"u","product_id":"p"}',
        b'{"user_id":"u\n","product_id":"p"}',
        b'{"user_id":"u","product_id":"p","x":' + NESTED + b"}",
        b'{"user_id":"u","product_id":"p","x":' + UNREADABLE,
        b'{"user_id":"u","product_id":"p","timestamp":1e999}',
        b'{"user_id":"u","product_id":"p","timestamp":NaN}',
        b'{"user_id":' + b"9" * 1900 + b',"product_id":"p"}',
        message(x="y" * 2000),
        b"\xef\xbb\xbf" + message(),
    ]
)
values = st.one_of(good, good, odd, crafted, st.binary(max_size=30))


@given(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1))
def test_any_bytes_become_click_or_reject(value: bytes, record: int) -> None:
    """Whatever the bytes and the record's time: an Event of sane time, or a reason of the closed list."""
    result = decode_one(value, record, RULES)

    assert isinstance(result, Event) or result[0] in REASONS


@settings(max_examples=300)
@given(st.lists(st.tuples(values, st.one_of(st.just(NOW), st.sampled_from([-1, 0, 2**63 - 1, -(2**63)]))), max_size=12))
@example([(message(timestamp=10**400), NOW)])
@example([(message(timestamp=10**20 - 1), NOW)])
@example([(message(timestamp="2023-01-01T00:00:00Z"), 2**63 - 1), (message(), -(2**63))])
def test_a_chunk_decodes_as_its_messages(drawn: list[tuple[bytes | None, int]]) -> None:
    """Column by column or one by one: the same clicks, the same rejects, whatever is mixed in one chunk."""
    chunk = chunk_of([value for value, _ in drawn], [record for _, record in drawn])
    results = [decode_one(value, record, RULES) for value, record in drawn]
    placed = list(zip(chunk.offsets.tolist(), results, strict=True))

    decoded = decode_chunk(chunk, RULES)

    assert [(offset, result) for offset, result in placed if isinstance(result, Event)] == rows(decoded)
    assert [(offset, *result) for offset, result in placed if not isinstance(result, Event)] == [
        (reject.offset, reject.reason, reject.detail) for reject in decoded.rejects
    ]
    assert all(0 <= time < 4_102_444_800_000 for time in decoded.times.tolist())


@given(stamps=st.lists(st.one_of(iso, zoned, numbers.map(str)), min_size=1, max_size=30), valid=st.booleans())
def test_uniform_text_stamps_read_alike(stamps: list[str], *, valid: bool) -> None:
    """Arrow's reading of ISO text and Python's are the same to the millisecond, before 1970 and after 2099 too."""
    lasting = [stamp for stamp in stamps if "1970" <= stamp < "2100"] if valid else stamps
    chunk = chunk_of([message(timestamp=stamp) for stamp in lasting])

    decoded = decode_chunk(chunk, RULES)

    singly = [decode_one(value, NOW, RULES) for value in chunk.values]
    assert [event for _, event in rows(decoded)] == [result for result in singly if isinstance(result, Event)]


@given(st.sampled_from(["user_id", "product_id", "event_id"]), fields)
def test_details_never_quote_an_id(name: str, others: dict[str, Any]) -> None:
    """Rejects are logged: whatever is wrong with a message, its ids do not stand in the detail."""
    for secret in (SECRET, SECRET * 30, [SECRET], {SECRET: SECRET}):
        value = json.dumps({**others, name: secret}).encode()
        for damaged in (value, value[:-1], value.replace(b"-", b"\xff", 1), value + value):
            result = decode_one(damaged, NOW, RULES)

            assert isinstance(result, Event) or "quote" not in result[1]


def test_long_chunks_are_joined_in_order() -> None:
    """A few bad messages among hundreds cost only themselves; clicks, ids and headers stay with their offsets."""
    bad = {5, 130, 299}
    stream: list[bytes | None] = [message(user_id=str(at), event_id=None if at < 200 else at) for at in range(300)]
    chunk = chunk_of([b"?" if at in bad else value for at, value in enumerate(stream)])
    headers = [[("at", str(at).encode())] for at in range(300)]

    decoded = decode_chunk(RawChunk(3, chunk.offsets, chunk.timestamps, chunk.values, headers), RULES)

    kept = [at for at in range(300) if at not in bad]
    assert decoded.users == [str(at) for at in kept]
    assert decoded.offsets.tolist() == chunk.offsets[kept].tolist()
    assert decoded.event_ids == [None if at < 200 else str(at) for at in kept]
    assert decoded.rejects == [
        Reject(3, 10 + 2 * at, "not_json", decoded.rejects[0].detail, b"?", headers[at], NOW) for at in sorted(bad)
    ]


@pytest.mark.parametrize("user_id", ["x" * 256, "é" * 128, 10**255])
def test_ids_of_the_full_length_are_kept(user_id: str | int) -> None:
    """256 bytes are allowed, however many characters or digits that is."""
    event = decode_one(message(user_id=user_id, product_id=user_id, event_id=user_id), NOW, RULES)

    assert event == Event(str(user_id), str(user_id), "view", NOW, str(user_id))
