"""The learner's host by itself: what its checkpoints do when a forked writer crashes."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stream import freeze, host
from stream.freeze import WriterCrashed
from stream.host import HostConfig, LearnerHost
from stream.partfiles import Arrays, write_arrays
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
