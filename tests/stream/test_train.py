"""The batch job: what a run trains, writes, archives and clears, and what it says of bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from stream.errors import ConfigError, StoreRefused
from stream.store.directory import DirectoryStore
from stream.train import clickfile
from stream.train.job import run
from stream.train.progress import Progress
from stream.train.state import States
from tests.fakes import FakeClock, MemoryStore
from tests.stream.batch_rig import (
    ALL,
    ARCHIVES,
    MODEL,
    NEW,
    REJECTS,
    archived,
    clicks,
    digest_of,
    keys,
    model_of,
    settings,
    text,
    train,
    trained_store,
)


class Said(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.text = ""

    def say(self, text: str) -> None:
        self.text += f"{text}\n"


def test_full_training_writes_model_and_metadata() -> None:
    """All clicks are trained, and the pickle says what it holds."""
    store = MemoryStore()
    store.put(ALL, text(clicks(range(10), 120)))

    result = train(store)

    model = model_of(store)
    assert (result.mode, result.events, result.n_users) == ("full", 120, 10)
    assert model["metadata"]["training_mode"] == "full"
    assert model["metadata"]["total_training_samples"] == 120
    assert model["metadata"]["last_updated"] == "2023-11-14T22:13:20+00:00"
    assert model["metadata"]["epoch_losses"] == list(result.losses)
    assert model["metadata"]["final_loss"] == result.final_loss
    assert math.isfinite(model["metadata"]["final_loss"])
    assert model["user_embeddings"].shape == (10, 4)


def test_user_table_grows_by_exactly_the_new_users() -> None:
    """(1000, 32) becomes (1050, 32) for fifty new users, and the old ones keep their rows."""
    store = MemoryStore()
    store.put(ALL, text(clicks(range(1000), 2000)))
    train(store, model__train_dim=None)
    before = model_of(store)
    store.put(NEW, text(clicks(range(1000, 1050), 100, start=1_690_900_000, seed=1)))

    result = train(store, incremental=True, model__train_dim=None)

    after = model_of(store)
    assert before["user_embeddings"].shape == (1000, 32)
    assert after["user_embeddings"].shape == (1050, 32)
    assert (result.new_users, result.n_users) == (50, 1050)
    assert list(after["user_to_idx"])[:1000] == list(before["user_to_idx"])
    assert after["metadata"]["total_training_samples"] == 2100


def test_incremental_archives_then_clears() -> None:
    """The new object ends byte for byte in the archive, named by the clock, and is gone from where it was."""
    store, new = trained_store(), text(clicks(range(8, 12), 40, start=1_690_900_000))
    store.put(NEW, new)

    result = train(store, incremental=True)

    assert result.archive_key == "data/clickstream_archive_20231114_221320.json"
    assert store.get(result.archive_key).data == new
    assert not keys(store, NEW)
    assert (result.epochs, result.n_users) == (2, 12)
    assert model_of(store)["metadata"]["training_mode"] == "incremental"


def test_two_archives_in_one_second_do_not_collide() -> None:
    """A second increment within the same second gets a name of its own."""
    store = trained_store()
    for seed in (1, 2):
        store.put(NEW, text(clicks(range(5), 20, seed=seed)))
        train(store, incremental=True)

    assert len(keys(store, ARCHIVES)) == 2


@pytest.mark.parametrize("content", [None, b"", b"\n \r\n"])
def test_no_new_data_changes_nothing(content: bytes | None) -> None:
    """Without new clicks a run says so and leaves every object as it was."""
    store, said = trained_store(), Said()
    if content is not None:
        store.put(NEW, content)
    before = dict(store.objects)

    result = run(settings(incremental=True), progress=said, store=store, clock=FakeClock())

    assert not result.trained
    assert "no new data" in said.text
    assert store.objects == before


def test_what_was_trained_is_not_trained_again() -> None:
    """The same bytes put there once more are recognised, whoever put them."""
    store, new = trained_store(), text(clicks(range(5), 20))
    store.put(NEW, new)
    train(store, incremental=True)
    model = store.get(MODEL).data
    store.put(NEW, new)

    result = train(store, incremental=True)

    assert not result.trained
    assert store.get(MODEL).data == model


def test_only_the_rest_of_a_grown_object_is_trained() -> None:
    """An object that begins with the trained bytes gives only what follows; archives hold each line once."""
    store = trained_store()
    first, second = text(clicks(range(5), 20)), text(clicks(range(3), 15, start=1_690_900_000))
    store.put(NEW, first)
    train(store, incremental=True)
    store.put(NEW, first + second)

    result = train(store, incremental=True)

    assert result.events == 15
    assert archived(store) == first + second
    assert not keys(store, NEW)


def test_incremental_without_a_model_falls_back_to_full() -> None:
    """Both objects are trained, each click once, although the new ones are in the large object as well, in part."""
    store, said = MemoryStore(), Said()
    old, fresh = clicks(range(10), 100), clicks(range(10, 14), 40, start=1_690_900_000, seed=5)
    store.put(ALL, text(old + fresh[:25]))
    store.put(NEW, text(fresh))

    result = run(settings(incremental=True), progress=said, store=store, clock=FakeClock())

    assert (result.mode, result.fallback, result.events, result.duplicates) == ("full", True, 140, 25)
    assert "training in full instead" in said.text
    assert archived(store) == text(fresh)
    assert not keys(store, NEW)


def test_fallback_equals_a_full_training_of_both() -> None:
    """The state of a fallback is the one that all clicks in one object would have given."""
    old, fresh = clicks(range(10), 100), clicks(range(10, 14), 40, start=1_690_900_000, seed=5)
    apart, together = MemoryStore(), MemoryStore()
    apart.put(ALL, text(old))
    apart.put(NEW, text(fresh))
    together.put(ALL, text(old + fresh))

    train(apart, incremental=True)
    train(together)

    assert digest_of(apart) == digest_of(together)


def test_full_training_leaves_the_new_object_alone() -> None:
    """A full training reads the object of all clicks only; what is new stays for the incremental one."""
    store, new = trained_store(), text(clicks(range(5), 20))
    store.put(NEW, new)

    result = train(store)

    assert result.events == 120
    assert store.get(NEW).data == new


def test_full_training_starts_anew() -> None:
    """Trained twice in full, the model is the same as trained once."""
    store = trained_store()
    once = digest_of(store)

    train(store)

    assert digest_of(store) == once


def test_bad_lines_are_kept_with_number_and_reason() -> None:
    """Each bad line is in the rejects, with its line number and its original; the others are trained."""
    store, said = MemoryStore(), Said()
    lines = text(clicks(range(5), 60)).splitlines(keepends=True)
    lines[3:3] = [b"\n", b"{broken\n", b'{"user_id": "u"}\n', b"\xff\xfe\n"]
    store.put(ALL, b"".join(lines))

    result = run(settings(), progress=said, store=store, clock=FakeClock())

    (key,) = keys(store, REJECTS)
    rows = [json.loads(line) for line in store.get(key).data.splitlines()]
    assert (result.events, result.rejected, result.rejects_keys) == (60, 3, (key,))
    assert [(row["line"], row["reason"]) for row in rows] == [
        (5, "not_json"),
        (6, "missing_product_id"),
        (7, "not_utf8"),
    ]
    assert (rows[0]["text"], rows[2]["base64"]) == ("{broken", "//4=")
    assert "line 5: not_json" in said.text


def test_line_numbers_count_from_the_start_of_a_grown_object() -> None:
    """A bad line behind what was trained before is reported by its place in the whole object."""
    store, first = trained_store(), text(clicks(range(5), 20))
    store.put(NEW, first)
    train(store, incremental=True)
    store.put(NEW, first + b"{broken\n" + text(clicks(range(3), 15, start=1_690_900_000)))

    train(store, incremental=True)

    (key,) = keys(store, REJECTS)
    assert json.loads(store.get(key).data)["line"] == 21


def test_too_many_bad_lines_stop_the_run() -> None:
    """Above the allowed share nothing is trained or written; the message names object, counts, lines and setting."""
    store = trained_store()
    store.put(NEW, text([*clicks(range(5), 20), *["{broken"] * 5]))
    before = dict(store.objects)

    with pytest.raises(ConfigError) as raised:
        train(store, incremental=True)

    for part in (NEW, "5 of 25 lines", "line 21: not_json", "HEADRACE_TRAIN_MAX_REJECT_SHARE"):
        assert part in str(raised.value)
    assert store.objects == before


def test_duplicates_by_event_id_are_dropped() -> None:
    """An event id counts once, within an object and from one run to the next."""
    store = MemoryStore()
    rows = [{**row, "event_id": f"e{place}"} for place, row in enumerate(clicks(range(5), 60))]
    store.put(ALL, text([*rows, rows[7]]))
    first = train(store)
    store.put(NEW, text([rows[3], *[{**row, "event_id": f"n{n}"} for n, row in enumerate(clicks(range(3), 10))]]))

    second = train(store, incremental=True)

    assert (first.events, first.duplicates) == (60, 1)
    assert (second.events, second.duplicates) == (10, 1)


def test_nothing_but_duplicates_is_consumed_all_the_same() -> None:
    """New data without one new click leaves the model as it is, and is archived and cleared, not met for ever."""
    store = MemoryStore()
    rows = [{**row, "event_id": f"e{place}"} for place, row in enumerate(clicks(range(5), 60))]
    store.put(ALL, text(rows))
    train(store)
    before = digest_of(store)
    store.put(NEW, text(rows[:4]))

    result = train(store, incremental=True)

    assert (result.events, result.duplicates, result.epochs) == (0, 4, 0)
    assert digest_of(store) == before
    assert not keys(store, NEW)


def test_clicks_are_learned_in_the_order_of_time() -> None:
    """Lines in another order give the same model, for time decides; lines without a time come at the object's own."""
    rows = clicks(range(10), 120)
    ordered, shuffled = MemoryStore(), MemoryStore()
    ordered.put(ALL, text([*rows, {"user_id": "u1", "product_id": "p1"}]))
    shuffled.put(ALL, text([{"user_id": "u1", "product_id": "p1"}, *rows[60:], *rows[:60]]))

    train(ordered)
    train(shuffled)

    assert digest_of(ordered) == digest_of(shuffled)


