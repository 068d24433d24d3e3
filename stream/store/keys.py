"""What a key may look like so that every store can hold it, and listings put into the order that the port promises.

The rules are the intersection of what S3, MinIO, SeaweedFS and a file system keep faithfully: some of them fold `a//b`
into `a/b`, refuse `.` and `..`, or cannot hold a segment of more than 255 bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stream.errors import ConfigError
from stream.ports import ObjectInfo

KEY_BYTES_MAX = 1024
SEGMENT_BYTES_MAX = 255


def check_key(key: str) -> str:
    """The key, if every store can hold it and none can be led out of its root by it. Raises `ConfigError` naming it."""
    if not key:
        raise ConfigError("an object key is empty: give it a name, for example data/clickstream.json")
    _check_characters(key)
    for segment in key.split("/"):
        if segment in {"", ".", ".."}:
            raise ConfigError(
                f"object key {key!r} has a segment {segment!r}: keys are names joined by single slashes, with no slash "
                "at either end, and no '.' or '..'"
            )
        if len(segment.encode()) > SEGMENT_BYTES_MAX:
            raise ConfigError(f"object key {key!r} has a segment of more than {SEGMENT_BYTES_MAX} bytes: shorten it")
    return key


def _check_characters(key: str) -> None:
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in key):
        raise ConfigError(f"object key {key!r} has a control character or is not valid Unicode: use plain text")
    if len(key.encode()) > KEY_BYTES_MAX:
        raise ConfigError(f"object key {key[:60]!r}... has more than {KEY_BYTES_MAX} bytes: shorten it")


def check_prefix(prefix: str) -> str:
    """The prefix, if keys can begin with it: empty, or the beginning of a valid key. Raises `ConfigError` naming it."""
    if prefix:
        check_key(prefix.removesuffix("/") if prefix != "/" else prefix)
    return prefix


def early_start(prefix: str, start_after: str) -> str:
    """A place to begin a listing such that nothing greater than `start_after` is missed by any store; "" for the start.

    SeaweedFS lists as a tree walk: all of `a/...` before `a-b`, though '-' is less than '/'. Asked to begin after `a-b`
    it would leave out `a/...`. So begin before the first character, past the prefix, that is less than a slash.
    """
    if start_after <= prefix:
        return ""
    cut = next((at for at in range(len(prefix), len(start_after)) if start_after[at] < "/"), len(start_after))
    early = start_after[:cut]
    return early if early.endswith("/") else early[:-1]


class _Held(NamedTuple):
    key: str
    info: ObjectInfo


def ascending(rows: Iterable[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
    """`rows`, which come in key order or in the order of a tree walk below `prefix`, in key order.

    Holds back one subtree below the prefix's folder at most; a flat folder is passed through row by row.
    """
    base = prefix.rfind("/") + 1
    held: list[_Held] = []
    for info in rows:
        first = info.key[base:].split("/", 1)[0]
        # No later row of a tree walk is less than this entry's name followed by something.
        floor = info.key[:base] + first
        while held and held[0].key <= floor:
            yield heapq.heappop(held).info
        heapq.heappush(held, _Held(info.key, info))
        if info.key == floor:
            yield heapq.heappop(held).info
    while held:
        yield heapq.heappop(held).info
