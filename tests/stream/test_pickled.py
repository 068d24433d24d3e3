"""The pickle for other people's programs: plain, writable, opened by any numpy, and enough to recommend with."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner
from stream.train import pickled

DOCS = Path(__file__).parents[2] / "docs" / "batch.md"


def learner(clicks: int = 400) -> Learner:
    """Trained on a few users with three types of events."""
    pick = np.random.default_rng(0)
    made = Learner(LearnerConfig(dim=8, negatives=8, sequence_length=4))
    for start in range(0, clicks, 50):
        users = [f"u{n}" for n in pick.integers(0, 20, 50)]
        items = [f"p{n}" for n in pick.integers(0, 40, 50)]
        types = [("view", "cart", "purchase")[n] for n in pick.integers(0, 3, 50)]
        made.learn(Batch.of(users, items, np.arange(start, start + 50) * 60_000, types))
    return made


def written(made: Learner, **metadata: Any) -> bytes:
    file = io.BytesIO()
    pickled.write(made, metadata, 10, file)
    return file.getvalue()


def test_it_names_nothing_but_arrays() -> None:
    """No class of ours and no private part of numpy: only numpy.ndarray and bytearray are looked up on loading."""

    class Strict(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert (module, name) in {("numpy", "ndarray"), ("builtins", "bytearray")}
            return super().find_class(module, name)

    data = written(learner(), final_loss=1.0)

    assert set(Strict(io.BytesIO(data)).load())
    assert max(opcode.proto for opcode, *_ in pickletools.genops(data)) <= 4


def test_arrays_are_exact_and_writable() -> None:
    """What is read equals the learner's own arrays, element by element, and a reader may change it."""
    made = learner()

    model = pickle.loads(written(made))

    np.testing.assert_array_equal(model["item_embeddings"], made.items["vector"])
    np.testing.assert_array_equal(model["user_recent_items"], made.users["clicks"])
    assert model["item_to_idx"] == made.items.index
    model["item_embeddings"][0, 0] = 7.0
    assert made.items["vector"][0, 0] != 7.0


def test_same_state_same_bytes() -> None:
    """Two learners that learned the same give the same pickle, byte for byte."""
    assert written(learner(), n_users=20) == written(learner(), n_users=20)


def test_a_loss_that_json_lost_is_nan_again() -> None:
    """Where nothing could be trained, losses are NaN, so that a reader's number format works."""
    model = pickle.loads(written(learner(), final_loss=None, epoch_losses=[1.5, None]))

    assert f"{model['metadata']['final_loss']:.4f}" == "nan"
    np.testing.assert_array_equal(model["metadata"]["epoch_losses"], [1.5, np.nan])


def test_an_empty_model_is_readable() -> None:
    """Tables without rows come back with their shapes."""
    model = pickle.loads(written(Learner(LearnerConfig(dim=8))))

    assert model["user_embeddings"].shape == (0, 8)


@pytest.mark.parametrize("user", [*(f"u{n}" for n in range(20)), "never seen"])
def test_the_documented_example_recommends_as_headrace_does(user: str) -> None:
    """The numpy-only code of docs/batch.md gives the learner's own items and scores, for known and unknown users: those
    of a learner that has not learned to use gates and neighbours, which the pickle does not hold.
    """
    names: dict[str, Any] = {}
    exec(DOCS.read_text().split("```python\n")[1].split("```")[0], names)  # noqa: S102 - our own documentation
    made = learner()
    mixing = made.state.mixing
    mixing.gates_served[:] = 0.0
    mixing.served[1 + mixing.layout.near :] = 0.0

    found = names["recommend"](pickle.loads(written(made)), user)

    wanted = made.recommend(user, 10)
    assert [item for item, _ in found] == [item for item, _ in wanted]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], rtol=1e-4, atol=1e-5)
