"""A dead letter: what it says of itself in its headers, how it is told again to the source topic, and how it is chosen.

A letter replayed carries an event id made of where its message first stood. So a second replay of it is a duplicate,
and so is the letter of a message that was replayed and rejected anew: it is trained once, if it ever is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from stream.decode import DECODER_VERSION, ID_BYTES_MAX, REPLAY_HEADER
from stream.events import Headers, Reject

TOPIC = "headrace-topic"
_ORIGINAL_BYTES = "headrace-original-bytes"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `topic`, `partition`, `offset`: where its message stood; `timestamp` of that message and
    `written` of the letter in milliseconds since the epoch; `original_bytes`: of a message too large to be kept whole,
    0 for any other; `headers`: the message's own.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    decoder: str
    timestamp: int
    written: int
    value: bytes | None
    headers: Headers = ()
    original_bytes: int = 0

    @property
    def place(self) -> str:
        """Where its message stood, as the command line names it."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def is_whole(self) -> bool:
        return not self.original_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: of one of `reasons` (empty: any), written in [since, until) milliseconds since the epoch."""

    reasons: frozenset[str] = frozenset()
    since: int = 0
    until: int = 1 << 62

    def takes(self, letter: Letter) -> bool:
        return self.since <= letter.written < self.until and (not self.reasons or letter.reason in self.reasons)


def headers(reject: Reject, source: str, *, cut: bool) -> list[tuple[str, bytes]]:
    """The message's own headers, then ours: where it stood, why it was rejected. No user is in them."""
    ours: dict[str, str | int] = {
        TOPIC: source,
        "headrace-partition": reject.partition,
        "headrace-offset": reject.offset,
        "headrace-timestamp": reject.timestamp,
        "headrace-reason": reject.reason,
        "headrace-decoder": DECODER_VERSION,
    }
    if cut:
        ours[_ORIGINAL_BYTES] = len(reject.value or b"")
    nulls = [name for name, value in reject.headers if value is None]
    if nulls:
        # kafka-python sends no null header; an empty one stands in, and this says for which.
        ours["headrace-null-headers"] = ",".join(nulls)
    original = [(name, value or b"") for name, value in reject.headers]
    return [*original, *((name, str(value).encode()) for name, value in ours.items())]


def parse(value: bytes | None, found: Headers, written: int) -> Letter | None:
    """The letter that a record of the dead-letter topic is; None when it is none of ours.

    Ours are the last headers: what a message itself brought under our names stands before them.
    """
    names = [name for name, _ in found]
    if TOPIC not in names:
        return None
    start = len(names) - 1 - names[::-1].index(TOPIC)
    ours = {name: (text or b"").decode(errors="replace") for name, text in found[start:]}
    try:
        return Letter(
            ours[TOPIC],
            int(ours["headrace-partition"]),
            int(ours["headrace-offset"]),
            ours["headrace-reason"],
            ours["headrace-decoder"],
            int(ours["headrace-timestamp"]),
            written,
            value,
            list(found[:start]),
            int(ours.get(_ORIGINAL_BYTES, 0)),
        )
    except (KeyError, ValueError):
        return None


def replayed_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """The headers under which a letter's message is told again: its own, and the id of where it first stood."""
    own = [(name, value or b"") for name, value in letter.headers]
    return own if REPLAY_HEADER in dict(own) else [*own, (REPLAY_HEADER, _identity(letter.place))]


def _identity(place: str) -> bytes:
    text = place.encode()
    return text if len(text) <= ID_BYTES_MAX else hashlib.sha256(text).hexdigest().encode()
