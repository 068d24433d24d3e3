"""The learner's host by itself: what its checkpoints do when a forked writer crashes."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from model import health
from stream import freeze, host
from stream.events import Recommendation
from stream.freeze import WriterCrashed
from stream.host import HostConfig, LearnerHost
from stream.partfiles import Arrays, write_arrays
from tests.contract.test_live_learner import chain
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT, MODEL


def crashing_if_forked(parent: int, write: Callable[..., None]) -> Callable[..., None]:
    """`write`, but a process other than `parent` crashes in it."""

    def inner(files: dict[str, Arrays], folder: Path) -> None:
        if os.getpid() != parent:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGABRT)
        write(files, folder)

    return inner


@pytest.mark.skipif(not freeze.CAN_FORK, reason="there is no safe fork on this system")
def test_a_crashed_writer_is_not_forked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint after a crash stalls the learner, but it is written; the first one is lost and said to be."""
    monkeypatch.setattr(host, "write_arrays", crashing_if_forked(os.getpid(), write_arrays))
    learner = LearnerHost(HostConfig(MODEL, LAYOUT, MemoryStore(), 100))
    learner.begin_checkpoint()
    with pytest.raises(WriterCrashed):
        learner.finish_checkpoint()

    learner.begin_checkpoint()

    assert learner.finish_checkpoint().size > 0


def test_where_nobody_asks_there_is_no_copy() -> None:
    """The same model, without a view: it answers nothing, and looks no further after a batch than the batch went."""
    serving, alone = (
        LearnerHost(HostConfig(MODEL, LAYOUT, MemoryStore(), 100, serves=serves)) for serves in (True, False)
    )
    for planned in chain(4):
        serving.apply(planned)
        alone.apply(planned)
        assert len(health._touched(alone.model)) == 0  # what is not taken, the next batch would go over again

    user = serving.model.users.ids[-1]
    assert serving.recommend(user, 3) == [Recommendation(*each) for each in alone.model.recommend(user, 3)] != []
    assert alone.recommend(user, 3) == alone.explain(user, "i1") == []
    assert alone.state_sha256() == serving.state_sha256()
