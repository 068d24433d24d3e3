"""Thrift's compact protocol, read without trust: bounded in depth and size, and exact where other readers are lax.

Parquet's footers and page headers are written in it. Arrow's own reader of them ends the process on some hostile ones,
so nothing that was read from outside reaches it before it has passed here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

BOOL: Final = 1
BYTE: Final = 3
I16: Final = 4
I32: Final = 5
I64: Final = 6
DOUBLE: Final = 7
BINARY: Final = 8
LIST: Final = 9
STRUCT: Final = 12

DEPTH_MAX: Final = 12
"""Parquet nests eight deep at most."""
_FALSE: Final = 2
_BITS: Final = {I16: 16, I32: 32, I64: 64}

Fields = dict[tuple[int, int], Any]
"""A struct's fields by (id, kind). An id is looked for in its own kind: in another it is not there, as for Arrow."""


class Unreadable(ValueError):
    """These bytes are not what they are said to be; the message says how."""


class Reader:
    """Reads `data` from `place` on. Raises Unreadable at the first byte that is wrong; never reads past the end."""

    def __init__(self, data: bytes | memoryview, place: int = 0) -> None:
        self._data = data
        self.place = place

    def struct(self, depth: int = 0) -> Fields:
        """The next struct. Ids must rise: which of two equal ones counts, readers may not agree on."""
        if depth > DEPTH_MAX:
            raise Unreadable("it is nested too deeply")
        found: Fields = {}
        last = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = last + step if step else self._integer(I16)
            if number <= last:
                raise Unreadable(f"field {number} comes after field {last}")
            last = number
            found[number, BOOL if kind == _FALSE else kind] = (
                kind == BOOL if kind <= _FALSE else self._value(kind, depth)
            )
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _BITS:
            return self._integer(kind)
        if kind == BINARY:
            return self._take(self._varint(32))
        if kind == LIST:
            return list(self._list(depth + 1))
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        raise Unreadable(f"there is a value of kind {kind}, which Parquet does not use")

    def _list(self, depth: int) -> Iterator[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint(32)
        if count > len(self._data) - self.place:  # each takes a byte at least
            raise Unreadable(f"a list is said to have {count} entries, more than there are bytes")
        for _ in range(count):
            yield self._byte() == BOOL if kind <= _FALSE else self._value(kind, depth)

    def _integer(self, kind: int) -> int:
        raw = self._varint(_BITS[kind])
        return (raw >> 1) ^ -(raw & 1)

    def _varint(self, bits: int) -> int:
        """An unsigned number of at most so many bits: what is wider, readers cut off in ways of their own."""
        byte = self._byte()
        value, shift = byte & 127, 0
        while byte >= 128:
            shift += 7
            if shift >= bits:
                raise Unreadable(f"a number has more than {bits} bits")
            byte = self._byte()
            value |= (byte & 127) << shift
        if value >> bits:
            raise Unreadable(f"a number has more than {bits} bits")
        return value

    def _byte(self) -> int:
        try:
            byte = self._data[self.place]
        except IndexError:
            raise Unreadable("it ends in the middle") from None
        self.place += 1
        return byte

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.place:
            raise Unreadable(f"a text is said to have {count} bytes, more than are left")
        self.place += count
        return bytes(self._data[self.place - count : self.place])
