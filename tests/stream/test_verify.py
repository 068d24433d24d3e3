"""`headrace verify`: a lineage of the real corridor passes, and each single forgery is found and named as such."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.errors import ConfigError
from stream.ports import Blob
from stream.store.directory import DirectoryStore
from stream.verify import reading as verify_reading
from stream.verify.forms import RULES
from stream.verify.walk import Options, Verdict, prove, verify
from tests.fakes import MemoryStore
from tests.forge import Forge, digest, flipped, grow, parquet
from tests.rigs import LAYOUT

Forgery = Callable[[Forge], object]
PREFIX = LAYOUT.prefix


@pytest.fixture(scope="module")
def grown() -> MemoryStore:
    """Sixteen plans in two epochs, six checkpoints, with rejects, duplicates and offsets never delivered."""
    store = MemoryStore()
    grow(store, 150)
    grow(store, 300)
    return store


@pytest.fixture
def forge(grown: MemoryStore) -> Forge:
    return Forge(grown.copy())


def test_clean_lineage_passes(grown: MemoryStore) -> None:
    """What the corridor wrote has no breach, and its offsets add up to all that were ever read."""
    verdict = prove(grown, PREFIX)

    assert verdict.breaches == 0
    assert verdict.first_breach is None
    assert (verdict.plans, verdict.first_seq, verdict.last_seq, verdict.checkpoints) == (16, 0, 15, 6)
    assert (verdict.rejected, verdict.duplicates) == (12, 8)
    assert verdict.trained + verdict.rejected + verdict.duplicates + verdict.absent == 300
    assert verdict.objects == len(grown.objects) - 1  # CURRENT is no part of a lineage
    assert verdict.orphans == 0


def test_clean_lineage_on_disk_passes(tmp_path: Path) -> None:
    """The same for a lineage in a directory, by its name, without CURRENT."""
    store = DirectoryStore(tmp_path)
    grow(store, 60)
    store.delete(LAYOUT.current)

    assert list(verify(store, PREFIX, LAYOUT.lineage)) == []


def has_clicks(planned: dict[str, Any]) -> bool:
    return planned["staged"] is not None and planned["staged"]["rows"] > 4


def has_absent(planned: dict[str, Any]) -> bool:
    return has_clicks(planned) and planned["absent"] > 0


def has_both(planned: dict[str, Any]) -> bool:
    return has_clicks(planned) and bool(planned["duplicates"]) and planned["absent"] > 0


def last_plan(change: Callable[[bytes], bytes]) -> Forgery:
    """Change the bytes of the newest plan, and let the checkpoint on it agree."""

    def forgery(forge: Forge) -> None:
        replace_object(LAYOUT.plan(15), change)(forge)
        forge.manifest(
            LAYOUT.manifest(15), lambda it: it.update(plan_sha256=digest(forge.store.get(LAYOUT.plan(15)).data))
        )

    return forgery


def staged_key(forge: Forge) -> str:
    seq, at = forge.find(has_clicks)
    return str(forge.read(LAYOUT.plan(seq))["plan"]["ranges"][at]["staged"]["key"])


def replace_object(key: str, change: Callable[[bytes], bytes]) -> Forgery:
    return lambda forge: forge.store.put(key, change(forge.store.get(key).data))


def alter_staged(change: Callable[[bytes], bytes]) -> Forgery:
    return lambda forge: replace_object(staged_key(forge), change)(forge)


def alter_manifest(**changes: Any) -> Forgery:
    return lambda forge: forge.manifest(forge.manifests()[2], lambda found: found.update(changes))


def alter_part(change: Callable[[Forge, dict[str, Any]], object]) -> Forgery:
    """Change the largest part of a checkpoint, or what its MANIFEST says of it."""

    def forgery(forge: Forge) -> None:
        key = forge.manifests()[2]
        found = forge.read(key)
        change(forge, max(found["parts"], key=lambda part: part["size"]))
        forge.write(key, found)

    return forgery


def put_part(change: Callable[[bytes], bytes]) -> Forgery:
    return alter_part(lambda forge, part: forge.store.put(part["key"], change(forge.store.get(part["key"]).data)))


def without_row(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 2), table.slice(3)])


def swapped(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, table.num_rows)])


def with_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        values = pa.array(change(table[name].to_pylist()), table.schema.field(at).type)
        return table.set_column(at, table.schema.field(at), values)

    return edit


def reject_trained(forge: Forge) -> None:
    """An absent offset is not there any more; a trained one is rejected, too."""
    seq, at = forge.find(has_absent)
    planned = forge.read(LAYOUT.plan(seq))["plan"]["ranges"][at]
    table = pq.read_table(io.BytesIO(forge.store.get(planned["staged"]["key"]).data))
    offset = table["offset"][2].as_py()

    def edit(plan: dict[str, Any]) -> None:
        plan["ranges"][at]["rejected"]["too_large"] = [[offset, offset + 1]]
        plan["ranges"][at]["absent"] -= 1

    forge.plan(seq, edit)
    forge.recount()


def reject_outside(planned: dict[str, Any]) -> None:
    planned["rejected"]["too_large"] = [[planned["end"], planned["end"] + 1]]
    planned["absent"] -= 1


def reject_duplicate(planned: dict[str, Any]) -> None:
    planned["rejected"]["too_large"] = planned["duplicates"]
    planned["absent"] -= 1


def count_rejected_once_more(manifest: dict[str, Any]) -> None:
    manifest["totals"]["rejected"] += 1


def go_on_later(manifest: dict[str, Any]) -> None:
    manifest["next_offsets"]["1"] += 1


def forget_partition(manifest: dict[str, Any]) -> None:
    del manifest["next_offsets"]["1"]


def count_one_more(forge: Forge) -> None:
    """The plan counts a click more than are staged, and an absent offset less."""
    seq, at = forge.find(has_absent)

    def edit(plan: dict[str, Any]) -> None:
        plan["ranges"][at]["staged"]["rows"] += 1
        plan["ranges"][at]["absent"] -= 1

    forge.plan(seq, edit)


def end_early(forge: Forge) -> None:
    """The newest plan has a new partition, whose range ends before it begins."""
    empty: dict[str, Any] = {"staged": None, "rejected": {}, "duplicates": [], "absent": 0}
    forge.plan(15, lambda plan: plan["ranges"].append({"partition": 7, "start": 5, "end": 4, **empty}))
    forge.manifest(LAYOUT.manifest(15), lambda found: found["next_offsets"].update({"7": 5}))


def epoch_from(seq: int, epoch: int, **more: str) -> Forgery:
    """From this plan on, and in the checkpoints from there on, another epoch stands; `more` is in that plan only."""

    def forgery(forge: Forge) -> None:
        for each in range(seq, 16):
            forge.plan(each, lambda plan: plan.update(epoch=epoch))
        for key in forge.manifests():
            if key >= LAYOUT.manifest(seq):
                forge.manifest(key, lambda found: found.update(epoch=epoch))
        forge.plan(seq, lambda plan: plan.update(more))

    return forgery


FORGERIES: dict[str, tuple[Forgery, str]] = {
    "plan missing": (lambda forge: forge.store.delete(LAYOUT.plan(4)), "plan_missing"),
    "newest plan missing": (lambda forge: forge.store.delete(LAYOUT.plan(15)), "manifest_ahead"),
    "plan edited": (lambda forge: forge.plan(4, lambda plan: plan.update(created_ms=1), rechain=False), "chain"),
    "plan's nonce edited": (lambda forge: forge.plan(4, lambda plan: plan.update(nonce="x"), rechain=False), "chain"),
    "newest plan edited": (
        lambda forge: forge.plan(15, lambda plan: plan.update(created_ms=1), rechain=False),
        "manifest_plan",
    ),
    "first plan follows on another": (
        lambda forge: forge.plan(0, lambda plan: plan.update(previous_sha256="a")),
        "chain",
    ),
    "plan is no JSON": (last_plan(lambda data: data[:-9]), "plan_form"),
    "plan names a field twice": (
        last_plan(lambda data: data.replace(b'"seq"', b'"seq":15,"seq"')),
        "plan_form",
    ),
    "plan nested too deep": (last_plan(lambda _: b"[" * 100_000), "plan_form"),
    "plan with a negative offset": (lambda forge: forge.range(has_clicks, lambda it: it.update(start=-1)), "plan_form"),
    "plan with a partition twice": (
        lambda forge: forge.plan(4, lambda plan: plan["ranges"][1].update(partition=0)),
        "plan_form",
    ),
    "plan without a nonce": (lambda forge: forge.plan(4, lambda plan: plan.update(nonce="")), "plan_form"),
    "plan of a topic with a path": (lambda forge: forge.plan(4, lambda plan: plan.update(topic="../x")), "plan_form"),
    "plan with a number in quotes": (lambda forge: forge.plan(4, lambda plan: plan.update(epoch="1")), "plan_form"),
    "plan that is a list": (last_plan(lambda _: b"[]"), "plan_form"),
    "plan with a span of one end": (
        lambda forge: forge.plan(4, lambda plan: plan["ranges"][0].update(duplicates=[[45]])),
        "plan_form",
    ),
    "plan of an unknown format": (
        last_plan(lambda data: data.replace(b'"format":1', b'"format":2')),
        "plan_form",
    ),
    "plan of another lineage": (lambda forge: forge.plan(4, lambda plan: plan.update(lineage="x")), "plan_place"),
    "plan of another seq": (lambda forge: forge.plan(4, lambda plan: plan.update(seq=5)), "plan_place"),
    "fence of another topic": (lambda forge: forge.plan(0, lambda plan: plan.update(topic="x")), "plan_place"),
    "no plan among the plans": (lambda forge: forge.store.put(f"{LAYOUT.plans}note.txt", b"?"), "plan_stray"),
    "epoch falls": (epoch_from(10, 1), "epoch"),
    "epoch rises without a fence": (epoch_from(15, 3), "epoch"),
    "fence that is not empty": (epoch_from(9, 3, cut="fence"), "epoch"),
    "range that ends before it begins": (end_early, "count"),
    "fence without a new epoch": (epoch_from(8, 1), "epoch"),
    "gap": (lambda forge: forge.shift(1), "gap"),
    "overlapping range": (lambda forge: forge.shift(-1), "overlap"),
    "reject outside of the range": (lambda forge: forge.range(has_absent, reject_outside), "span"),
    "offset rejected and duplicate": (lambda forge: forge.range(has_both, reject_duplicate), "twice"),
    "offset rejected and staged": (reject_trained, "twice"),
    "offset unaccounted for": (lambda forge: forge.range(has_absent, lambda it: it.update(absent=0)), "count"),
    "foreign staged object": (
        lambda forge: forge.range(has_clicks, lambda it: it["staged"].update(key="headrace/lineage/other/a.parquet")),
        "foreign_key",
    ),
    "another range's staged object": (
        lambda forge: forge.range(has_clicks, lambda it: it["staged"].update(key=forge.keys("stage")[0])),
        "foreign_key",
    ),
    "staged object missing": (lambda forge: forge.store.delete(staged_key(forge)), "staged_missing"),
    "staged object truncated": (alter_staged(lambda data: data[:-1]), "staged_altered"),
    "staged object longer": (alter_staged(lambda data: data + b"x"), "staged_altered"),
    "staged object of another size than planned": (
        lambda forge: forge.range(has_clicks, lambda it: it["staged"].update(size=it["staged"]["size"] + 1)),
        "staged_altered",
    ),
    "staged object with one bit flipped": (alter_staged(flipped), "staged_altered"),
    "staged object with one row less": (
        alter_staged(lambda data: parquet(without_row(pa.table({"offset": [1, 2, 3, 4]}))) + data[:0]),
        "staged_altered",
    ),
    "row removed, the plan forged to fit": (
        lambda forge: forge.staged(has_clicks, without_row, absent=1),
        "manifest_totals",
    ),
    "wrong row count": (count_one_more, "staged_rows"),
    "staged object is no Parquet": (lambda forge: forge.restage(*forge.find(has_clicks), b"PAR1"), "staged_form"),
    "staged object of other columns": (
        lambda forge: forge.staged(has_clicks, lambda table: table.drop_columns(["event_type"])),
        "staged_form",
    ),
    "staged clicks out of order": (lambda forge: forge.staged(has_clicks, swapped), "staged_offsets"),
    "staged click of another range": (
        lambda forge: forge.staged(has_clicks, with_column("offset", lambda found: [*found[:-1], 10**6])),
        "staged_offsets",
    ),
    "event_id trained twice": (
        lambda forge: forge.staged(has_clicks, with_column("event_id", lambda found: ["e3", *found[1:]])),
        "event_id_twice",
    ),
    "event_id twice in a batch": (
        lambda forge: forge.staged(has_clicks, with_column("event_id", lambda found: ["new", *found[1:-1], "new"])),
        "event_id_twice",
    ),
    "manifest is no JSON": (
        lambda forge: forge.store.put(forge.manifests()[2], b"{"),
        "manifest_form",
    ),
    "manifest of an unknown format": (alter_manifest(format=2), "manifest_form"),
    "manifest of an odd partition": (alter_manifest(next_offsets={"0": 89, "1": 61, "-1": 5}), "manifest_form"),
    "manifest of another lineage": (alter_manifest(lineage="x"), "manifest_place"),
    "manifest of another seq": (alter_manifest(seq=3), "manifest_place"),
    "manifest names another plan": (alter_manifest(plan_sha256="0" * 64), "manifest_plan"),
    "manifest of another epoch": (alter_manifest(epoch=7), "manifest_epoch"),
    "manifest without parts": (alter_manifest(parts=[]), "manifest_form"),
    "manifest's next offset off by one": (
        lambda forge: forge.manifest(forge.manifests()[2], go_on_later),
        "manifest_offsets",
    ),
    "manifest forgets a partition": (
        lambda forge: forge.manifest(forge.manifests()[2], forget_partition),
        "manifest_offsets",
    ),
    "manifest's totals off by one": (
        lambda forge: forge.manifest(forge.manifests()[2], count_rejected_once_more),
        "manifest_totals",
    ),
    "part missing": (alter_part(lambda forge, part: forge.store.delete(part["key"])), "part_missing"),
    "part truncated": (put_part(lambda data: data[:-1]), "part_altered"),
    "part of another size than in the manifest": (
        alter_part(lambda _forge, part: part.update(size=part["size"] + 1)),
        "part_altered",
    ),
    "part with one bit flipped": (put_part(flipped), "part_altered"),
    "foreign part": (alter_part(lambda _forge, part: part.update(key="headrace/other.safetensors")), "foreign_key"),
    "CURRENT is no JSON": (replace_object(LAYOUT.current, lambda _: b"main"), "current"),
    "CURRENT names a lineage that is not there": (
        replace_object(LAYOUT.current, lambda _: b'{"lineage":"gone"}'),
        "current",
    ),
    "CURRENT leads out of the prefix": (replace_object(LAYOUT.current, lambda _: b'{"lineage":"../x"}'), "current"),
}


@pytest.mark.parametrize(("forgery", "rule"), FORGERIES.values(), ids=FORGERIES)
def test_forgery_is_found_and_named(forge: Forge, forgery: Forgery, rule: str) -> None:
    """One thing is wrong, all the rest agrees with it: just that rule is broken, so no other check would find it."""
    forgery(forge)

    found = list(verify(forge.store, PREFIX, LAYOUT.lineage))

    assert {breach.rule for breach in found} == {rule}
    assert RULES[rule] in str(found[0])


def test_breach_names_key_partition_and_offsets(forge: Forge) -> None:
    """The sentence for an operator says where: which object, which partition, which offsets."""
    key = forge.shift(1)
    plan = forge.read(key)["plan"]

    verdict = prove(forge.store, PREFIX)
    breach = verdict.first_breach

    assert breach is not None
    assert breach.key == key
    assert breach.partition in {planned["partition"] for planned in plan["ranges"]}
    assert breach.start is not None
    assert breach.end == breach.start + 1
    assert f"{key}, partition {breach.partition}, offsets {breach.start} to {breach.end}: " in str(breach)
    assert json.loads(json.dumps(verdict.to_dict()))["first_breach"]["text"] == str(breach)


def test_nonce_and_time_decide_nothing(forge: Forge) -> None:
    """Plans that differ only in their nonce and in when they were written are as good, if the chain agrees."""
    forge.plan(4, lambda plan: plan.update(nonce="another", created_ms=1))

    assert list(verify(forge.store, PREFIX)) == []


def test_event_id_may_come_back_after_the_window(forge: Forge) -> None:
    """An id is a duplicate only while the window, as the service had it, remembers it."""
    forge.staged(has_clicks, with_column("event_id", lambda found: ["e3", *found[1:]]))

    assert list(verify(forge.store, PREFIX, options=Options(window=1))) == []


def test_orphans_are_harmless(forge: Forge) -> None:
    """What crashes leave behind is counted and named, and breaks nothing."""
    newest = forge.keys("stage")[-1]
    orphans = [
        f"{LAYOUT.root}/archive/readme.txt",
        f"{LAYOUT.checkpoint(9)}users.0123456789abcdef.safetensors",
        f"{LAYOUT.checkpoint(6)}users.0123456789abcdef.safetensors",
        f"{LAYOUT.root}/notes.txt",
        LAYOUT.stage("clicks", 0, 3, 20),
        newest.replace(".parquet", ".0123456789abcdef.parquet"),
        LAYOUT.stage("clicks", 1, 10**6, 10**6 + 9),
        LAYOUT.stage("clicks", 10, 0, 9),
        LAYOUT.stage("other", 0, 0, 9),
    ]
    for key in orphans:
        forge.store.put(key, b"orphan")

    verdict = prove(forge.store, PREFIX)

    assert verdict.breaches == 0
    assert sorted(verdict.orphan_keys) == sorted(orphans)
    assert (verdict.orphans, verdict.orphan_bytes) == (9, 54)


def test_nothing_to_verify_is_an_error(forge: Forge) -> None:
    """A wrong prefix, a wrong lineage or an empty store does not count as proven."""
    for prefix, lineage in (("elsewhere", None), (PREFIX, "other"), ("elsewhere", "main"), (PREFIX, "../x")):
        with pytest.raises(ConfigError, match="lineage"):
            prove(forge.store, prefix, lineage)


def test_progress_is_told(forge: Forge) -> None:
    """The caller hears after each plan and checkpoint how far it is."""
    told: list[int] = []
    prove(forge.store, PREFIX, options=Options(told=lambda verdict: told.append(verdict.plans)))

    assert told == sorted(told)
    assert len(told) >= 16 + 6
    assert told[-1] == 16


def test_checkpoint_written_meanwhile_is_no_breach(forge: Forge) -> None:
    """A checkpoint newer than the plans that were listed stands on a plan that is there by now."""
    late = forge.store.objects.pop(LAYOUT.plan(15))

    def appear(verdict: Verdict) -> None:
        if verdict.plans == 15:
            forge.store.objects[LAYOUT.plan(15)] = late

    assert prove(forge.store, PREFIX, options=Options(told=appear)).breaches == 0


def test_memory_is_bounded_by_one_object(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are read in pieces or by the size that their plan gives: one of absurd length is never read whole."""
    monkeypatch.setattr(verify_reading, "_CHUNK_BYTES", 1000)
    asked = []
    read = forge.store.get_range

    def watched(key: str, start: int, length: int) -> bytes:
        asked.append((key, length))
        return read(key, start, length)

    def refused(key: str) -> Blob:
        raise AssertionError(f"{key} was read whole")

    monkeypatch.setattr(forge.store, "get_range", watched)
    monkeypatch.setattr(forge.store, "get", refused)
    key = staged_key_of(forge.store)
    forge.store.put(key, b"x" * 10**6)

    assert prove(forge.store, PREFIX).breaches == 1
    assert max(length for name, length in asked if name == key) < 10**5
    assert max(length for name, length in asked if name.endswith(".safetensors")) == 1000


def test_absurdly_large_plan_is_refused(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan beyond all sense is not parsed, and is named."""
    monkeypatch.setattr(verify_reading, "DOCUMENT_BYTES_MAX", 9_999)
    last_plan(lambda data: b" " * 10_000 + data)(forge)

    assert {breach.rule for breach in verify(forge.store, PREFIX)} == {"plan_form"}


def test_parquet_bomb_is_refused(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks that take a few bytes packed and all memory unpacked are refused by what the file claims of itself."""
    monkeypatch.setattr(verify_reading, "_STAGED", replace(verify_reading._STAGED, rows=99))
    forge.staged(has_clicks, lambda table: pa.concat_tables([table] * 100).slice(0, 100))

    found = list(verify(forge.store, PREFIX))

    assert "100 rows" in next(breach.what for breach in found if breach.rule == "staged_form")


def staged_key_of(store: MemoryStore) -> str:
    return next(key for key in store.objects if "/stage/" in key)
