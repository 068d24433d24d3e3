"""The kernels against the formulas: loss, every gradient, and what a step moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from model.batch import Float32, Int32
from model.learner import Learner
from model.parts import gates
from model.parts.history import Contexts
from model.training import Block, Gradients
from tests.model import naive
from tests.model.streams import SMALL, random_batches, run

Case = tuple[Learner, Block, Int32, Float32]


@pytest.fixture
def case() -> Case:
    """A learner that has learned a little, and a block with repeats, holes, searches, a new user and a new item."""
    learner = Learner(SMALL)
    run(learner, random_batches(6, 40))
    learner.users.append(["newcomer"])
    learner.items.append(["novelty"])
    new, newcomer = len(learner.items) - 1, len(learner.users) - 1
    learner.items["vector"][new] = learner.items["vector"][0] * 2.0
    mixing = learner.state.mixing
    mixing.values[:] = np.linspace(0.4, -0.5, len(mixing.values))
    mixing.gates[:] = np.random.default_rng(1).normal(scale=0.1, size=mixing.gates.shape)
    now = float(learner.state.now_ms[0])
    contexts = Contexts(
        np.array([0, 1, 2, newcomer], np.int32),
        np.array([[3, 1, 3], [-1, 2, -1], [5, 4, -1], [0, -1, 7]], np.int32),
        np.array([[1, 2, 3], [0, 2, 0], [4, 1, 0], [2, 0, 2]], np.int32),
        np.array([[0, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0]], np.uint8),
        np.array([1, 0, 2, 0], np.int32),
        now + np.array([1.0, 2.0, 9.0, 100.0]) * 60_000.0,
        np.array([5e3, 4e6, np.nan, np.nan]),
    )
    wanted = np.array([0, 2])
    block = Block(
        contexts,
        gates.open_gates(contexts, learner.users["repeat_share"][:newcomer]),
        np.array([1, 6, new, 0], np.int32),
        np.array([1.0, 0.5, 2.0, 1.0], np.float32),
        learner.trainer.search(contexts.take(wanted)),
        np.array([0, -1, 1, -1], np.int32),
        new,
    )
    rows = learner.trainer.negatives(block).copy()
    return learner, block, rows, learner.trainer._correction[: len(rows)].copy()


def reference(learner: Learner) -> dict[str, naive.Array]:
    """The learner's parameters in float64, by the names of the naive version."""
    state = learner.state
    return {
        "output": learner.items["vector"].astype(np.float64),
        "input": learner.items["input"].astype(np.float64),
        "positions": state.positions.astype(np.float64),
        "priorities": state.types["priority"].astype(np.float64),
        "weights": state.mixing.values.copy(),
        "gates": state.mixing.gates.astype(np.float64),
    }


def naive_loss(case: Case, model: dict[str, naive.Array]) -> Callable[[], float]:
    """The loss of the block as a function of what `model` holds when it is called."""
    learner, block, rows, correction = case
    found = naive.candidates(learner, block, rows.tolist(), correction.tolist())
    places = learner.state.mixing.layout.searched
    return lambda: naive.block_loss(model, block, found, block.opened, places)


def summed(learner: Learner, block: Block, found: Gradients) -> dict[str, naive.Array]:
    """The kernels' gradients, added up per parameter."""
    state, d, asked = learner.state, learner.config.dim, block.contexts
    total = {name: np.zeros_like(array) for name, array in reference(learner).items()}
    for m, row in enumerate(found.rows):
        total["output"][row] += found.drows[m, :d]
    for b in range(len(block)):
        for c, item in enumerate(found.own[b]):
            if item >= 0:
                total["output"][item] += found.own_gradients[b, c] * found.hx[b, :d]
        for k, item in enumerate(asked.items[b]):
            if item >= 0:
                weight = state.positions[k] * state.types["priority"][asked.kinds[b, k]]
                total["input"][item] += weight * found.scales[b] * found.dhx[b, :d]
        total["gates"][block.opened[b]] += found.dweights[b]
    total["positions"], total["priorities"] = found.dpositions, found.dpriorities
    width, places = found.dweights.shape[1], state.mixing.layout.searched
    total["weights"][:width] = found.dweights.sum(axis=0)
    total["weights"][width:] = (found.dweights[:, places] * found.searched[:, None]).sum(axis=0)
    return total


