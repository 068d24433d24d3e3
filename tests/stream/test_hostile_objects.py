"""Hostile objects in the bucket: each is refused by name, before anything is made of it, and none is ever unpickled."""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from stream import lineage as lineages
from stream import partfiles
from stream.collector import Collector
from stream.errors import CheckpointInvalid, StoreRefused
from stream.policy import CheckpointPolicy
from tests.fakes import MemoryStore
from tests.forge import Forge
from tests.hostile import MARK, evil, lineage, loads, newest, plans_of, replant, retold, without_checkpoints
from tests.rigs import LAYOUT, Rig, clicks, folded

ROOT = Path(__file__).resolve().parents[2]


def safetensors(header: dict[str, Any], body: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HUGE = {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}}
SAFETENSORS = {
    "a pickle": evil(),
    "2^60 elements": safetensors(HUGE),
    "2^60 elements that begin where they end": safetensors(
        {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [8, 8]}}
    ),
    "shapes that multiply to nothing": safetensors(
        {"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}}
    ),
    "a header of 2^60 bytes": struct.pack("<Q", 1 << 60) + b"{}",
    "no header": b"",
    "header that is no JSON": struct.pack("<Q", 4) + b"nope",
    "another kind of number": safetensors({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}),
    "negative place": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
}


@pytest.mark.parametrize("data", SAFETENSORS.values(), ids=SAFETENSORS)
def test_hostile_safetensors_are_refused_by_name(data: bytes) -> None:
    """Whatever its header claims, nothing is allocated for it, and the error names the part."""
    with pytest.raises(ValueError, match=r"weights\.safetensors is not readable as safetensors"):
        partfiles.read_arrays({"weights.safetensors": data})


@pytest.fixture(scope="module")
def grown() -> MemoryStore:
    """A real lineage; tests copy it."""
    return lineage()


PARTS: dict[str, Callable[[MemoryStore], str]] = {
    "a pickle for arrays": lambda store: replant(store, "weights.safetensors", evil()),
    "2^60 elements": lambda store: replant(store, "weights.safetensors", safetensors(HUGE)),
    "a pickle for the ids": lambda store: replant(store, "ids.parquet", evil()),
    "a pickle for the model": lambda store: replant(store, "model.json", evil()),
    "a window that leads out of its texts": lambda store: replant(
        store,
        "stream.safetensors",
        save({"window_data": np.zeros(3, np.uint8), "window_offsets": np.array([0, 1 << 40])}),
    ),
    "a window of other arrays": lambda store: replant(store, "stream.safetensors", save({"a": np.zeros(1)})),
    "a part outside of its prefix": lambda store: retold(
        store, lambda manifest: manifest["parts"][0].update(key="data/clickstream.json")
    ),
    "a part one folder up": lambda store: retold(
        store, lambda manifest: manifest["parts"][0].update(name="../up.safetensors")
    ),
    "of another lineage": lambda store: retold(store, lambda manifest: manifest.update(lineage="other")),
    "an offset that cannot be": lambda store: retold(
        store, lambda manifest: manifest["next_offsets"].update({"0": 1 << 70})
    ),
}


@pytest.mark.parametrize("plant", PARTS.values(), ids=PARTS)
def test_hostile_checkpoint_costs_a_replay(plant: Callable[[MemoryStore], str], grown: MemoryStore) -> None:
    """A hostile part or MANIFEST is refused, the next older checkpoint leads to the same state, and it is counted."""
    store = grown.copy()
    plant(store)
    rig = Rig(store, clicks(400))
    opened = rig.service.open()

    assert opened.recovered.replayed > 0
    assert rig.meter.value("headrace_checkpoint_invalid_total") == 1
    assert rig.state() == folded(grown_with_fence(grown, store)).state_sha256()


def grown_with_fence(grown: MemoryStore, store: MemoryStore) -> MemoryStore:
    """The lineage as it was, with the plan that the recovery added."""
    clean = grown.copy()
    clean.objects |= {key: store.objects[key] for key in plans_of(store)}
    return clean


