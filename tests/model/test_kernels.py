"""Kernels are compiled once per machine, and mean the same when they are not compiled at all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = """
from model import kernels
from model.config import LearnerConfig
from model.learner import Learner, warm_up
from tests.model.streams import SMALL, random_batches, run
warm_up(LearnerConfig())
after_warm_up = kernels.compiled()
for seed in range(2):
    learner = Learner(SMALL)
    run(learner, random_batches(3, 40, seed))
    learner.reset_context(learner.context())
    learner.recommend("u1", 3), learner.explain("u1", "i1")
print(after_warm_up, kernels.compiled(), kernels.loaded())
"""


def start(cache: Path) -> list[int]:
    """Run the script in a new process: compiled by the warm-up, compiled in all, loaded."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", WARM_UP], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    """The first process compiles each kernel once, all in the warm-up; the second takes all of them from the disk."""
    by_warm_up, compiled, _ = start(tmp_path)
    assert by_warm_up == compiled > 10

    by_warm_up, compiled, loaded = start(tmp_path)

    assert (by_warm_up, compiled) == (0, 0)
    assert loaded > 10


@pytest.mark.timeout(1200)  # minutes of plain Python, and many times as long beside other work
@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="this is that run")
def test_same_without_compilation() -> None:
    """The numeric tests pass with the kernels as plain Python, where bad indices raise instead of reading astray."""
    files = ["test_training.py", "test_parts.py", "test_sampling.py", "test_evaluation.py", "test_view.py"]
    files += ["test_sketch.py", "test_eviction.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/model/{name}" for name in files)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stdout


def test_kernels_call_kernels_of_their_own_file_only() -> None:
    """Numba's cache looks at one file: a kernel that called into another could run stale code after an upgrade."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.joinpath("model").rglob("*.py")}
    own = {path: {node.name for node in kernels_in(tree)} for path, tree in trees.items()}
    everywhere: set[str] = set().union(*own.values())
    assert len(everywhere) > 15

    for path, tree in trees.items():
        for node in kernels_in(tree):
            called = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            assert called & everywhere <= own[path], f"{path.name}: {node.name}"


def kernels_in(tree: ast.AST) -> list[ast.FunctionDef]:
    """The functions of a module under our decorators."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(mark, ast.Name) and mark.id in {"kernel", "inlined", "summing"} for mark in node.decorator_list
        )
    ]
