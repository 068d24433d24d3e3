"""Plans come into being here, one after the other, each create-once: the commit point of the stream.

A refused create is not yet a defeat. The reply to one's own successful write may have been lost, so what lies in the
slot is read back: with one's own nonce in it, the write has happened; with another's, another writer owns the lineage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stream import plans
from stream.errors import Conflict, Fenced, NotFound, PreconditionFailed
from stream.events import CutReason, Plan, PlannedRange
from stream.naming import Layout
from stream.patience import Patience
from stream.ports import Clock, ObjectStore

ASLEEP_SECONDS = 30.0
"""After a longer pause than this the planner looks whether it has been replaced meanwhile.

Far below any grace period.
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest plan of a lineage: its seq (-1: none), the SHA-256 of its bytes, and the epoch of its writer."""

    seq: int
    sha256: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Slots:
    """Where plans go: the store, the lineage's keys, and how to persist. `nonce` answers a fresh unguessable text."""

    store: ObjectStore
    layout: Layout
    topic: str
    clock: Clock
    patience: Patience
    nonce: Callable[[], str]


class Planner:
    """Writes the plan after `head`, and remembers it as the new head."""

    def __init__(self, slots: Slots, head: Head) -> None:
        self._slots = slots
        self._wrote = slots.clock.monotonic()
        self.head = head

    def fence(self, ranges: tuple[PlannedRange, ...]) -> Plan:
        """Take the lineage over: an empty plan under the next epoch. Raises Fenced when another writer was faster."""
        return self._create(ranges, "fence", self.head.epoch + 1)

    def commit(self, ranges: tuple[PlannedRange, ...], cut: CutReason) -> Plan:
        """Commit to a batch. Raises Fenced when another writer has taken the lineage over."""
        return self._create(ranges, cut, self.head.epoch)

    def check(self) -> None:
        """Look, while there is nothing to plan, whether another writer has planned: an idle service is Fenced too."""
        key = self._slots.layout.plan(self.head.seq + 1)
        try:
            found = plans.decode(plans.read(self._slots.store, key), key)
        except NotFound:
            return
        raise Fenced(
            f"plan {found.seq} of lineage {found.lineage} was written by another process (epoch {found.epoch}). This "
            "process has been replaced and stops; make sure that only one runs."
        )

    def _create(self, ranges: tuple[PlannedRange, ...], cut: CutReason, epoch: int) -> Plan:
        slots, head = self._slots, self.head
        if slots.clock.monotonic() - self._wrote > ASLEEP_SECONDS and head.seq >= 0:
            slots.patience.call(f"look for plan {head.seq}", self._check_not_overslept)
        plan = Plan(
            slots.layout.lineage,
            head.seq + 1,
            epoch,
            slots.nonce(),
            head.sha256,
            cut,
            int(slots.clock.now() * 1000),
            slots.topic,
            ranges,
        )
        data = plans.encode(plan)
        slots.patience.call(f"create plan {plan.seq}", lambda: self._put(plan, data))
        self.head = Head(plan.seq, plans.sha256(data), epoch)
        self._wrote = slots.clock.monotonic()
        return plan

    def _check_not_overslept(self) -> None:
        """A writer that slept (stopped, swapped out) while another took over, went on, and collected its garbage would
        find its slot empty again. But then its own newest plan is gone as well, which nobody else would remove.
        """
        key = self._slots.layout.plan(self.head.seq)
        try:
            self._slots.store.head(key)
        except NotFound:
            raise Fenced(
                f"{key}, this process's newest plan, has been collected by another one: this process slept while it "
                "was replaced, and stops; make sure that only one runs."
            ) from None

    def _put(self, plan: Plan, data: bytes) -> None:
        key = self._slots.layout.plan(plan.seq)
        try:
            self._slots.store.put(key, data, if_absent=True)
        except PreconditionFailed:
            found = self._found(key)
            if found.nonce != plan.nonce:
                raise Fenced(
                    f"plan {plan.seq} of lineage {plan.lineage} was written by another process (epoch {found.epoch}, "
                    f"ours is {plan.epoch}). This process has been replaced and stops; make sure that only one runs."
                ) from None

    def _found(self, key: str) -> Plan:
        """The plan in a slot that was refused. Raises Conflict when there is none: the store must be asked again."""
        try:
            return plans.decode(plans.read(self._slots.store, key), key)
        except NotFound as error:
            raise Conflict(f"{key} was refused as existing, and is not there") from error