def test_the_error_names_the_part(grown: MemoryStore) -> None:
    """An operator reads which object it was."""
    store = grown.copy()
    replant(store, "weights.safetensors", evil())
    rig = Rig(store, clicks(400))
    rig.learner.start()

    with pytest.raises(CheckpointInvalid, match=r"weights\.safetensors is not readable as safetensors"):
        rig.learner.restore(newest(store))


def gap(store: MemoryStore) -> None:
    """A plan that jumps over the next number."""
    last = plans_of(store)[-1]
    plan = json.loads(store.get(last).data)
    plan["plan"]["seq"] += 2
    store.put(LAYOUT.plan(plan["plan"]["seq"]), json.dumps(plan).encode())


def in_plan(edit: Callable[[dict[str, Any]], object]) -> Callable[[MemoryStore], None]:
    """Edit a plan's first range with clicks, and chain anew."""

    def forge(store: MemoryStore) -> None:
        Forge(store).plan(3, lambda plan: edit(next(each for each in plan["ranges"] if each["staged"])))

    return forge


def restaged(data: bytes) -> Callable[[MemoryStore], None]:
    """Other bytes where clicks are staged, and the plan says so."""

    def forge(store: MemoryStore) -> None:
        Forge(store).restage(3, 0, data)

    return forge


PLANS: dict[str, tuple[Callable[[MemoryStore], object], str]] = {
    "a gap": (gap, "is missing"),
    "another number": (lambda store: Forge(store).plan(3, lambda plan: plan.update(seq=7)), "not where it belongs"),
    "another lineage": (
        lambda store: Forge(store).plan(3, lambda plan: plan.update(lineage="x")),
        "not where it belongs",
    ),
    "clicks elsewhere": (
        in_plan(lambda planned: planned["staged"].update(key="data/clickstream.json")),
        "outside of its lineage",
    ),
    "clicks of 2^60 bytes": (in_plan(lambda planned: planned["staged"].update(size=1 << 60)), "cannot be"),
    "a negative size": (in_plan(lambda planned: planned["staged"].update(size=-5)), "cannot be"),
    "offsets beyond Kafka's": (in_plan(lambda planned: planned.update(end=1 << 70)), "cannot be one of Kafka's"),
    "a pickle for a plan": (lambda store: store.put(LAYOUT.plan(3), evil()), "is not a plan"),
    "a pickle for clicks": (restaged(evil()), "is not a staged object"),
}


@pytest.mark.parametrize(("plant", "words"), PLANS.values(), ids=PLANS)
def test_hostile_plan_stops_the_start_by_name(
    plant: Callable[[MemoryStore], object], words: str, grown: MemoryStore
) -> None:
    """What recovery cannot do without is never guessed: it stops, and says which object and what is wrong with it."""
    store = without_checkpoints(grown.copy())
    plant(store)

    with pytest.raises(StoreRefused, match=words):
        Rig(store, clicks(400)).service.open()