def test_features_are_those_of_their_parts(case: Case) -> None:
    """The fused walk finds the candidates and writes the features that the parts' own formulas give."""
    learner, block, rows, correction = case
    expected = naive.candidates(learner, block, rows.tolist(), correction.tolist())

    found = learner.trainer.backward(block, rows)

    marks = learner.items["mark"]
    assert (marks == -1).all()
    for b in range(len(block)):
        own = [int(item) for item in found.own[b] if item >= 0]
        layout = learner.state.mixing.layout
        featured = [item for item, (_, values) in expected[b].items() if values[layout.by_item :].any()]
        assert set(own) == {*naive.certain(learner, block, b), *featured}
        assert own[0] == block.targets[b]
        for place, item in enumerate(own):
            shift, values = expected[b][item]
            column = learner.trainer._found.columns[b, place]
            values[: layout.by_item] *= column < 0
            np.testing.assert_allclose(learner.trainer._found.features[b, place], values, rtol=2e-4, atol=2e-5)
            assert (correction[column] if column >= 0 else 0.0) == pytest.approx(shift, abs=1e-6)
            assert column < 0 or rows[column] == item


def test_loss_is_the_formula(case: Case) -> None:
    """A block's losses, weighted, add up to the naive loss over the same candidates."""
    learner, block, rows, _ = case

    found = learner.trainer.backward(block, rows)

    assert float(found.loss @ block.weights) == pytest.approx(naive_loss(case, reference(learner))(), rel=1e-5)


@pytest.mark.parametrize("name", ["output", "input", "positions", "priorities"])
def test_gradient_is_the_slope(case: Case, name: str) -> None:
    """Each gradient equals the finite difference of the naive loss, for every single number."""
    learner, block, rows, _ = case
    model = reference(learner)
    found = summed(learner, block, learner.trainer.backward(block, rows))[name]

    expected = slopes(model, name, naive_loss(case, model))

    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["weights", "gates"])
def test_weights_learn_from_known_targets_only(case: Case, name: str) -> None:
    """The gradients of global and gate weights are the slopes of the loss without the click whose target is new."""
    learner, block, rows, _ = case
    model = reference(learner)
    found = summed(learner, block, learner.trainer.backward(block, rows))[name]
    block.weights[2] = 0.0

    expected = slopes(model, name, naive_loss(case, model))

    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=3e-5)


def slopes(model: dict[str, naive.Array], name: str, loss: Callable[[], float]) -> naive.Array:
    """Finite differences along every number of one parameter."""
    found = np.zeros(model[name].shape)
    for place in np.ndindex(found.shape):
        found[place] = naive.slope(model, name, place, loss)
    return found


def test_step_lowers_the_loss(case: Case) -> None:
    """A small step against the gradients makes the same block likelier."""
    learner, block, rows, _ = case
    before = naive_loss(case, reference(learner))()

    found = learner.trainer.backward(block, rows)
    learner.trainer._move_rows(block, found, 0.1)

    assert naive_loss(case, reference(learner))() < before


def test_only_inputs_of_contexts_move(case: Case) -> None:
    """No input vector moves but those of the contexts."""
    learner, block, _, _ = case
    inputs = learner.items["input"].copy()

    learner.trainer.train(block, 1.0)

    moved_inputs = np.flatnonzero((learner.items["input"] != inputs).any(axis=1))
    assert moved_inputs.tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_touched_rows_are_those_that_changed(case: Case) -> None:
    """Every item row that a block moved is noted, once."""
    learner, block, _, _ = case
    learner.items.learned.take()
    before = {name: learner.items[name].copy() for name in ("vector", "input")}

    learner.trainer.train(block, 1.0)

    touched = learner.items.learned.take().tolist()
    changed = {
        int(row)
        for name, old in before.items()
        for row in np.flatnonzero((learner.items[name] != old).reshape(len(old), -1).any(axis=1))
    }
    assert len(set(touched)) == len(touched)
    assert changed <= set(touched)
    assert learner.items.learned.take().tolist() == []
