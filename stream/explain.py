"""Why a user is shown an item: the score taken apart, the clicks that speak for it, and the learned priorities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from model.learner import Learner
from model.ranking import Explanation
from stream.errors import ConfigError
from stream.inspect import newest
from stream.naming import Layout
from stream.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why `user` would be shown `product_id`.

    `score` in log-odds; `parts` add up to it; `clicks`: what each of the user's recent items brings of that, largest
    first. `position_priorities`: how much the last, last but one, ... click counts; `type_priorities`: by event type.
    `weights`: by how much each feature counts in every context.
    """

    user: str
    product_id: str
    score: float
    parts: dict[str, float]
    clicks: list[tuple[str, float]]
    position_priorities: list[float]
    type_priorities: dict[str, float]
    weights: dict[str, float]
    source: str


def from_store(store: ObjectStore, layout: Layout, user: str, product_id: str | None) -> Reasons:
    """By the newest checkpoint that verifies; without `product_id` for the item that ranks first.

    Raises ConfigError for a user or a product that the model does not know, and what `inspect.newest` raises.
    """
    manifest, learner = newest(store, layout)
    top = [item for item, _ in learner.recommend(user, 1)] if learner.items.ids else []
    item = product_id if product_id is not None else (top[0] if top else "")
    return _reasons(learner, user, item, _explained(learner, user, item), f"checkpoint {manifest.seq}")


def _explained(learner: Learner, user: str, item: str) -> Explanation:
    if user not in learner.users.index:
        raise ConfigError(
            f"the newest checkpoint does not know user {user!r}, who is shown what is popular (`headrace recommend`)"
        )
    if item not in learner.items.index:
        raise ConfigError(f"the newest checkpoint does not know product {item!r}: check the id as it stands in events")
    found = learner.explain_score(user, item)
    if found is None:
        raise ConfigError(f"user {user!r} has no clicks yet that could speak for {item!r}")
    return found


def _reasons(learner: Learner, user: str, item: str, found: Explanation, source: str) -> Reasons:
    positions = [round(float(value), 4) for value in learner.position_priorities]
    types = {name: round(value, 4) for name, value in learner.type_priorities.items()}
    weights = {name: round(value, 4) for name, value in learner.weights.items()}
    return Reasons(user, item, found.score, found.parts, found.clicks, positions, types, weights, source)


def show(reasons: Reasons, names: Mapping[str, str], *, as_json: bool) -> None:
    """Print the reasons: two tables and the priorities for people, or one JSON object."""
    if as_json:
        print(json.dumps(asdict(reasons) | {"name": names.get(reasons.product_id)}))  # noqa: T201 - the answer
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def table(heading: str, rows: list[tuple[str, float]]) -> Table:
        made = Table()
        made.add_column(heading)
        made.add_column("adds", justify="right")
        for name, share in rows:
            made.add_row(Text(name), f"{share:+.3f}")
        return made

    console = Console()
    title = f"{reasons.product_id} {names.get(reasons.product_id, '')}".strip()
    head = f"{title} for {reasons.user}, by {reasons.source}: score {reasons.score:.3f}"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    console.print(table("part", sorted(reasons.parts.items(), key=lambda pair: -abs(pair[1]))))
    clicks = [(f"{item} {names.get(item, '')}".strip(), share) for item, share in reasons.clicks]
    console.print(table("of that, by the user's recent item", clicks))
    console.print("a click counts, from the last one back:", reasons.position_priorities, highlight=False)
    console.print("and by its event type:", reasons.type_priorities, highlight=False)