def test_settings_of_the_contract_reach_the_training() -> None:
    """SEQUENCE_LENGTH, TOP_N, epochs and rate decay are what the environment says."""
    store = MemoryStore()
    store.put(ALL, text(clicks(range(10), 120)))
    train(store, model__sequence_length=4, model__top_n=7)
    model = model_of(store)
    store.put(NEW, text(clicks(range(5), 40)))
    other = store.copy()

    train(store, incremental=True, model__sequence_length=4, train__incremental_lr_decay=0.5)
    train(other, incremental=True, model__sequence_length=4, train__incremental_lr_decay=0.1)

    assert (model["sequence_length"], model["top_n"]) == (4, 7)
    assert model["user_recent_items"].shape == (10, 4)
    assert digest_of(store) != digest_of(other)


def test_settings_that_shape_the_model_are_kept_and_named() -> None:
    """An incremental run with another SEQUENCE_LENGTH goes on with the model's own, and says so."""
    store, said = trained_store(), Said()
    store.put(NEW, text(clicks(range(5), 40)))

    run(settings(incremental=True, model__sequence_length=5), progress=said, store=store, clock=FakeClock())

    assert "sequence_length=10" in said.text
    assert model_of(store)["sequence_length"] == 10


def test_a_removed_pickle_is_written_again() -> None:
    """The pickle is made from the state: an incremental run without news restores one that somebody removed."""
    store = trained_store()
    pickle = store.get(MODEL).data
    store.delete(MODEL)

    result = train(store, incremental=True)

    assert result.recovered
    assert store.get(MODEL).data == pickle


