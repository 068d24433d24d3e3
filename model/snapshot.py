"""A learner as named arrays and back: what a checkpoint is made of. Views out, copies in, nothing that can run code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.batch import Strings
from model.config import LearnerConfig
from model.learner import Learner
from model.parts.neighbours import MEMBERS
from model.state import LIMITED, State
from model.table import Array, Table

FORMAT = 4
"""Raised whenever an older reader could misread what a newer writer wrote."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`parts`: arrays by part ("users", "items", "types", "chunks", "sessions", "weights", "rings", "admission") and
    name. `ids`: of the rows of "users", "items", "types", in order. `meta`: plain values that JSON can carry: format,
    config, random generators.

    What `dump` returns are views: they change when the learner learns on. Copy or write them before that.
    """

    parts: dict[str, dict[str, Array]]
    ids: dict[str, Strings]
    meta: dict[str, Any]


def dump(learner: Learner) -> Snapshot:
    """The learner's whole state, exactly the rows in use, nothing copied."""
    state = learner.state
    parts: dict[str, dict[str, Array]] = {name: rows.kept() for name, rows in state.columns().items()}
    parts["weights"] = dict(state.arrays())
    parts["rings"] = _rings(state)
    parts["admission"] = {
        f"{name}_{kind}": array
        for name, sketch in zip(LIMITED, state.sketches, strict=True)
        for kind, array in (("seen", sketch.counts), ("noted", sketch.noted))
    }
    meta = {
        "format": FORMAT,
        "config": state.config.to_dict(),
        "learn_random": state.learn_random.bit_generator.state,
        "score_random": state.score_random.bit_generator.state,
    }
    return Snapshot(parts, {name: table.strings for name, table in state.tables().items()}, meta)


def load(snapshot: Snapshot) -> Learner:
    """A learner that goes on exactly where the dumped one stood. Raises `ValueError` naming what does not fit."""
    if snapshot.meta.get("format") != FORMAT:
        raise ValueError(f"snapshot format {snapshot.meta.get('format')!r}: this version reads format {FORMAT}")
    learner = Learner(LearnerConfig.from_dict(_entry(snapshot.meta, "config", "meta")))
    state = learner.state
    for name, table in state.tables().items():
        # A table without a single id may be absent from the ids; the arrays, which are not, show it if it was lost.
        ids = snapshot.ids.get(name, Strings.of([]))
        _fill_table(name, table, ids, _entry(snapshot.parts, name, "parts"))
    for name in ("chunks", "sessions"):
        part = _entry(snapshot.parts, name, "parts")
        state.columns()[name].resize(max(map(len, part.values()), default=0))
        _fill_part(name, state.columns()[name].kept(), part)
    _fill_part("weights", dict(state.arrays()), _entry(snapshot.parts, "weights", "parts"))
    _fill_rings(state, _entry(snapshot.parts, "rings", "parts"))
    _fill_sketches(state, _entry(snapshot.parts, "admission", "parts"))
    _check_rows(state)
    for name in ("learn_random", "score_random"):
        _fill_random(name, getattr(state, name), _entry(snapshot.meta, name, "meta"))
    return learner


def digest(learner: Learner) -> str:
    """sha256 in hex over all that `dump` returns, names, shapes and dtypes included: equal for equal states."""
    snapshot, total = dump(learner), hashlib.sha256()
    total.update(json.dumps(snapshot.meta, sort_keys=True).encode())
    named = {f"{part}/{name}": array for part, arrays in snapshot.parts.items() for name, array in arrays.items()}
    for name, ids in snapshot.ids.items():
        named |= {f"ids/{name}/data": ids.data, f"ids/{name}/offsets": ids.offsets}
    for name, array in sorted(named.items()):
        total.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _rings(state: State) -> dict[str, Array]:
    ring = state.ring
    return {"long": ring.filled(0), "short": ring.filled(1), "pushed": ring.pushed, "seen": ring.seen}


def _entry(mapping: dict[str, Any], name: str, where: str) -> Any:
    if name not in mapping:
        raise ValueError(f"snapshot {where} lack {name!r}: the checkpoint is damaged or from another format")
    return mapping[name]


