"""Files and iterables of clicks as rows: what they become, and what is refused by name."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.decode import DecodeRules, decode_one
from stream.errors import ConfigError
from stream.events import Event
from stream.replay.readers import open_rows

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
MOMENT_MS = 1_709_209_815_250
OLD = datetime(1971, 5, 4, 3, 2, 1, tzinfo=UTC)


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def decoded(line: bytes | None, record_ms: int = 0) -> Event:
    event = decode_one(line, record_ms, DecodeRules())
    assert isinstance(event, Event), event
    return event


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        (pa.array([MOMENT, OLD], pa.timestamp("us", "UTC")), [MOMENT_MS, 42_174_121_000]),
        (pa.array([MOMENT, MOMENT], pa.timestamp("ns", "Europe/Berlin")), [MOMENT_MS] * 2),
        (pa.array([MOMENT.replace(tzinfo=None)] * 2, pa.timestamp("ms")), [MOMENT_MS] * 2),
        (pa.array([date(2024, 2, 29)] * 2), [1_709_164_800_000] * 2),
        (pa.array([1_709_209_815, MOMENT_MS]), [1_709_209_815_000, MOMENT_MS]),
        (pa.array([1_709_209_815.25, 0.0]), [MOMENT_MS, 0]),
        (pa.array(["2024-02-29T12:30:15.250Z", "2024-02-29T13:30:15.250+01:00"]), [MOMENT_MS] * 2),
        (pa.array(["2024-02-29 12:30:15.250", None]), [MOMENT_MS, 0]),
        (pa.array([MOMENT, None], pa.timestamp("us", "UTC")), [MOMENT_MS, 0]),
        (None, [0, 0]),
    ],
)
def test_times_of_parquet(tmp_path: Path, stamps: Any, expected: list[int]) -> None:
    """Whatever kind a timestamp column is, the rows' times and the times that decoding finds in them are the same."""
    more = {"timestamp": stamps} if stamps is not None else {}
    rows = open_rows(parquet(tmp_path / "a.parquet", user_id=["u", "v"], product_id=["p", "q"], **more))

    assert rows.times.tolist() == expected
    assert [decoded(line).time for line in rows.lines(range(2))] == expected


def test_stamps_that_are_no_time(tmp_path: Path) -> None:
    """A stamp that decoding refuses gives a row no time; the others of its column keep theirs."""
    for stamps in ([-1.0, float("nan"), 9e19, None, 1.7e9], ["soon", "", "9999-01-01", None, "1700000000"]):
        rows = open_rows(parquet(tmp_path / "a", user_id=["u"] * 5, product_id=["p"] * 5, timestamp=stamps))

        assert rows.times.tolist() == [0, 0, 0, 0, 1_700_000_000_000]


def test_integer_ids_become_text(tmp_path: Path) -> None:
    """Integer ids become decimal strings, so that they are the same users as in JSON; other columns are left out."""
    path = parquet(
        tmp_path / "a.parquet",
        user_id=[12, 7],
        product_id=pa.array(["p", None]).dictionary_encode(),
        event_id=[1 << 60, 5],
        price=[1.5, 2.5],
    )
    rows = open_rows(path)

    assert [json.loads(line or b"") for line in rows.lines(np.array([1, 0]))] == [
        {"user_id": "7", "product_id": None, "event_id": "5"},
        {"user_id": "12", "product_id": "p", "event_id": str(1 << 60)},
    ]
    assert rows.keys(range(2)) == [b"12", b"7"]


