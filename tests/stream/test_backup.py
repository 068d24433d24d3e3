"""A lineage is copied while it lives: the copy can be started from, proven, and is never more than one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from stream import checkpoint, lineage, versions
from stream.backup import note
from stream.backup.copying import Copied, copy
from stream.batching import CutPolicy
from stream.collector import Collector
from stream.errors import ConfigError, StoreRefused, StoreUnavailable
from stream.history import Archive
from stream.host import HostConfig
from stream.metrics import NullMeter
from stream.naming import Layout, seq_of
from stream.patience import Patience
from stream.policy import Backoff, CheckpointPolicy
from stream.ports import ObjectStore
from stream.recovery import Replaying, recover
from stream.verify.walk import prove
from stream.versions import Serving
from tests.fakes import InlineLearner, MemoryStore
from tests.forge import events
from tests.rigs import LAYOUT, MODEL, RHYTHM, Rig

COLLECTING = CheckpointPolicy(batches=10, seconds=1e9, kept=1, grace_seconds=0.0)
FORGETTING = replace(COLLECTING, archive=False)
KEEPING = CheckpointPolicy(batches=10, seconds=1e9, kept=1000, grace_seconds=1e9)


class Killed(BaseException):
    """The copying process died here."""


def lived(store: ObjectStore, count: int, policy: CheckpointPolicy = COLLECTING) -> Rig:
    """The service, run over the first `count` events to their end."""
    lineage.resolve(store, LAYOUT.prefix, LAYOUT.lineage)
    rig = Rig(store, events(count), rhythm=replace(RHYTHM, cut=CutPolicy(rows=10), checkpoint=policy))
    rig.run()
    return rig


def state(store: ObjectStore, version: int = 1) -> tuple[int, str]:
    """Newest plan and hash of the state that recovery brings back from what is there."""
    layout = LAYOUT.of_version(version)
    learner = InlineLearner(HostConfig(MODEL, layout, store, 1000))
    learner.start()
    archive = Archive(store, layout, Patience(Backoff(), lambda _: True, NullMeter()), NullMeter())
    recovered = recover(archive, learner, Replaying(4, lambda _: None, {}))
    return recovered.head.seq, str(learner.status(digest=True)["state_sha256"])


def keys(store: ObjectStore, prefix: str = LAYOUT.root) -> set[str]:
    return {info.key for info in store.list(prefix)}


def sound(store: ObjectStore) -> None:
    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage)
    assert not verdict.breaches, verdict.first_breach
    assert not verdict.orphans


@pytest.mark.parametrize("policy", [KEEPING, COLLECTING, FORGETTING], ids=["young", "collected", "forgotten"])
def test_the_copy_holds_the_same_model(policy: CheckpointPolicy) -> None:
    """Restored from the copy alone, the state has the hash of the one that goes on; and the copy is proven."""
    store, target = MemoryStore(), MemoryStore()
    rig = lived(store, 1500, policy)

    done = copy(store, target, LAYOUT)

    assert done.seq == rig.service.figures.seq
    assert done.objects
    sound(target)
    assert state(target) == (rig.service.figures.seq, rig.state())
    assert lineage.read(target, LAYOUT.prefix).lineage == LAYOUT.lineage  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", [KEEPING, COLLECTING, FORGETTING], ids=["young", "collected", "forgotten"])
def test_again_brings_it_up_to_date(policy: CheckpointPolicy) -> None:
    """What is there is not written again, what the source has collected goes, the newest checkpoint is there."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 800, policy)
    copy(store, target, LAYOUT)
    still = copy(store, target, LAYOUT)
    rig = lived(store, 1500, policy)

    done = copy(store, target, LAYOUT)

    assert still.objects == 1  # CURRENT
    assert done.removed
    assert done.kept or policy is FORGETTING
    sound(target)
    assert keys(target) <= keys(store)
    assert [seq for seq, _ in checkpoint.complete(target, LAYOUT)] == [done.checkpoints[1]]
    assert state(target) == (rig.service.figures.seq, rig.state())