def test_a_plan_that_is_too_large_is_not_read(grown: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than a plan can have is ever asked for."""
    store = without_checkpoints(grown.copy())
    monkeypatch.setattr("stream.bounded.PLAN_BYTES_MAX", 100)

    with pytest.raises(StoreRefused, match="more than the 100 bytes"):
        Rig(store, clicks(400)).service.open()


def test_nothing_is_got_whole_without_a_bound(grown: MemoryStore) -> None:
    """Recovery asks for parts after their size, for everything else by range: no plain `get` of anything else."""
    store = without_checkpoints(grown.copy())
    store.calls.clear()
    Rig(store, clicks(400)).service.open()
    got = {key for call, key in store.calls if call == "get"}

    assert {key for key in got if "/probe/" not in key} == set()
    assert any(call == "get_range" for call, _ in store.calls)


def test_pointer_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """CURRENT names a lineage in some bytes; what has more is not read."""
    store = MemoryStore()
    lineages.resolve(store, "pre", "main")
    monkeypatch.setattr("stream.bounded.CURRENT_BYTES_MAX", 3)
    store.calls.clear()

    with pytest.raises(StoreRefused, match="at most 3 are expected"):
        lineages.read(store, "pre")
    assert ("get", "pre/CURRENT") not in store.calls


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: [each["staged"].update(key="data/clickstream.json") for each in plan["ranges"] if each["staged"]],
        lambda plan: plan.update(seq=77),
    ],
    ids=["foreign clicks", "another plan"],
)
def test_hostile_plan_deletes_nothing(edit: Callable[[dict[str, Any]], object]) -> None:
    """A plan that names objects of others is not collected: what it names stays."""
    store = MemoryStore()
    Rig(store, clicks(40 * 70)).run()
    store.put("data/clickstream.json", b"theirs")
    store.put(LAYOUT.plan(77), b"also theirs")
    Forge(store).plan(5, edit, rechain=False)
    before = set(store.objects)
    policy = CheckpointPolicy(kept=2, grace_seconds=0.0)

    with pytest.raises(StoreRefused, match=r"outside of its lineage|not where it belongs"):
        Collector(store, LAYOUT, policy).collect()
    assert set(store.objects) == before


UNPICKLES = re.compile(r"\b(pickle|cloudpickle|dill|joblib|marshal|shelve|torch)\.(load|loads|open|Unpickler)\b")
ALLOWED = {
    "bench": "a benchmark reads the pickle that it has just had written",
    "tests": "a test reads back what the batch job has just written, as other people's programs do",
}


def test_the_tree_unpickles_nothing() -> None:
    """No code of the product calls an unpickler, allows pickles to numpy, or evaluates text."""
    found = []
    for path in [*ROOT.glob("stream/**/*.py"), *ROOT.glob("model/**/*.py"), *ROOT.glob("*.py")]:
        text = path.read_text()
        found += [f"{path.name}: {match[0]}" for match in UNPICKLES.finditer(text)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                named = isinstance(node.func, ast.Name) and name in {"eval", "exec", "__import__"}
                keyword = any(word.arg == "allow_pickle" for word in node.keywords)
                if named or keyword or name in {"Unpickler", "read_pickle"}:
                    found.append(f"{path.name}:{node.lineno}: {name}")
            if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "marshal", "shelve"}:
                found.append(f"{path.name}:{node.lineno}: from {node.module}")

    assert found == []


@pytest.mark.parametrize("folder", ALLOWED)
def test_elsewhere_only_named_places_unpickle(folder: str) -> None:
    """Outside of the product, each file that unpickles is one that reads what it has itself had written."""
    named = {
        "bench": set(),
        "tests": {"batch_rig.py", "test_batch_contract.py", "test_pickled.py", "test_train.py", "test_train_killed.py"}
        | {"test_snapshot.py", "test_s3.py", "test_object_store.py", "test_settings.py", "hostile.py"}
        | {"test_hostile_objects.py"},
    }[folder]
    found = {path.name for path in ROOT.glob(f"{folder}/**/*.py") if UNPICKLES.search(path.read_text())}

    assert found <= named


PROGRAM = """
import sys

heard = []

def listen(event, arguments):
    if event == "pickle.find_class":
        frame, files = sys._getframe(1), []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        # Numba keeps its compiled kernels on the local disk, as pickles of its own making.
        if not any("/numba/" in file for file in files):
            heard.append((arguments[0], files[0]))

sys.addaudithook(listen)
from stream.errors import StoreRefused
from tests.hostile import evil, lineage, loads, without_checkpoints
from tests.rigs import Rig, clicks
from tests.stream import test_hostile_objects as hostile

grown = lineage()
for plant in hostile.PARTS.values():
    store = grown.copy()
    plant(store)
    Rig(store, clicks(400)).service.open()
for plant, _ in hostile.PLANS.values():
    store = without_checkpoints(grown.copy())
    plant(store)
    try:
        Rig(store, clicks(400)).service.open()
    except StoreRefused:
        continue
    raise SystemExit("a hostile plan was taken")
print("quiet", heard)
heard.clear()
try:
    loads(evil())
except ModuleNotFoundError:
    print("heard", [module for module, _ in heard])
"""


def test_no_pickle_is_opened_in_a_running_process() -> None:
    """Python itself is asked: while hostile objects are recovered from, nothing looks up a class for a pickle."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )
    said = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr[-2000:]
    assert said[-2:] == ["quiet []", f"heard ['{MARK}']"]


def test_the_planted_pickle_is_one() -> None:
    """What is planted would import its module if anybody loaded it."""
    with pytest.raises(ModuleNotFoundError, match=MARK):
        loads(evil())
