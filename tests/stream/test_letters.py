"""Dead letters as data: what they say of themselves comes back, and what is told again is known again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stream import letters
from stream.cli import app
from stream.decode import DECODER_VERSION, ID_BYTES_MAX, REPLAY_HEADER, DecodeRules, decode_chunk, decode_one
from stream.dedupe import Window
from stream.errors import ConfigError
from stream.events import Event, RawChunk, Reject
from stream.letters import Choice, Letter
from stream.replay.source import FileDeadLetters

RULES = DecodeRules()
NOW = 1_700_000_000_000
header = st.tuples(
    st.one_of(st.text(max_size=6), st.sampled_from([letters.TOPIC, "headrace-reason", REPLAY_HEADER])),
    st.one_of(st.none(), st.binary(max_size=6)),
)


def click(**fields: object) -> bytes:
    return json.dumps({"user_id": "u17", "product_id": "p", **fields}).encode()


@given(st.lists(header, max_size=4), st.one_of(st.none(), st.binary(max_size=9)), st.booleans())
def test_letter_comes_back(own: list[tuple[str, bytes | None]], value: bytes | None, cut: bool) -> None:  # noqa: FBT001
    """Place, reason, time, bytes and the message's own headers, even where those are named as ours are."""
    reject = Reject(3, 2**40, "wrong_type", "said to a person", value, own, 1_700)

    letter = letters.parse(value, letters.headers(reject, "clicks", cut=cut), 99)

    own_bytes = [(name, text or b"") for name, text in own]
    size = len(value or b"") if cut else 0
    expected = Letter("clicks", 3, 2**40, "wrong_type", DECODER_VERSION, 1_700, 99, value, own_bytes, size)
    assert letter == expected


@given(st.lists(header, max_size=6), st.binary(max_size=9))
def test_any_record_is_a_letter_or_none(found: list[tuple[str, bytes | None]], value: bytes) -> None:
    """Whatever somebody else wrote into the topic is passed over."""
    letter = letters.parse(value, found, 5)

    assert letter is None or letter.written == 5


def test_no_user_in_headers() -> None:
    """What a letter says in its headers is of the place and the reason, never of the person."""
    value = click(user_id="secret-person", product_id=None)
    reason, detail = decode_one(value, NOW, RULES)  # type: ignore[misc]

    told = letters.headers(Reject(1, 2, reason, detail, value, (), NOW), "clicks", cut=False)

    assert b"secret-person" not in b"".join(text for _, text in told)
    assert "secret-person" not in detail


def told_again(letter: Letter, offset: int) -> RawChunk:
    """The letter's message as the source delivers it anew."""
    return RawChunk(
        letter.partition, np.array([offset]), np.array([NOW]), [letter.value], [letters.replayed_headers(letter)]
    )


def test_replayed_twice_is_trained_once() -> None:
    """Without an id of its own it gets one made of its place, in every replay the same; with one it keeps that."""
    window = Window(100)
    for letter in (
        Letter("clicks", 1, 7, "too_large", "1", 0, 0, click()),
        Letter("clicks", 1, 8, "too_large", "1", 0, 0, click(event_id="own")),
    ):
        first = window.split([decode_chunk(told_again(letter, 100), RULES)])
        window.advance(first.event_ids)
        second = window.split([decode_chunk(told_again(letter, 101), RULES)])

        assert first.event_ids == ["own" if letter.offset == 8 else "clicks/1/7"]
        assert first.duplicates == [[]]
        assert second.duplicates == [[101]]
        assert second.ranges[0].users == []


def test_rejected_again_keeps_its_id() -> None:
    """A letter of a message that was told again is the same message: whichever of the two is replayed, one counts."""
    first = Letter("clicks", 1, 7, "too_large", "1", 0, 0, click())
    again = Reject(1, 100, "too_large", "", first.value, letters.replayed_headers(first), 0)
    second = letters.parse(first.value, letters.headers(again, "clicks", cut=False), 0)

    assert second is not None
    assert dict(letters.replayed_headers(second))[REPLAY_HEADER] == b"clicks/1/7"


def test_long_place_still_makes_an_id() -> None:
    """A topic's name may be longer than an id may be."""
    letter = Letter("t" * 249, 2**31 - 1, 2**63 - 1, "too_large", "1", 0, 0, click())

    found = decode_chunk(told_again(letter, 0), RULES).event_ids

    assert found is not None
    assert found[0] is not None
    assert len(found[0]) <= ID_BYTES_MAX