def test_old_generations_are_removed() -> None:
    """The state does not grow for ever: the last two generations stay."""
    store = trained_store()
    for seed in range(4):
        store.put(NEW, text(clicks(range(5), 20, seed=seed + 1)))
        train(store, incremental=True)

    states = States(store, MODEL)
    found = {key.removeprefix(states.layout.checkpoints)[:20] for key in keys(store, states.layout.checkpoints)}
    assert found == {f"{4:020d}", f"{5:020d}"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n\n", "not one click"),
        (b'[{"user_id": "a"}]', "jq"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"PAR1....", "Parquet"),
    ],
)
def test_what_is_no_clickstream_is_refused(content: bytes | None, words: str) -> None:
    """An object that is missing, empty or of another kind: an error that names it, and nothing is written."""
    store = MemoryStore()
    if content is not None:
        store.put(ALL, content)

    with pytest.raises(ConfigError) as raised:
        train(store)

    assert ALL in str(raised.value)
    assert words in str(raised.value)
    assert set(store.objects) <= {ALL}


@pytest.mark.parametrize(("every", "new"), [(None, b"\n\n"), (b"", b""), (b"\n", b"\n"), (b"", b"\n")])
def test_no_model_begins_without_a_click(every: bytes | None, new: bytes) -> None:
    """Incremental without a model and without a click: an error that names both objects, and nothing is written."""
    store = MemoryStore()
    store.put(NEW, new)
    if every is not None:
        store.put(ALL, every)
    before = dict(store.objects)

    with pytest.raises(ConfigError, match=f"not one click in {ALL} or {NEW}"):
        train(store, incremental=True)

    assert store.objects == before


