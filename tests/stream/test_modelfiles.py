"""A learner as files and back, and one that waits on the disk."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from model import snapshot
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner
from stream.errors import LearnerFailed
from stream.modelfiles import IDS, MODEL, Reading, Shelf

CONFIG = LearnerConfig(dim=4, negatives=8)


@pytest.fixture
def learner() -> Learner:
    """One that has seen a hundred clicks."""
    return taught(Learner(CONFIG), 0)


def taught(learner: Learner, first: int) -> Learner:
    places = np.arange(first, first + 100)
    learner.learn(Batch.of([f"u{at % 7}" for at in places], [f"i{at % 31}" for at in places], places * 60_000))
    return learner


def test_comes_back_as_it_was_put(learner: Learner) -> None:
    """Bit for bit, whatever it learns after; and it can be taken more than once."""
    before = snapshot.digest(learner)
    with Shelf() as shelf:
        shelf.put(learner)
        taught(learner, 100)
        copies = [shelf.take(), shelf.take()]

    assert [snapshot.digest(copy) for copy in copies] == [before, before]
    assert snapshot.digest(taught(copies[0], 100)) == snapshot.digest(learner)


def test_the_last_one_put_is_there(learner: Learner) -> None:
    """Nothing of the one before is left."""
    with Shelf() as shelf:
        shelf.put(learner)
        shelf.put(Learner(CONFIG))

        assert snapshot.digest(shelf.take()) == snapshot.digest(Learner(CONFIG))


def test_settings_may_be_others(learner: Learner) -> None:
    """Those that are named, and no others."""
    with Shelf() as shelf:
        shelf.put(learner)

        assert shelf.take(score_fraction=0.5).config.to_dict() == CONFIG.to_dict() | {"score_fraction": 0.5}


def test_leaves_nothing(learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder goes with it, also when something goes wrong."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with suppress(RuntimeError), Shelf() as shelf:
        shelf.put(learner)
        assert list(tmp_path.iterdir())
        raise RuntimeError

    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(learner: Learner) -> None:
    """With what to do about it, whether an array or a text does not fit: here nothing can be written any more."""
    with Shelf() as shelf:
        (folder,) = (path for path in Path(tempfile.gettempdir()).glob(f"headrace-checkpoint-{os.getpid()}-*"))
        folder.rmdir()

        with pytest.raises(LearnerFailed, match=r"cannot be written to .* No such file .* tmp\.sizeLimit"):
            shelf.put(learner)


@pytest.mark.parametrize("lost", [IDS, MODEL])
def test_a_lost_file_is_named(lost: str, learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner without its ids, or without its settings, is none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading = Reading()
    with Shelf() as shelf:
        shelf.put(learner)
        (folder,) = tmp_path.iterdir()
        for path in folder.iterdir():
            if path.name != lost:
                reading.add(path.name, path.read_bytes())

    with pytest.raises(ValueError, match=lost):
        reading.learner()
