"""Staged clicks as `headrace verify` sees them: those that plans name must be as written, the others are orphans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stream.errors import NotFound
from stream.ports import ObjectInfo, ObjectStore
from stream.verify.forms import Breach, Malformed, PlanDoc, RangeDoc, StagedDoc
from stream.verify.reading import Rows, beside, check_bytes, staged_rows


@dataclass(frozen=True, slots=True)
class Taken:
    """What is staged for one range. `rows`: None where it cannot be read, for the reason in `breach`."""

    rows: Rows | None
    breach: Breach | None = None


class Staging:
    """Reads what plans name, and finds what no plan names by walking each partition's listing beside its plans.

    Both rise with the offsets, so one place per partition is all that is remembered. `read` is called with the size of
    each object that verified, `orphan` with each that nobody names.
    """

    def __init__(
        self, store: ObjectStore, root: str, read: Callable[[int], None], orphan: Callable[[ObjectInfo], None]
    ) -> None:
        self._store, self._home = store, f"{root}/stage/"
        self._read, self._orphan = read, orphan
        self._folders: dict[str, Iterator[ObjectInfo]] = {}
        self._next: dict[str, ObjectInfo | None] = {}

    def take(self, key: str, plan: PlanDoc, planned: RangeDoc, staged: StagedDoc) -> Taken:
        """The clicks of a range of the plan at `key`."""
        place = planned.partition, planned.start, planned.end
        folder = f"{self._home}{plan.topic}/{planned.partition}/"
        plain = f"{folder}{planned.start:020d}-{planned.end:020d}"
        if staged.key not in {f"{plain}.parquet", f"{plain}.{staged.sha256[:16]}.parquet"}:
            what = f"its clicks are said to lie at {staged.key!r:.200}"
            return Taken(None, Breach("foreign_key", key, what, *place))
        self._named(folder, staged.key)
        try:
            data = self._store.get_range(staged.key, 0, staged.size + 1)
            check_bytes(data, staged.size, staged.sha256)
        except NotFound:
            return Taken(None, Breach("staged_missing", staged.key, "there is no such object", *place))
        except Malformed as error:
            return Taken(None, Breach("staged_altered", staged.key, str(error), *place))
        self._read(len(data))
        return _clicks(data, staged, place)

    def rest(self) -> None:
        """All plans are read: what has not been named will not be."""
        for folder, left in self._folders.items():
            info = self._next[folder]
            while info is not None:
                self._orphan(info)
                info = next(left, None)
        for info in beside(self._store, self._home, set(self._folders)):
            self._orphan(info)

    def _named(self, folder: str, key: str) -> None:
        """A plan names `key`; what comes before it in its folder is named by nobody."""
        if folder not in self._folders:
            self._folders[folder] = self._store.list(folder)
            self._next[folder] = next(self._folders[folder], None)
        while (info := self._next[folder]) is not None and info.key <= key:
            if info.key < key:
                self._orphan(info)
            self._next[folder] = next(self._folders[folder], None)


def _clicks(data: bytes, staged: StagedDoc, place: tuple[int, int, int]) -> Taken:
    try:
        rows = staged_rows(data)
    except Malformed as error:
        return Taken(None, Breach("staged_form", staged.key, str(error), *place))
    if len(rows) != staged.rows:
        what = f"it has {len(rows)} clicks, its plan says {staged.rows}"
        return Taken(rows, Breach("staged_rows", staged.key, what, *place))
    return Taken(rows)