@pytest.mark.parametrize("text", [None, b"", b"\xff", b"x" * 257])
def test_header_that_is_no_id_is_passed_over(text: bytes | None) -> None:
    """Headers are anybody's: a bad one costs the message nothing."""
    headers = [(REPLAY_HEADER, text)]
    chunk = RawChunk(0, np.arange(1), np.full(1, NOW), [click()], [headers])

    assert decode_one(click(), NOW, RULES, headers) == Event("u17", "p", "view", NOW)
    assert decode_chunk(chunk, RULES).event_ids is None


@given(st.lists(st.tuples(st.sampled_from([click(), click(event_id="e"), click(event_id=""), b"x", None]), header)))
def test_columns_and_single_messages_agree(drawn: list[tuple[bytes | None, tuple[str, bytes | None]]]) -> None:
    """With headers, too, the fast way says the same as the slow one."""
    values, headers = [value for value, _ in drawn], [[each] for _, each in drawn]
    chunk = RawChunk(0, np.arange(len(drawn)), np.full(len(drawn), NOW), values, headers)
    found = [decode_one(value, NOW, RULES, own) for value, own in zip(values, headers, strict=True)]
    events = [event for event in found if isinstance(event, Event)]

    decoded = decode_chunk(chunk, RULES) if drawn else None

    if decoded is not None:
        assert (decoded.event_ids or [None] * len(decoded.users)) == [event.event_id for event in events]


CHOICES = [
    (Choice(), True),
    (Choice(frozenset({"not_json"})), True),
    (Choice(frozenset({"too_large"})), False),
    (Choice(since=50), True),
    (Choice(since=51), False),
    (Choice(until=50), False),
    (Choice(until=51), True),
]


@pytest.mark.parametrize(("choice", "taken"), CHOICES, ids=range(len(CHOICES)))
def test_choice_by_reason_and_time(choice: Choice, taken: bool) -> None:  # noqa: FBT001
    """From `since` on, up to but not `until`, of any of the reasons given."""
    assert choice.takes(Letter("t", 0, 0, "not_json", "1", 0, 50, b"")) == taken


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The letters of a replay of a file."""
    path = tmp_path / "x.jsonl.rejects.jsonl"
    box = FileDeadLetters(path, "x.jsonl")
    box.send([Reject(0, 4, "not_json", "", b"secret-person", [("trace", b"\x01")], NOW)])
    box.send([Reject(1, 9, "null_value", "", None, (), NOW + 60_000)])
    box.close()
    return path


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["dlq", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_list_of_a_file(written: Path) -> None:
    """Where each stood, why, when and by which decoder; not a byte of what it said."""
    found = json.loads(invoke("list", "--file", str(written), "--json"))
    table = invoke("list", "--file", str(written))

    assert found["total"] == 2
    assert found["reasons"] == {"not_json": 1, "null_value": 1}
    assert [row["place"] for row in found["letters"]] == ["x.jsonl/0/4", "x.jsonl/1/9"]
    assert {row["decoder"] for row in found["letters"]} == {DECODER_VERSION}
    assert "not_json" in table
    assert "secret" not in table + json.dumps(found)


def test_list_by_reason_and_time(written: Path) -> None:
    """Filters of the command line are those of `Choice`."""
    by_reason = json.loads(invoke("list", "--file", str(written), "--reason", "null_value", "--json"))
    by_time = json.loads(invoke("list", "--file", str(written), "--until", "2023-11-14T22:13:30Z", "--json"))
    nothing = invoke("list", "--file", str(written), "--since", "2030-01-01")

    assert [row["reason"] for row in by_reason["letters"]] == ["null_value"]
    assert [row["reason"] for row in by_time["letters"]] == ["not_json"]
    assert "no dead letters" in nothing


def test_show_of_a_file(written: Path) -> None:
    """One letter whole, bytes and headers, on request."""
    shown = json.loads(invoke("show", "x.jsonl/0/4", "--file", str(written), "--json"))

    assert shown["value"] == "secret-person"
    assert shown["headers"] == [["trace", "\x01"]]
    assert "secret-person" in invoke("show", "x.jsonl/0/4", "--file", str(written))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--reason", "nope"], "no such reason"),
        (["list", "--since", "yesterday"], "ISO 8601"),
        (["purge"], "--yes"),
        (["show", "x/0/5", "--file", "{}"], "no dead letter of x/0/5"),
        (["list", "--file", "/nowhere"], "cannot be read"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], words: str, written: Path) -> None:
    """What is asked wrongly is refused before anything is done."""
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, ["dlq", *[each.format(written) for each in arguments]], catch_exceptions=False)


def test_file_that_holds_no_letters(tmp_path: Path) -> None:
    """The line that is none is named."""
    path = tmp_path / "x"
    path.write_text('{"partition": 1}\n')

    with pytest.raises(ConfigError, match="line 1 is no dead letter"):
        CliRunner().invoke(app, ["dlq", "list", "--file", str(path)], catch_exceptions=False)
