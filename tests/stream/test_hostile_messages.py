"""100,000 hostile messages through the real corridor and model: nothing stops, every offset has an outcome, and why."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest

from stream.batching import CutPolicy, PressurePolicy
from stream.breaker import BreakerPolicy
from stream.events import RejectReason
from stream.policy import CheckpointPolicy
from stream.verify.walk import prove
from tests.fakes import MemoryStore
from tests.hostile import evil
from tests.rigs import LAYOUT, RHYTHM, Rig, Row, folded

COUNT = 100_000
SEED = 17
REASONS = frozenset(get_args(RejectReason))


def event(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "product_id": "p", **fields}, ensure_ascii=False).encode()


Make = Callable[[random.Random], bytes | None]
HOSTILE: list[Make] = [
    lambda _: None,
    lambda _: b"",
    lambda _: evil(),
    lambda rng: rng.randbytes(rng.randrange(200)),
    lambda rng: b"[" * rng.randrange(1, 5000),
    lambda rng: b'{"user_id":' * rng.randrange(1, 3000),
    lambda rng: b"x" * rng.choice((65_536, 65_537, 70_000)),
    lambda rng: event(user_id="u" * rng.randrange(250, 262)),
    lambda rng: event(product_id="é" * rng.randrange(125, 132)),
    lambda rng: event(user_id=rng.choice(["", None, True, 1.5, [], {}, 10**300, -0.0])),
    lambda rng: event(product_id=rng.choice(["", None, False, 1e308, [[]], {"a": 1}, "\x00", "\u202e"])),
    lambda rng: event(timestamp=rng.choice([-1, 1e300, "yesterday", True, [], 10**19, 4_102_444_800, "nan", 10**400])),
    lambda rng: event(timestamp=rng.randrange(-(10**12), 10**15)),
    lambda rng: event(event_type=rng.choice(["", "v" * 64, "v" * 65, 3, None, "view\x00", "\U0001f600" * 17])),
    lambda rng: event(event_id=rng.choice(["", "e" * 256, "e" * 257, 1.5, None, 7])),
    lambda rng: event(**{f"more{place}": "y" for place in range(rng.randrange(500))}),
    lambda _: b'{"user_id":"u","product_id":"p","timestamp":NaN}',
    lambda _: b'{"user_id":"u","user_id":"v","product_id":"p"}',
    lambda _: b'{"user_id":"\\ud800","product_id":"p"}',
    lambda _: b'\xef\xbb\xbf{"user_id":"u","product_id":"p"}',
    lambda _: event() + event(),
    lambda _: "{'user_id':'u','product_id':'p'}".encode("utf-16"),
    lambda rng: event(user_id=f"u{rng.randrange(300)}", product_id=f"i{rng.randrange(300)}"),
    lambda rng: event(user_id=f"u{rng.randrange(9)}", event_id=f"e{rng.randrange(400)}"),
]


@cache
def messages(count: int) -> list[Row]:
    """So many hostile messages, and some of those again with a byte changed."""
    rng = random.Random(SEED)
    found: list[Row] = []
    for _ in range(count):
        data = rng.choice(HOSTILE)(rng)
        if data and rng.random() < 0.2:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        found.append(data)
    return found


@pytest.fixture(scope="module")
def ran() -> Rig:
    """A service that has been through all of them, with a small buffer."""
    store = MemoryStore()
    rhythm = replace(
        RHYTHM,
        cut=CutPolicy(rows=5000),
        pressure=PressurePolicy(high_bytes=8 << 20, low_bytes=4 << 20),
        checkpoint=CheckpointPolicy(batches=10, seconds=1e9, kept=1000, grace_seconds=1e9),
        breaker=BreakerPolicy(share=0.0),  # else it would rightly stop at once
        poll_events=2500,
    )
    rig = Rig(store, messages(COUNT), rhythm=rhythm)
    rig.run()
    return rig


def test_every_offset_has_its_outcome(ran: Rig) -> None:
    """The verifier, which shares no code with what wrote it, finds each offset in exactly one place."""
    verdict = prove(ran.store, LAYOUT.prefix, LAYOUT.lineage)

    assert verdict.breaches == 0, verdict.first_breach
    assert (verdict.trained + verdict.rejected + verdict.duplicates, verdict.absent) == (COUNT, 0)
    assert verdict.trained > 10_000
    assert verdict.duplicates > 1000


def test_every_reject_has_its_reason_and_bytes(ran: Rig) -> None:
    """Each letter is of one offset, carries one of the listed reasons, and the bytes as they came."""
    letters = ran.letters.letters
    verdict = prove(ran.store, LAYOUT.prefix, LAYOUT.lineage)
    original = {value for value in messages(COUNT) if not isinstance(value, dict)}
    reasons = Counter(letter.reason for letter in letters)

    assert len(letters) == len({(letter.partition, letter.offset) for letter in letters}) == verdict.rejected
    assert set(reasons) <= REASONS
    assert len(reasons) >= 15, reasons
    assert all(letter.value in original for letter in letters)


def test_no_user_is_told(ran: Rig) -> None:
    """What a reject says to a person quotes nobody's id."""
    assert not [letter.detail for letter in ran.letters.letters if "uuuu" in letter.detail or "éééé" in letter.detail]


def test_the_model_is_the_fold_of_its_plans(ran: Rig) -> None:
    """What was learned among all that is what a clean run over the plans learns."""
    assert ran.state() == folded(ran.store).state_sha256()