def test_same_rows_from_every_kind(tmp_path: Path) -> None:
    """Parquet, JSON lines, dicts and bytes of the same clicks have the same hashes, times and keys."""
    dicts = [{"user_id": user, "product_id": "p", "timestamp": MOMENT_MS + n} for n, user in enumerate(["ä", "b", "ä"])]
    texts = [json.dumps(each).encode() for each in dicts]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(texts))
    table = parquet(tmp_path / "a.parquet", **{name: [each[name] for each in dicts] for name in dicts[0]})
    kinds = [open_rows(source) for source in (table, str(tmp_path / "a.jsonl"), iter(dicts), texts)]

    for rows in kinds:
        assert rows.hashes.tolist() == [crc32("ä".encode()), crc32(b"b"), crc32("ä".encode())]
        assert rows.times.tolist() == [MOMENT_MS, MOMENT_MS + 1, MOMENT_MS + 2]
        assert rows.keys(range(3)) == ["ä".encode(), b"b", "ä".encode()]
        assert [decoded(line) for line in rows.lines(range(3))] == [decoded(text) for text in texts]


def test_bad_lines_pass_through(tmp_path: Path) -> None:
    """Lines that are no clicks come out byte for byte, at their place, with the number an editor shows."""
    bad = [b"not json", b'{"user_id": 1.5}', b"\xff\xfe", b"[]", b"{}"]
    good = b'{"user_id":"u","product_id":"p"}'
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n  \n" + good + b"\r\n\n" + b"\n".join(bad))
    rows = open_rows(path)

    assert rows.lines(range(len(rows))) == [good + b"\r", *bad]
    assert [rows.line_number(index) for index in range(len(rows))] == [3, 5, 6, 7, 8, 9]
    assert rows.keys(range(3)) == [b"u", None, None]
    assert rows.hashes[1:].tolist() == [0] * 5


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "list"])
def test_limit(tmp_path: Path, kind: str) -> None:
    """A limit keeps the first rows."""
    dicts = [{"user_id": str(number), "product_id": "p"} for number in range(50)]
    source: Any = dicts
    if kind == "jsonl":
        source = tmp_path / "a.jsonl"
        source.write_text("\n".join(map(json.dumps, dicts)) + "\n")
    if kind == "parquet":
        source = parquet(tmp_path / "a", user_id=[row["user_id"] for row in dicts], product_id=["p"] * 50)

    assert open_rows(source, limit=3).keys(range(3)) == [b"0", b"1", b"2"]
    assert len(open_rows(source, limit=3)) == 3
    assert len(open_rows(source, limit=99)) == 50


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.jsonl", b"\n \n\n", "only blank lines"),
        ("a.parquet", b'{"user_id": 1}\n', "not a Parquet file .*name JSON lines .jsonl"),
        ("a.parquet", b"PAR1 and then nothing", "not a Parquet file that can be read"),
        ("a.json", b' [{"user_id": 1}]', r"one JSON array.*jq -c '.\[\]'"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "gunzip"),
    ],
)
def test_file_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """A file that holds no rows is refused with its path and what is wrong."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"{path}.*{said}"):
        open_rows(path)


def test_missing_file(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder, is refused by name."""
    with pytest.raises(ConfigError, match=r"nothing.parquet: there is no such file"):
        open_rows(tmp_path / "nothing.parquet")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        open_rows(tmp_path)


def test_missing_column(tmp_path: Path) -> None:
    """A Parquet without the columns is refused, naming those that are missing and those that are there."""
    path = parquet(tmp_path / "a.parquet", household=[1], product_id=[2])

    with pytest.raises(ConfigError, match=r"no column user_id; the file has: household, product_id. Rename"):
        open_rows(path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"user_id": [1.5]}, "column user_id is of type double"),
        ({"event_type": [True]}, "column event_type is of type bool"),
        ({"timestamp": [[1]]}, "column timestamp is of type list"),
        ({"user_id": pa.array([], pa.string()), "product_id": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_column_of_a_wrong_kind(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    """A column that cannot be what its name says is refused before anything is read from it."""
    path = parquet(tmp_path / "a.parquet", **{"user_id": ["u"], "product_id": ["p"], **columns})

    with pytest.raises(ConfigError, match=said):
        open_rows(path)


def test_row_that_is_no_json() -> None:
    """An object in an iterable that cannot be written as JSON is refused, naming its place."""
    with pytest.raises(ConfigError, match="row 1: cannot be written as JSON"):
        open_rows([{"user_id": "u"}, {"user_id": object()}])
