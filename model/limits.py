"""How large the tables may get: caps in rows, the bytes that they stand for, and the marks at which something happens.

    rows <= free            every new id gets a row
    free < rows <= full     only ids seen often enough get one (`admission`)
    rows > full             after the batch, rows go until `kept` are left (`eviction`)

`kept` is not below `free`, so that pressure, once there, does not stop: else a flood would fill what was just cleared.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import LearnerConfig

ID_BYTES = 64
"""Bytes of an id's text that a row is granted on average; longer ids use up the room of several."""
CHUNKS_PER_USER = 4
"""Chunks of own items (8 each) that a user is granted on average."""
ID_OVERHEAD_BYTES = 300
"""What an id costs beside its text: a Python string, its place in two lists and two indexes."""
COPIES = 2
"""Every row is there twice: in the live tables and in the serving view."""
PROCESS_BYTES = 256 << 20
"""A process with numba and Ray in it, before it has a row."""
ROWS_MIN = 1000
"""A budget that leaves less than this of a table is refused."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one table: most `rows`, with the marks that follow."""

    rows: int

    @property
    def free(self) -> int:
        return self.rows // 2

    @property
    def full(self) -> int:
        return 19 * self.rows // 20

    @property
    def kept(self) -> int:
        return 4 * self.rows // 5


@dataclass(frozen=True, slots=True)
class RowBytes:
    """Bytes per row by its columns, once: of users, of items, of chunks of own items; and what does not grow."""

    user: int
    item: int
    chunk: int
    fixed: int

    @property
    def user_granted(self) -> int:
        """Bytes of a user with all that is granted, in all copies."""
        return COPIES * (self.user + CHUNKS_PER_USER * self.chunk + ID_BYTES) + ID_OVERHEAD_BYTES

    @property
    def item_granted(self) -> int:
        """The same of an item."""
        return COPIES * (self.item + ID_BYTES) + ID_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """Of both tables. `budget`: bytes that the learner's process may take, 0 for none."""

    users: Limit
    items: Limit
    budget: int


def limits(config: LearnerConfig, costs: RowBytes) -> Limits:
    """The configured caps, both lowered by one factor where full tables would not fit the budget.

    Raises `ValueError` for a budget that leaves less than `ROWS_MIN` rows of a table.
    """
    if not config.memory_bytes:
        return Limits(Limit(config.users_max), Limit(config.items_max), 0)
    wanted = config.users_max * costs.user_granted + config.items_max * costs.item_granted
    share = min(1.0, (config.memory_bytes - costs.fixed) / wanted)
    users, items = (int(share * most) for most in (config.users_max, config.items_max))
    if min(users, items) < min(ROWS_MIN, config.users_max, config.items_max):
        least = costs.fixed + int(wanted * ROWS_MIN / min(config.users_max, config.items_max)) + 1
        raise ValueError(
            f"memory_bytes={config.memory_bytes}: must be at least {least}, so that each table has {ROWS_MIN} rows; "
            "or 0 for no budget"
        )
    return Limits(Limit(users), Limit(items), config.memory_bytes)
