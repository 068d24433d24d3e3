"""`headrace verify`: proves, from what is stored alone and with code of its own, that every offset has one outcome.

It shares nothing with the code that wrote the lineage but the store's port, the errors and the lineage's prefix. It
reads plan after plan, with the checkpoints between them, and holds one plan's objects at a time, so a lineage may be of
any length. What is left over (orphans of crashes) is counted and harmless.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator

from stream.errors import ConfigError, HeadraceError, NotFound
from stream.naming import Layout, current_key, is_safe
from stream.ports import ObjectInfo, ObjectStore
from stream.verify.archive import GROUP, Archives
from stream.verify.checkpoints import Folder, check, folders, homes
from stream.verify.forms import (
    Breach,
    Malformed,
    ManifestDoc,
    PlanDoc,
    RangeDoc,
    parse_current,
    parse_plan,
    parse_serving,
)
from stream.verify.ledger import GAP, EventIds, Head, Ledger, account
from stream.verify.reading import Rows, beside, document, exists, first_key, sha256
from stream.verify.staging import Staging
from stream.verify.verdict import Options, Verdict

__all__ = ["Breach", "Options", "Verdict", "prove", "verify"]

_PLAN = re.compile(r"([0-9]{20})\.json")
_SERVING = "SERVING.json"
_RECORD = re.compile(r"version/[0-9]{6}/(request|trained|result|attempt)\.json(\.[0-9]+)?")


def verify(
    store: ObjectStore, prefix: str, lineage: str | None = None, options: Options | None = None
) -> Iterator[Breach]:
    """Every breach of a lineage, as it is found; none at the end means that the promise holds for all that is stored.

    `lineage` None: the one that CURRENT names. Raises ConfigError when there is no such lineage at all,
    StoreUnavailable and StoreRefused as the store does.
    """
    options = options or Options()
    current = _read_current(store, prefix)
    if lineage is None and isinstance(current, Breach):
        yield from _told([current], Verdict(""), options)
        return
    name = lineage or current
    if not isinstance(name, str) or not is_safe(name):
        raise ConfigError(_no_lineage(prefix, lineage))
    walk = _Walk(store, Layout(prefix, name).root, name, options)
    yield from _told(_check_current(store, prefix, current), walk.verdict, options)
    yield from _told(walk.breaches(), walk.verdict, options)
    options.told(walk.verdict)


def prove(store: ObjectStore, prefix: str, lineage: str | None = None, options: Options | None = None) -> Verdict:
    """The verdict at the end, all breaches counted, the first one in it. Raises as `verify` does."""
    options = options or Options()
    last = Verdict(lineage or "")

    def told(verdict: Verdict) -> None:
        nonlocal last
        last = verdict
        options.told(verdict)

    for _ in verify(store, prefix, lineage, Options(options.window, told)):
        pass
    return last


def _told(breaches: Iterable[Breach], verdict: Verdict, options: Options) -> Iterator[Breach]:
    for breach in breaches:
        verdict.breaches += 1
        verdict.first_breach = verdict.first_breach or breach
        options.told(verdict)
        yield breach


def _no_lineage(prefix: str, lineage: str | None) -> str:
    if lineage is not None:
        return f"{lineage!r} is no name of a lineage: 1 to 100 letters, digits, '.', '_' or '-'"
    return (
        f"{current_key(prefix)} does not exist, so no lineage serves yet: name one with --lineage, or check the bucket "
        "and the prefix"
    )


def _read_current(store: ObjectStore, prefix: str) -> str | Breach | None:
    key = current_key(prefix)
    try:
        name = parse_current(document(store, key))
    except NotFound:
        return None
    except Malformed as error:
        return Breach("current", key, str(error))
    return name if is_safe(name) else Breach("current", key, f"the lineage {name!r} cannot be one")


def _check_current(store: ObjectStore, prefix: str, current: str | Breach | None) -> Iterator[Breach]:
    if isinstance(current, Breach):
        yield current
    elif current is not None and first_key(store, f"{Layout(prefix, current).root}/") is None:
        yield Breach("current", current_key(prefix), f"it names lineage {current}, of which there is nothing")


class _Walk:
    """One pass over one lineage."""

    def __init__(self, store: ObjectStore, root: str, lineage: str, options: Options) -> None:
        self._store, self._root, self._lineage, self._options = store, root, lineage, options
        self.verdict = Verdict(lineage)
        self._ledger = Ledger()
        self._ids = EventIds(options.window)
        self._staging = Staging(store, root, self.verdict.read, self.verdict.orphan)
        self._archives = Archives(store, root, self._archived, self.verdict.orphan, self._ids.admit)
        self._first: int | None = None
        self._read_until = -1
        self._newest_checkpoint: dict[int, int] = {}
        self._homes = homes(store, root)
        self._late: set[int] = set()

    def breaches(self) -> Iterator[Breach]:
        self._late = self._late_plans()
        self._first = first = self._first_plan()
        if first is None and not any(first_key(self._store, f"{home}/checkpoint/") for home in self._homes.values()):
            raise ConfigError(
                f"there is no lineage {self._lineage}: {self._root}/ holds neither plans nor checkpoints. Check the "
                "bucket, the prefix and the lineage"
            )
        if first == 0:
            self._ledger.begin()
        yield from self._archives.read(first)
        if first is not None and self._archives.head is not None and self._archives.head.seq == first - 1:
            self._ledger.head = self._archives.head
        if first == self._archives.last + 1:
            yield from self._archives.settle(self._ledger)
        checkpoints = [self._checkpoints(version, home) for version, home in self._homes.items()]
        for _, _, step in heapq.merge(self._plans(), *checkpoints, key=lambda entry: entry[:2]):
            yield from self._checkpoint(step) if isinstance(step, Folder) else self._plan(step)
            self._options.told(self.verdict)
        yield from self._end()

    def _plans(self) -> Iterator[tuple[int, int, ObjectInfo | Folder]]:
        seq = -1
        for info in self._store.list(f"{self._root}/plan/"):
            seq = self._seq(info) if self._seq(info) is not None else seq  # type: ignore[assignment]
            yield seq, 0, info

    def _checkpoints(self, version: int, home: str) -> Iterator[tuple[int, int, ObjectInfo | Folder]]:
        for folder in folders(self._store, home, version):
            yield folder.seq, 1, folder

    def _late_plans(self) -> set[int]:
        """Plans that replaced writers put into slots whose plans were collected, and did not live to take back.

        Nobody reads them, and the next collection removes them. Each stands alone before all others: the rest of its
        group is gone, and a checkpoint stands beyond.
        """
        newest = max((folder.seq for folder in self._complete()), default=-1)
        found: set[int] = set()
        seqs = (seq for seq, _, _ in self._plans() if seq >= 0)
        seq = next(seqs, None)
        while seq is not None and (after := next(seqs, None)) is not None:
            if after == seq + 1 or after < (seq // GROUP + 1) * GROUP or newest < after - 1:
                break
            found.add(seq)
            seq = after
        return found

    def _complete(self) -> Iterator[Folder]:
        for version, home in self._homes.items():
            yield from (folder for folder in folders(self._store, home, version) if folder.manifest_key is not None)

    def _plan(self, info: ObjectInfo) -> Iterator[Breach]:
        seq = self._seq(info)
        if seq in self._late:
            self.verdict.orphan(info)
            return
        if seq is None:
            yield Breach("plan_stray", info.key, "it is no plan")
            return
        yield from self._missing(seq)
        try:
            data = document(self._store, info.key)
            yield from self._read_plan(info.key, seq, data)
        except NotFound:
            raise HeadraceError(f"{info.key} was collected while it was being verified: run verify again") from None
        except Malformed as error:
            yield Breach("plan_form", info.key, str(error))
            self._ledger.lose(None)
        if seq == self._archives.last:
            yield from self._archives.settle(self._ledger)

    def _missing(self, seq: int) -> Iterator[Breach]:
        """Is there a hole before `seq`, which is not the first plan?"""  # noqa: D400
        expected = self._read_until + 1 if self.verdict.plans else seq
        if seq > expected:
            what = f"there is no such plan ({seq - expected} missing, the next one is {seq})"
            yield Breach("plan_missing", self._plan_key(expected), what)
            self._ledger.lose(None)
        self._read_until = seq

    def _read_plan(self, key: str, seq: int, data: bytes) -> Iterator[Breach]:
        digest, ledger = sha256(data), self._ledger
        self.verdict.plan(seq, len(data))
        try:
            plan = parse_plan(data)
        except Malformed as error:
            yield Breach("plan_form", key, str(error))
            ledger.lose(Head(seq, digest))
            return
        if (plan.lineage, plan.seq) != (self._lineage, seq):
            yield Breach("plan_place", key, f"it says that it is plan {plan.seq} of lineage {plan.lineage}")
        yield from ledger.follow(key, self._plan_key(seq - 1) if self.verdict.plans > 1 else key, plan)
        yield from self._ranges(key, seq, plan)
        ledger.head = Head(seq, digest, plan.epoch, plan.topic)

    def _ranges(self, key: str, seq: int, plan: PlanDoc) -> Iterator[Breach]:
        found: dict[int, Rows] = {}
        staged = [planned for planned in plan.ranges if planned.staged is not None]
        for planned in plan.ranges:
            yield from self._take(key, seq, plan, planned, found)
            yield from self._ledger.join(key, planned)
            rows = found.get(planned.partition)
            yield from account(key, planned, rows)
            self._ledger.count(planned, rows)
            self.verdict.count(self._ledger.seen, planned.absent, lost=plan.cut == GAP)
        if seq <= self._archives.last:
            self._archives.walked(list(found.values()), whole=len(found) == len(staged))
        partitions = list(found)
        for group, offset, event_id in self._ids.admit(list(found.values())):
            what = f"event_id {event_id!r:.80} was trained before"
            yield Breach("event_id_twice", key, what, partitions[group], offset, offset + 1)

    def _take(self, key: str, seq: int, plan: PlanDoc, planned: RangeDoc, found: dict[int, Rows]) -> Iterator[Breach]:
        if planned.staged is None:
            return
        taken = self._staging.take(key, plan, planned, planned.staged)
        if taken.rows is not None:
            found[planned.partition] = taken.rows
        gone = taken.breach is not None and taken.breach.rule == "staged_missing"
        if taken.breach is not None and not (gone and self._is_being_collected(seq)):
            yield taken.breach

    def _is_being_collected(self, seq: int) -> bool:
        """Whether the collector crashed here: the oldest plan's clicks are gone, it is not yet, and nobody needs it."""
        first, end = self._first_plan(), (seq // GROUP + 1) * GROUP
        whole = (folder.seq for folder in self._complete())
        return (first is None or first >= seq) and any(each >= end for each in whole) and self._archives.has(seq)

    def _checkpoint(self, folder: Folder) -> Iterator[Breach]:
        checked = check(self._store, folder, self._lineage)
        for info in checked.strays:
            self.verdict.orphan(info)
        yield from checked.breaches
        if checked.manifest is None or folder.manifest_key is None:
            return
        self._newest_checkpoint[folder.version] = folder.seq
        self.verdict.checkpoint(checked.sizes)
        self.verdict.aside = checked.manifest.totals["aside"]
        yield from self._stand(folder.manifest_key, folder.seq, checked.manifest)

    def _stand(self, key: str, seq: int, manifest: ManifestDoc) -> Iterator[Breach]:
        """What the plans say of the checkpoint; those older than the oldest plan are remains of a collection."""
        first = self._first if self._first is not None else seq
        if seq == (self._read_until if self.verdict.plans else first - 1):
            yield from self._ledger.settle(key, manifest)
        elif seq >= first and not exists(self._store, self._plan_key(seq)):
            yield Breach("manifest_ahead", key, f"there is no plan {seq}")

    def _end(self) -> Iterator[Breach]:
        yield from self._serving()
        self._staging.rest()
        known = {f"{self._root}/{name}/" for name in ("plan", "stage", "checkpoint", "archive", "aside")}
        known |= {f"{home}/{name}/" for home in self._homes.values() for name in ("checkpoint", "aside")}
        for info in beside(self._store, f"{self._root}/", known):
            name = info.key.removeprefix(f"{self._root}/")
            if name != _SERVING and not _RECORD.fullmatch(name):
                self.verdict.orphan(info)

    def _serving(self) -> Iterator[Breach]:
        """Can the version that serves be restored, and learn all plans after that?"""  # noqa: D400
        key, version = f"{self._root}/{_SERVING}", 1
        try:
            version = parse_serving(document(self._store, key))
        except NotFound:
            pass  # none was ever retrained, promoted or pinned
        except Malformed as error:
            yield Breach("serving", key, str(error))
            return
        self.verdict.version = version
        newest, first = self._newest_checkpoint.get(version, -1), self._first or 0
        if newest < 0 and version != 1:
            yield Breach("serving", key, f"it names version {version}, which has no checkpoint")
        elif newest < first - 1 and not self._archives.has_plans(newest + 1, first - 1):
            what = f"the plans before {first} are gone, and the newest checkpoint of version {version} is {newest}"
            yield Breach("beginning", self._plan_key(first), what)

    def _archived(self, info: ObjectInfo, clicks: int) -> None:
        self.verdict.archived += clicks
        self.verdict.read(info.size)
        self._options.told(self.verdict)

    def _first_plan(self) -> int | None:
        return next((seq for seq, _, _ in self._plans() if seq >= 0 and seq not in self._late), None)

    def _seq(self, info: ObjectInfo) -> int | None:
        name = _PLAN.fullmatch(info.key.removeprefix(f"{self._root}/plan/"))
        return int(name[1]) if name is not None else None

    def _plan_key(self, seq: int) -> str:
        return f"{self._root}/plan/{seq:020d}.json"
