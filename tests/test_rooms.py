"""Imports point inward: every module has its room, and a room imports only the rooms that it is told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = {
    "words": "model.batch stream.events stream.errors stream.ports stream.faultpoints",
    "arithmetic": "model.kernels model.sampling model.losses model.evaluation model.drift model.config "
    "model.sketch model.limits",
    "model": "model.table model.state model.memory model.compact model.admission model.eviction "
    "model.parts.* model.candidates model.training model.ranking model.resolve model.learner model.snapshot model.view "
    "model.health",
    "decisions": "stream.decode stream.letters stream.stamps stream.batching stream.dedupe stream.naming stream.policy "
    "stream.plans stream.bounded stream.thrift stream.footer stream.parquet stream.staged stream.checkpoint "
    "stream.partfiles stream.breaker stream.drifting stream.lineage stream.probe stream.held stream.versions",
    "corridor": "stream.aside stream.patience stream.refetch stream.planner stream.committer stream.history "
    "stream.recovery stream.opening stream.collector stream.figures stream.gate stream.loop stream.succession "
    "stream.retraining stream.keeper",
    "host": "stream.host stream.freeze stream.modelfiles",
    "kafka": "stream.kafka.*",
    "replay": "stream.replay.* stream.clocks",
    "store": "stream.store.*",
    "ray": "stream.actor stream.ray_link stream.ray_own",
    "http": "stream.api stream.admin stream.answers stream.listening stream.callers",
    "metrics": "stream.metrics",
    "log": "stream.log",
    "audit": "stream.verify.*",
    "copies": "stream.backup.seen stream.backup.note stream.backup.copying",
    "porch": "stream.settings.* stream.wiring stream.service stream.app stream.cli stream.doctor stream.inspect "
    "stream.explain stream.names stream.resume stream.letterbox stream.models stream.terminal stream.train.* "
    "stream.retrain.* stream.demo.* stream.backup.command",
}
INSIDE = {"words", "arithmetic", "model"}
MAY_IMPORT = {
    "words": {"words"},
    "arithmetic": {"words", "arithmetic"},
    "model": INSIDE,
    "decisions": {"words", "decisions"},
    "corridor": {"words", "decisions", "corridor"},
    "host": {*INSIDE, "decisions", "host"},
    "kafka": {"words", "decisions", "kafka", "replay"},  # `headrace produce` publishes what the replay's readers read
    "replay": {"words", "decisions", "replay"},
    "store": {"words", "decisions", "store"},
    "ray": {"words", "decisions", "host", "ray"},
    "http": {"words", "decisions", "http"},
    "metrics": {"words", "decisions"},
    "log": {"words"},
    "audit": {"words", "decisions", "audit"},
    "copies": {"words", "decisions", "copies"},
    "porch": set(ROOMS),
}


def modules() -> dict[str, Path]:
    """Every module of the two packages, but their empty front doors."""
    paths = [path for package in ("model", "stream") for path in (ROOT / package).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name: path for name, path in named.items() if not name.endswith("__init__")}


def room_of(module: str) -> str | None:
    """The room that lists a module."""
    return next((room for room, names in ROOMS.items() if any(fnmatch(module, name) for name in names.split())), None)


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it; a name that is a module stands for that module."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {"model", "stream"}:
            named = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            yield from (found for either in named for found in either if found in known)


def test_every_module_has_a_room() -> None:
    """A new file is given a place before it is written, and a room names no file that is gone."""
    listed = [name for names in ROOMS.values() for name in names.split()]

    assert [module for module in modules() if room_of(module) is None] == []
    assert [name for name in listed if not any(fnmatch(module, name) for module in modules())] == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_inward(module: str) -> None:
    """A module imports only what its room may."""
    room = room_of(module)
    assert room is not None
    strangers = {found for found in imports(modules()[module]) if room_of(found) not in MAY_IMPORT[room]}

    assert strangers == set()


def test_no_imports_in_a_circle() -> None:
    """Modules can be read from the ground up: none imports, by whatever way round, itself."""
    below = {module: set(imports(path)) - {module} for module, path in modules().items()}
    while leaves := {module for module, found in below.items() if not found & below.keys()}:
        below = {module: found for module, found in below.items() if module not in leaves}

    assert below == {}


def test_model_knows_no_world() -> None:
    """Arithmetic imports neither the stream nor anything that talks to the world."""
    clients = {"kafka", "boto3", "botocore", "ray", "prometheus_client", "starlette"}
    worldly = {*clients, "time", "datetime", "os", "stream"}
    for module, path in modules().items():
        if module.startswith("model."):
            tree = ast.walk(ast.parse(path.read_text()))
            names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
            assert {name.split(".")[0] for name in names} & worldly == set(), module