def _fill_table(name: str, table: Table, ids: Strings, part: dict[str, Array]) -> None:
    values = ids.tolist()
    own = len(table)
    if values[:own] != table.ids:
        raise ValueError(f"snapshot ids {name!r} begin with {values[:own]!r}, the config makes them {table.ids!r}")
    try:
        table.append(values[own:], Strings(ids.data[ids.offsets[own] :], ids.offsets[own:] - ids.offsets[own]))
    except ValueError:
        raise ValueError(f"snapshot ids {name!r} are not distinct") from None
    _fill_part(name, table.kept(), part)


def _fill_part(part: str, wanted: dict[str, Array], given: dict[str, Array]) -> None:
    if wanted.keys() != given.keys():
        odd = sorted(wanted.keys() ^ given.keys())
        raise ValueError(f"snapshot part {part!r}: {odd[0]!r} is missing or unknown")
    for name, array in wanted.items():
        _check_array(f"{part}/{name}", given[name], array)
        array[...] = given[name]


def _check_array(name: str, given: Array, wanted: Array) -> None:
    if given.dtype != wanted.dtype or given.shape != wanted.shape:
        raise ValueError(
            f"snapshot array {name!r} is {given.dtype} {given.shape}, but must be {wanted.dtype} {wanted.shape}"
        )


def _fill_rings(state: State, part: dict[str, Array]) -> None:
    pushed = _entry(part, "pushed", "part 'rings'")
    _check_array("rings/pushed", pushed, state.ring.pushed)
    if pushed.min() < 0:
        raise ValueError(f"snapshot array 'rings/pushed' is {pushed.tolist()}, but counts cannot be negative")
    state.ring.pushed[:] = pushed
    _fill_part("rings", _rings(state), part)


def _fill_sketches(state: State, part: dict[str, Array]) -> None:
    for name, sketch in zip(LIMITED, state.sketches, strict=True):
        noted = _entry(part, f"{name}_noted", "part 'admission'")
        _check_array(f"admission/{name}_noted", noted, sketch.noted)
        try:
            sketch.load(_entry(part, f"{name}_seen", "part 'admission'"), noted)
        except ValueError as error:
            raise ValueError(f"snapshot array 'admission/{name}_seen' {error}") from error


def _check_rows(state: State) -> None:
    """Row numbers inside arrays must point into the tables, and chains must end: kernels trust them."""
    users, items, chunks, sessions = state.users, state.items, state.chunks, state.sessions
    for name, rows, least, size in (
        ("users/clicks", users["clicks"], -1, len(items)),
        ("users/kinds", users["kinds"], 0, len(state.types)),
        ("users/own_head", users["own_head"], -1, len(chunks)),
        ("items/next_items", items["next_items"], -1, len(items)),
        ("items/session_count", items["session_count"], 0, 2**31),
        ("chunks/items", chunks["items"], -1, len(items)),
        ("chunks/links", chunks["links"], -1, len(chunks)),
        ("sessions/members", sessions["members"], -1, len(items)),
        ("sessions/sizes", sessions["sizes"], 0, MEMBERS + 1),
        ("rings/long", state.ring.filled(0), 0, len(items)),
        ("rings/short", state.ring.filled(1), 0, len(items)),
    ):
        if rows.size and not least <= rows.min() <= rows.max() < size:
            raise ValueError(f"snapshot array {name!r} has rows from {rows.min()} to {rows.max()}, of {size}")
    led_to = np.concatenate((users["own_head"], chunks["links"]))
    led_to = led_to[led_to >= 0]
    if len(np.unique(led_to)) != len(led_to):
        raise ValueError("snapshot array 'chunks/links': two ways lead to one chunk")
    if len(sessions) != min(int(state.sessions_begun[0]), state.config.sessions):
        raise ValueError(f"snapshot part 'sessions' has {len(sessions)} rows, of {state.sessions_begun[0]} sessions")
    if (sessions["members"][np.arange(MEMBERS) < sessions["sizes"][:, None]] < 0).any():
        raise ValueError("snapshot array 'sessions/members': a session is shorter than it says")


def _fill_random(name: str, generator: np.random.Generator, state: Any) -> None:
    try:
        generator.bit_generator.state = state
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"snapshot meta {name!r} is no state of a PCG64 generator: {error!r}") from error
