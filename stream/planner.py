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
"""When it is longer since the plan before, the planner looks whether it has been replaced meanwhile.

Far below any grace period: what is collected before this is over was replaced at least a grace period ago.
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
    """Writes the plan after `head`, and remembers it as the new head.

    `since`: monotonic seconds at which it was begun to look for `head`; None: just now.
    """

    def __init__(self, slots: Slots, head: Head, since: float | None = None) -> None:
        self._slots = slots
        self._wrote = slots.clock.monotonic() if since is None else since
        self.head = head

    def fence(self, ranges: tuple[PlannedRange, ...]) -> Plan:
        """Take the lineage over: an empty plan under the next epoch. Raises Fenced when another writer was faster."""
        return self._create(ranges, "fence", self.head.epoch + 1)

    def commit(self, ranges: tuple[PlannedRange, ...], cut: CutReason) -> Plan:
        """Commit to a batch. Raises Fenced when another writer has taken the lineage over."""
        return self._create(ranges, cut, self.head.epoch)

    def check(self) -> None:
        """Look, while there is nothing to plan, whether another writer has planned: an idle service is Fenced too.

        One that slept while the other went far on finds the next slot empty again, and its own newest plan gone.
        """
        key = self._slots.layout.plan(self.head.seq + 1)
        try:
            found = plans.decode(plans.read(self._slots.store, key), key)
        except NotFound:
            self._check_not_overslept()
            return
        raise Fenced(
            f"plan {found.seq} of lineage {found.lineage} was written by another process (epoch {found.epoch}). This "
            "process has been replaced and stops; make sure that only one runs."
        )

    def check_own(self, found: Head) -> None:
        """Raises Fenced unless `found`, the newest plan in the store, is our own newest."""
        if found != self.head:
            raise Fenced(
                f"the newest plan of lineage {self._slots.layout.lineage} is {found.seq} (epoch {found.epoch}), and "
                f"our own is {self.head.seq} (epoch {self.head.epoch}): this process has been replaced and stops; make "
                "sure that only one runs."
            )

    def _create(self, ranges: tuple[PlannedRange, ...], cut: CutReason, epoch: int) -> Plan:
        slots, head = self._slots, self.head
        if slots.clock.monotonic() - self._wrote > ASLEEP_SECONDS:
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
        if slots.clock.monotonic() - self._wrote > ASLEEP_SECONDS:
            slots.patience.call(f"look for plan {head.seq}", lambda: self._keep_or_take_back(plan.seq, data))
        self.head = Head(plan.seq, plans.sha256(data), epoch)
        self._wrote = slots.clock.monotonic()
        return plan

    def _keep_or_take_back(self, seq: int, data: bytes) -> None:
        """After a long while: the slot was empty, but because its plan had been collected? Then ours goes again.

        Looking before does not suffice: a request can be under way for as long as a process can sleep.
        """
        try:
            self._check_not_overslept()
        except Fenced:
            if not self._is_followed(seq, data):
                self._slots.store.delete(self._slots.layout.plan(seq))
            raise

    def _is_followed(self, seq: int, data: bytes) -> bool:
        """Whether another writer found our plan in time and went on from it: then it is part of the history."""
        key = self._slots.layout.plan(seq + 1)
        try:
            following = plans.decode(plans.read(self._slots.store, key), key)
        except NotFound:  # none, or collected; what is collected takes all before it along, ours too if it counted
            return False
        return following.previous_sha256 == plans.sha256(data)

    def _check_not_overslept(self) -> None:
        """A writer that slept (stopped, swapped out) while another took over, went on, and collected its garbage would
        find its slot empty again. But then its own newest plan is gone as well, which nobody else would remove.
        """
        if self.head.seq < 0:
            self._check_still_first()
            return
        key = self._slots.layout.plan(self.head.seq)
        try:
            self._slots.store.head(key)
        except NotFound:
            raise Fenced(
                f"{key}, this process's newest plan, has been collected by another one: this process slept while it "
                "was replaced, and stops; make sure that only one runs."
            ) from None

    def _check_still_first(self) -> None:
        """Before the first plan: nobody's later plan may be there."""
        layout = self._slots.layout
        later = next((info.key for info in self._slots.store.list(layout.plans, layout.plan(0))), None)
        if later is not None:
            raise Fenced(
                f"{later} is there: this process slept while another one began the lineage, and stops; make sure that "
                "only one runs."
            )

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