@pytest.mark.parametrize("policy", [KEEPING, COLLECTING, FORGETTING], ids=["young", "collected", "forgotten"])
def test_cut_short_anywhere(policy: CheckpointPolicy) -> None:
    """Killed before each write and each removal: what the copy held can be started from, or more of it."""
    store, first = MemoryStore(), MemoryStore()
    lived(store, 300, policy)
    before = copy(store, first, LAYOUT)
    lived(store, 900, policy)
    calls = counted(lambda target: copy(store, target, LAYOUT), first)
    assert calls > 15

    for place in range(0, calls, max(1, calls // 12)):
        target = first.copy()
        die_at(target, place)
        with pytest.raises(Killed):
            copy(store, target, LAYOUT)
        target.trouble = lambda _call, _key: None
        assert state(target)[0] >= before.seq, place
        if policy is not FORGETTING:
            verdict = prove(target, LAYOUT.prefix, LAYOUT.lineage)
            assert not verdict.breaches, (place, verdict.first_breach)
        copy(store, target, LAYOUT)
        sound(target)


def die_at(target: MemoryStore, place: int) -> None:
    """At the call of that number that would change something."""
    left = place

    def count(call: str, _key: str) -> None:
        nonlocal left
        if call in {"put", "delete"}:
            left -= 1
            if left < 0:
                raise Killed

    target.trouble = count


def counted(act: Callable[[MemoryStore], Copied], store: MemoryStore) -> int:
    """How many calls of it change something."""
    target, calls = store.copy(), []
    target.trouble = lambda call, _key: calls.append(call) if call in {"put", "delete"} else None
    act(target)
    return len(calls)


def test_the_first_one_cut_short_is_no_lineage_yet() -> None:
    """Until the end nothing says that it serves, and another try completes it."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 1600)
    die_at(target, 5)
    with pytest.raises(Killed):
        copy(store, target, LAYOUT)
    target.trouble = lambda _call, _key: None

    assert lineage.read(target, LAYOUT.prefix) is None
    copy(store, target, LAYOUT)
    sound(target)


def test_versions_come_along() -> None:
    """Each version's newest checkpoint, its records, and which one serves."""
    from tests.stream.test_retraining import Play, proven

    store, target = MemoryStore(), MemoryStore()
    Play({}, store, rows=400).run()
    versions.ask(store, LAYOUT, versions.Request("a"))
    Play({}, store, rows=1600).run()
    lineage.resolve(store, LAYOUT.prefix, LAYOUT.lineage)

    done = copy(store, target, LAYOUT)

    proven(target)
    assert versions.overview(target, LAYOUT) == versions.overview(store, LAYOUT)
    assert set(done.checkpoints) == {1, 2}
    serving = versions.read_serving(target, LAYOUT).serving.version
    assert state(target, serving) == state(store, serving)


def test_what_is_no_copy_is_not_touched() -> None:
    """A lineage of its own, of the same name; a copy that a service was started on; a copy of another history."""
    store, own = MemoryStore(), MemoryStore()
    rig = lived(store, 800)
    lived(own, 500)
    refused(store, own, "is no copy")

    started = MemoryStore()
    copy(store, started, LAYOUT)
    Rig(started, rig.rows).service.open()
    refused(store, started, "a service has been started on it")

    other, target = MemoryStore(), MemoryStore()
    copy(store, target, LAYOUT)
    lived(other, 1600, KEEPING)
    refused(other, target, "another history")
    refused(lived(MemoryStore(), 200).store, target, "another history")


def refused(store: ObjectStore, target: MemoryStore, why: str) -> None:
    before = {info.key: info.etag for info in target.list("")}
    with pytest.raises(StoreRefused, match=why):
        copy(store, target, LAYOUT)
    assert {info.key: info.etag for info in target.list("")} == before


def test_an_older_copy_of_the_same_history_is_recognised_by_the_archive() -> None:
    """The plan that the note names was collected long ago; the archive still tells its hash."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 400)
    copy(store, target, LAYOUT)
    lived(store, 1600)
    assert min(seq_of(key) or 0 for key in keys(store, LAYOUT.plans)) > 50

    copy(store, target, LAYOUT)

    sound(target)


def test_damage_is_not_copied() -> None:
    """A part that was altered: the next older checkpoint is copied; a staged object that was: refused by name."""
    store, target = MemoryStore(), MemoryStore()
    rig = lived(store, 800, KEEPING)
    found = list(checkpoint.complete(store, LAYOUT))
    part = checkpoint.read_manifest(store, found[-1][1]).parts[0]
    store.put(part.key, bytes(part.size))

    assert copy(store, target, LAYOUT).checkpoints == {1: found[-2][0]}
    assert state(target) == (rig.service.figures.seq, rig.state())

    key = min(keys(store, LAYOUT.staged))
    store.put(key, store.get(key).data[:-1] + b"x")
    with pytest.raises(StoreRefused, match=key):
        copy(store, MemoryStore(), LAYOUT)


def test_a_collection_that_was_cut_short() -> None:
    """The group is archived, and some of its staged objects are gone before their plans: neither is wanted any more."""
    store, target = MemoryStore(), MemoryStore()
    rig = lived(store, 1500, KEEPING)
    left = [3]

    def count(call: str, _key: str) -> None:
        left[0] -= call == "delete"
        if not left[0]:
            raise Killed

    store.trouble = count
    with pytest.raises(Killed):
        Collector(store, LAYOUT, COLLECTING).collect()
    store.trouble = lambda _call, _key: None

    copy(store, target, LAYOUT)

    sound(target)
    assert state(target) == (rig.service.figures.seq, rig.state())


def test_what_was_set_aside_after_the_newest_plan_is_left_out() -> None:
    """A plan that came while the copy was made: in the copy another one will have its number."""
    store, target = MemoryStore(), MemoryStore()
    newest = lived(store, 400).service.figures.seq
    for seq in (newest, newest + 1):
        store.put(LAYOUT.aside(seq), b"{}")

    copy(store, target, LAYOUT)

    assert keys(target, LAYOUT.asides) == {LAYOUT.aside(newest)}


def test_a_damaged_checkpoint_where_nothing_is_archived() -> None:
    """The older checkpoint that is copied instead needs more plans."""
    store, target = MemoryStore(), MemoryStore()
    rig = lived(store, 1500, replace(FORGETTING, kept=3))
    found = list(checkpoint.complete(store, LAYOUT))
    store.put(checkpoint.read_manifest(store, found[-1][1]).parts[0].key, b"damaged")

    assert copy(store, target, LAYOUT).checkpoints == {1: found[-2][0]}
    assert state(target) == (rig.service.figures.seq, rig.state())


def test_no_room_for_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the machine that copies: said, with what to set."""
    store = MemoryStore()
    lived(store, 400)
    (tmp_path / "object").symlink_to("/dev/full")
    monkeypatch.setattr("stream.backup.copying.TemporaryDirectory", lambda **_: nullcontext(tmp_path))

    with pytest.raises(ConfigError, match=r"No space left on device. Set TMPDIR"):
        copy(store, MemoryStore(), LAYOUT)


def test_a_copy_of_a_copy() -> None:
    """So that there still is a copy after a service was started on one."""
    store, first, second = MemoryStore(), MemoryStore(), MemoryStore()
    rig = lived(store, 800)
    copy(store, first, LAYOUT)

    copy(first, second, LAYOUT)

    sound(second)
    assert state(second) == (rig.service.figures.seq, rig.state())


def test_no_checkpoint_that_verifies_and_no_beginning() -> None:
    """Nothing that could be started from: said, and no copy pretends to be one."""
    store = MemoryStore()
    lived(store, 1600, FORGETTING)
    for _, key in checkpoint.complete(store, LAYOUT):
        store.put(key, b"{}")

    with pytest.raises(StoreRefused, match="no checkpoint of version 1"):
        copy(store, MemoryStore(), LAYOUT)


def test_collected_while_it_is_copied() -> None:
    """What goes meanwhile makes it look again; when it always does, that is said, with the remedy."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 800)
    gone = 0

    def vanish(call: str, key: str) -> None:
        nonlocal gone
        if call == "get_range" and key.endswith("MANIFEST.json") and not gone:
            gone += 1
            for info in list(store.list(LAYOUT.checkpoints)):
                MemoryStore.delete(store, info.key)
            lived(store, 1600)

    store.trouble = vanish
    copy(store, target, LAYOUT)
    assert gone
    sound(target)


def test_faster_than_it_can_be_copied() -> None:
    """It ends, with the setting that helps."""
    store = MemoryStore()
    lived(store, 800)
    victim = max(keys(store, LAYOUT.staged))
    store.delete(victim)

    with pytest.raises(StoreUnavailable, match="HEADRACE_STREAM_GC_GRACE_SECONDS"):
        copy(store, MemoryStore(), LAYOUT)


def test_two_at_once() -> None:
    """The second one finds the first one's note changed under it, and says whom to wait for."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 400)
    copy(store, target, LAYOUT)
    known = note.read(target, LAYOUT)
    note.write(target, LAYOUT, note.Note("main", 1, "x", "a moment before"), known)

    with pytest.raises(StoreRefused, match="another `headrace backup`"):
        note.write(target, LAYOUT, note.Note("main", 1, "x", "now"), known)


def test_a_note_that_is_none() -> None:
    """Named, and nothing is written."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 400)
    target.put(note.key(LAYOUT), b"[]")

    refused(store, target, "cannot be read")


def test_nothing_there() -> None:
    with pytest.raises(ConfigError, match="no lineage absent"):
        copy(MemoryStore(), MemoryStore(), Layout("headrace", "absent"))


def test_serving_goes_back_too() -> None:
    """A rollback at the source is one in the copy."""
    store, target = MemoryStore(), MemoryStore()
    lived(store, 400)
    versions.write_serving(store, LAYOUT, Serving(1, why="again"), versions.read_serving(store, LAYOUT))

    copy(store, target, LAYOUT)

    assert versions.read_serving(target, LAYOUT).serving.why == "again"
