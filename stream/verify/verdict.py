"""What `headrace verify` answers, and what it can be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stream.ports import ObjectInfo
from stream.verify.forms import Breach

_SAMPLE = 20


@dataclass(slots=True)
class Verdict:
    """What was found so far. Events are those of the plans that are still there; `archived`: clicks in the archive.

    `version`: of the model, the one that serves. `aside`: clicks that the newest checkpoint counts as set aside, of all
    that were ever planned. `lost`: those of the `absent` that retention took before they were read, and that a plan of
    their own records.

    `objects`, `bytes`: read and verified. `orphans`, `orphan_bytes`: objects that nothing names, harmless;
    `orphan_keys`: the first of them. `first_breach`: None while there is none.
    """

    lineage: str
    version: int = 1
    plans: int = 0
    trained: int = 0
    rejected: int = 0
    duplicates: int = 0
    absent: int = 0
    lost: int = 0
    archived: int = 0
    aside: int = 0
    checkpoints: int = 0
    objects: int = 0
    bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    orphan_keys: list[str] = field(default_factory=list)
    breaches: int = 0
    first_breach: Breach | None = None
    first_seq: int | None = None
    last_seq: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can carry, the first breach with its meaning and as one sentence."""
        found = asdict(self)
        if (first := self.first_breach) is not None:
            found["first_breach"] |= {"meaning": first.meaning, "text": str(first)}
        return found

    def plan(self, seq: int, size: int) -> None:
        """Count a plan that was read."""
        self.plans += 1
        self.first_seq = seq if self.first_seq is None else self.first_seq
        self.last_seq = seq
        self.read(size)

    def count(self, seen: Mapping[str, int], absent: int, *, lost: bool = False) -> None:
        """The events by outcome so far, and the absent ones of one more range; `lost`: to retention."""
        self.trained, self.rejected, self.duplicates = seen["trained"], seen["rejected"], seen["duplicates"]
        self.absent += absent
        self.lost += absent if lost else 0

    def checkpoint(self, sizes: Sequence[int]) -> None:
        """Count a checkpoint whose objects have these sizes."""
        self.checkpoints += 1
        for size in sizes:
            self.read(size)

    def read(self, size: int) -> None:
        """Count an object that verified."""
        self.objects += 1
        self.bytes += size

    def orphan(self, info: ObjectInfo) -> None:
        """Count an object that nothing names."""
        self.orphans += 1
        self.orphan_bytes += info.size
        self.orphan_keys += [info.key] if len(self.orphan_keys) < _SAMPLE else []


@dataclass(frozen=True, slots=True)
class Options:
    """`window`: event ids that dedupe remembers, as the service was configured (the least, if that ever changed).

    `told`: called after each plan and checkpoint with the verdict so far, which goes on changing.
    """

    window: int = 100_000
    told: Callable[[Verdict], None] = lambda _verdict: None