def test_damaged_state_stops_an_increment_and_not_a_full_training() -> None:
    """A flipped byte in the state is found: incremental refuses and names the remedy, full makes a new state."""
    store = trained_store()
    (key,) = [key for key in keys(store, States(store, MODEL).layout.checkpoints) if "/users." in key]
    store.put(key, store.get(key).data[:-1] + b"?")
    store.put(NEW, text(clicks(range(5), 20)))

    with pytest.raises(StoreRefused, match="headrace train --full"):
        train(store, incremental=True)
    result = train(store)

    assert (result.mode, result.events) == ("full", 120)
    assert train(store, incremental=True).events == 20


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    """However many blocks a line takes, no more of it is held than tells that it is too long."""
    lines = [line for found in clickfile._lines([b"x" * 100] * 50 + [b"\ny"], 64) for line in found]

    assert [len(line) for line in lines] == [65, 1]


class Blind(MemoryStore):
    """A store that writes whatever the condition."""

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data)


def test_a_store_that_ignores_conditions_is_refused() -> None:
    """Where create-once does not hold, two runs could both commit: nothing is trained there, and nothing is left."""
    store = Blind()
    store.put(ALL, text(clicks(range(10), 60)))

    with pytest.raises(StoreRefused, match="create-once"):
        train(store)

    assert set(store.objects) == {ALL}


def test_long_lines_and_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that cut lines anywhere change nothing, and a line without end is one reject, not a full memory."""
    rows = clicks(range(10), 120)
    content = b"\xef\xbb\xbf" + text([*rows[:50], "x" * 100_000, *rows[50:]]).replace(b"\n", b"\r\n")
    whole, pieces = DirectoryStore(tmp_path / "whole"), DirectoryStore(tmp_path / "pieces")
    for store in (whole, pieces):
        store.put(ALL, content)

    train(whole)
    monkeypatch.setattr("stream.train.clickfile.BLOCK_BYTES", 37)
    result = train(pieces)

    assert (result.events, result.rejected) == (120, 1)
    assert digest_of(pieces) == digest_of(whole)
