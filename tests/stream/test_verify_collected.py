"""`headrace verify` on a lineage that begins in the middle: its oldest plans are collected, their clicks archived."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.collector import Collector
from stream.policy import CheckpointPolicy
from stream.verify.walk import prove, verify
from tests.fakes import Crash, MemoryStore
from tests.forge import Forge, grow
from tests.rigs import LAYOUT

POLICY = CheckpointPolicy(batches=10, seconds=1e9, kept=2, grace_seconds=0)
LATER = CheckpointPolicy(batches=10, seconds=1e9, kept=2, grace_seconds=1e9)
ARCHIVES = [LAYOUT.archive(0, 63), LAYOUT.archive(64, 127)]
PLANS = [LAYOUT.archived_plans(0, 63), LAYOUT.archived_plans(64, 127)]


@pytest.fixture(scope="module")
def full() -> MemoryStore:
    """154 plans, nothing collected yet."""
    store = MemoryStore()
    grow(store, 300, rows=2, checkpoint=LATER)
    return store


@pytest.fixture(scope="module")
def middle(full: MemoryStore) -> MemoryStore:
    """The same, its first 128 plans collected: it begins with plan 128 and its oldest checkpoint is newer."""
    store = full.copy()
    for _ in range(3):
        collect(store)
    return store


@pytest.fixture
def forge(middle: MemoryStore) -> Forge:
    return Forge(middle.copy())


def collect(store: MemoryStore, *, archive: bool = True) -> None:
    policy = CheckpointPolicy(kept=2, grace_seconds=0, archive=archive)
    Collector(store, LAYOUT, policy).collect()


def test_lineage_that_begins_in_the_middle_passes(middle: MemoryStore) -> None:
    """The first plan left agrees with the oldest checkpoint, and what was collected lies in the archive."""
    verdict = prove(middle, LAYOUT.prefix)
    forge = Forge(middle)

    assert verdict.first_breach is None
    assert (verdict.first_seq, verdict.checkpoints, verdict.orphans) == (128, 2, 0)
    assert forge.keys("archive") == [ARCHIVES[0], PLANS[0], ARCHIVES[1], PLANS[1]]
    assert verdict.trained + verdict.archived == forge.read(forge.manifests()[-1])["totals"]["trained"]


@pytest.mark.parametrize("archive", [True, False], ids=["archiving", "discarding"])
def test_collector_may_die_anywhere(full: MemoryStore, archive: bool) -> None:  # noqa: FBT001 - a test's parameter
    """Killed before any of its calls, the collector leaves nothing that verify would call a breach."""
    calls = count_calls(full, archive=archive)
    for fatal in range(0, calls, 29):
        store = full.copy()
        store.trouble = die_at(fatal)
        with suppress(Crash):
            collect(store, archive=archive)
        store.trouble = lambda _call, _key: None

        assert list(verify(store, LAYOUT.prefix)) == [], fatal


def count_calls(full: MemoryStore, *, archive: bool) -> int:
    store = full.copy()
    collect(store, archive=archive)
    assert prove(store, LAYOUT.prefix).first_seq == 64
    return len(store.calls)


def die_at(fatal: int) -> Callable[[str, str], None]:
    left = iter(range(fatal, -1, -1))

    def die(_call: str, _key: str) -> None:
        if next(left) == 0:
            raise Crash

    return die


def test_missing_clicks_of_the_first_plan_are_no_remains_of_a_collection(full: MemoryStore) -> None:
    """Without a checkpoint above the whole group, or with older plans still there, missing clicks are missed."""
    needed = Forge(full.copy())
    for key in [key for key in needed.manifests() if key > LAYOUT.manifest(63)]:
        needed.store.delete(key)
    between = Forge(full.copy())
    for each, seq in ((needed, 1), (between, 2)):
        plan = each.read(LAYOUT.plan(seq))["plan"]
        each.store.delete(plan["ranges"][0]["staged"]["key"])

    assert rules(needed) == {"staged_missing"}
    assert rules(between) == {"staged_missing"}


def rules(forge: Forge) -> set[str]:
    return {breach.rule for breach in verify(forge.store, LAYOUT.prefix)}


def regrouped(data: bytes, edit: Callable[[list[pa.Table]], list[pa.Table]]) -> bytes:
    """An archive object whose staged objects are others."""
    file, sink = pq.ParquetFile(io.BytesIO(data)), io.BytesIO()
    groups = edit([file.read_row_group(group) for group in range(file.metadata.num_row_groups)])
    with pq.ParquetWriter(sink, file.schema_arrow) as writer:
        for group in groups:
            writer.write_table(group)
    return sink.getvalue()


def without_last_group(data: bytes) -> bytes:
    return regrouped(data, lambda groups: groups[:-1])


def with_more_clicks(data: bytes) -> bytes:
    """Clicks that no plan staged, before those that the plans staged."""
    return regrouped(data, lambda groups: [groups[0], *groups])


def with_other_clicks(data: bytes) -> bytes:
    """As many clicks, in another order of staged objects."""
    return regrouped(data, lambda groups: [*groups[:-2], groups[-1], groups[-2]])


def backwards(data: bytes) -> bytes:
    """An archive object with the clicks of one staged object, in no order."""
    table = pq.read_table(io.BytesIO(data))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def change(key: str, edit: Callable[[bytes], bytes]) -> Callable[[Forge], object]:
    return lambda forge: forge.store.put(key, edit(forge.store.get(key).data))


def rename(key: str, other: str) -> Callable[[Forge], object]:
    def forgery(forge: Forge) -> None:
        forge.store.objects[other] = forge.store.objects.pop(key)

    return forgery


def go_on_later(forge: Forge) -> None:
    forge.manifest(forge.manifests()[0], lambda found: found["next_offsets"].update({"0": 7}))


def reject_more(forge: Forge) -> None:
    forge.manifest(forge.manifests()[0], lambda found: found["totals"].update(rejected=99))


def train_again(forge: Forge) -> None:
    """Give a click that is still staged the event_id of one that is archived."""
    ids = pq.read_table(io.BytesIO(forge.store.get(ARCHIVES[1]).data))["event_id"].drop_null().to_pylist()

    def edit(table: pa.Table) -> pa.Table:
        return table.set_column(
            5, table.schema.field(5), pa.array([ids[0], *[None] * (table.num_rows - 1)], pa.string())
        )

    forge.staged(lambda planned: planned["staged"], edit)


def forget_checkpoints(forge: Forge) -> None:
    for key in forge.manifests():
        forge.store.delete(key)


def forget_checkpoints_and_plans(forge: Forge) -> None:
    forget_checkpoints(forge)
    forge.store.delete(PLANS[0])


def other_numbers(data: bytes) -> bytes:
    return data.replace(b'"seq":', b'"seq":1')


def other_nonce(data: bytes) -> bytes:
    """One archived plan in the middle, edited."""
    found = data.splitlines()
    plan = json.loads(found[30])
    plan["plan"]["nonce"] = "another"
    return b"\n".join([*found[:30], json.dumps(plan).encode(), *found[31:]])


FORGERIES: dict[str, tuple[Callable[[Forge], object], str]] = {
    "oldest checkpoint's next offset": (go_on_later, "manifest_offsets"),
    "oldest checkpoint's totals": (reject_more, "manifest_totals"),
    "event_id trained again": (train_again, "event_id_twice"),
    "no checkpoint left, nor all plans": (forget_checkpoints_and_plans, "beginning"),
    "archived plan edited": (change(PLANS[0], other_nonce), "archive_plans"),
    "archived plan cut off": (change(PLANS[1], lambda data: data[:-200]), "archive_plans"),
    "archived plans lack one": (change(PLANS[1], lambda data: data.partition(b"\n")[2]), "archive_plans"),
    "archived plans of another group": (change(PLANS[0], other_numbers), "archive_plans"),
    "second archive gone": (lambda forge: forge.store.delete(ARCHIVES[1]), "archive_hole"),
    "archive between gone": (rename(ARCHIVES[0], LAYOUT.archive(192, 255)), "archive_hole"),
    "archive is no Parquet": (change(ARCHIVES[0], lambda _: b"PAR1"), "archive_form"),
    "archive of an odd group": (rename(ARCHIVES[0], LAYOUT.archive(1, 64)), "archive_form"),
    "archive with clicks in no order": (change(ARCHIVES[0], backwards), "archive_rows archive_plans"),
    "archive that lacks clicks": (change(ARCHIVES[1], without_last_group), "archive_plans manifest_totals"),
}


@pytest.mark.parametrize(("forgery", "rule"), FORGERIES.values(), ids=FORGERIES)
def test_forgery_is_found_and_named(forge: Forge, forgery: Callable[[Forge], object], rule: str) -> None:
    """One thing is wrong, all the rest agrees with it: just the rules that this breaks are broken."""
    forgery(forge)

    assert rules(forge) == set(rule.split())


def test_archived_plans_stand_in_for_checkpoints(forge: Forge) -> None:
    """All checkpoints are lost, and the state can be rebuilt from the first plan on: out of the archive."""
    forget_checkpoints(forge)

    assert rules(forge) == set()


def test_a_late_plan_is_an_orphan(full: MemoryStore, forge: Forge) -> None:
    """A writer that slept through everything put its plan into an emptied slot and died: harmless, and swept away."""
    forge.store.put(LAYOUT.plan(2), full.get(LAYOUT.plan(2)).data)
    verdict = prove(forge.store, LAYOUT.prefix)

    assert (verdict.first_breach, verdict.first_seq) == (None, 128)
    assert verdict.orphan_keys == [LAYOUT.plan(2)]
    collect(forge.store)
    assert LAYOUT.plan(2) not in forge.store.objects


def test_a_lost_plan_is_no_late_one(full: MemoryStore, forge: Forge) -> None:
    """One that is missing amid the others of its group, or with no checkpoint beyond, is a breach as ever."""
    forge.store.delete(LAYOUT.plan(129))
    assert "plan_missing" in rules(forge)
    young = Forge(full.copy())
    for seq in range(1, 130):
        young.store.delete(LAYOUT.plan(seq))
    for key in young.manifests():
        if key > LAYOUT.checkpoint(110):
            young.store.delete(key)
    assert "plan_missing" in rules(young)


def test_first_archives_may_expire(forge: Forge) -> None:
    """Who lets old archives expire has a shorter history, not a broken one."""
    forge.store.delete(ARCHIVES[0])

    assert rules(forge) == set()
    forge.store.delete(PLANS[0])

    assert rules(forge) == set()


@pytest.mark.parametrize("edit", [with_more_clicks, with_other_clicks])
def test_archive_agrees_with_plans_that_are_still_there(full: MemoryStore, edit: Callable[[bytes], bytes]) -> None:
    """A collector that died after archiving: archive and plans hold the same clicks, or it is a breach."""
    forge = Forge(full.copy())
    forge.store.trouble = lambda call, _key: die_at(0)(call, _key) if call == "delete" else None
    with suppress(Crash):
        collect(forge.store)
    forge.store.trouble = lambda _call, _key: None
    assert rules(forge) == set()

    change(ARCHIVES[0], edit)(forge)

    assert "archive_rows" in rules(forge)


@pytest.fixture
def following(full: MemoryStore) -> Forge:
    """The oldest checkpoint is exactly one plan older than the first plan left."""
    forge = Forge(full.copy())
    oldest = forge.read(forge.manifests()[0])["seq"]
    for seq in range(oldest + 1):
        forge.store.delete(LAYOUT.plan(seq))
    return forge


def test_first_plan_follows_on_the_oldest_checkpoint(following: Forge) -> None:
    """With the checkpoint's own plan gone, the first plan left is held against the checkpoint itself."""
    assert rules(following) == set()

    first = following.read(following.keys("plan")[0])["plan"]["seq"]
    following.plan(first, lambda plan: plan.update(previous_sha256="0" * 64))

    assert rules(following) == {"chain"}


def test_oldest_checkpoint_says_where_the_first_plan_begins(following: Forge) -> None:
    """A checkpoint that would go on earlier than the first plan left makes a gap there."""
    before = following.manifests()[0]
    partition = str(following.read(following.keys("plan")[0])["plan"]["ranges"][0]["partition"])
    offset = following.read(before)["next_offsets"][partition]
    following.manifest(before, lambda found: found["next_offsets"].update({partition: offset - 1}))

    assert rules(following) == {"gap"}
