"""Bad lines of an object of clicks: counted, the first ones shown, all of them kept on disk as JSON lines."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from typing import IO

import msgspec

from stream.events import Reject

SHOWN = 5


class Rejects:
    """Rejects of one object, in order, in `file`. A reject's `offset` is its line number, counted from 1."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []

    def extend(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            self.file.write(msgspec.json.encode(_row(reject)) + b"\n")
            if len(self.first) < SHOWN:
                self.first.append(f"line {reject.offset:,}: {reject.reason}: {reject.detail}")
        self.count += len(rejects)
        self.reasons.update(reject.reason for reject in rejects)


def _row(reject: Reject) -> dict[str, object]:
    """The original as text where it is UTF-8, else as base64."""
    value = reject.value or b""
    row: dict[str, object] = {"line": reject.offset, "reason": reject.reason, "detail": reject.detail}
    try:
        return row | {"text": value.decode()}
    except UnicodeDecodeError:
        return row | {"base64": b64encode(value).decode()}
