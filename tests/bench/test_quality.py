"""The yardstick: its protocol against a plain loop, and that everyone is measured by it alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import quality
from bench.curves import draw
from bench.figures import interval, reciprocal, rolling, summary
from bench.peers.peer import Clicks, NotInstalled, Peer, PeerContender, Question
from bench.peers.popularity import Popularity
from bench.peers.recent import Recent
from bench.protocol import Exam, rank_of, set_exam, sit
from bench.streams import Stream, read_stream
from model.batch import Float64
from model.config import LearnerConfig
from model.learner import Learner

KEYS = {
    *("stream", "events", "scored", "batch", "mrr20", "hr20", "mrr10", "hr10", "ndcg10", "mrr20_repeat", "mrr20_new"),
    *("learn_seconds", "score_seconds", "events_per_second", "interval"),
}


def made_stream(clicks: int = 300, users: int = 12, items: int = 40, seed: int = 0) -> Stream:
    """Items appear all along; several clicks share a time."""
    random = np.random.default_rng(seed)
    newest = np.linspace(5, items, clicks)
    times = 1_700_000_000_000 + np.sort(random.integers(0, clicks // 2, clicks)) * 60_000
    who, what = random.integers(0, users, clicks), (random.random(clicks) * newest).astype(int)
    return Stream.of("made", [f"u{user}" for user in who], [f"i{item}" for item in what], times.astype(np.int64))


def stream_of(*clicks: tuple[str, str]) -> Stream:
    """One click a second."""
    users, items = zip(*clicks, strict=True)
    return Stream.of("listed", users, items, np.arange(len(clicks), dtype=np.int64) * 1000)


class Noted:
    """A peer that scores items by their row and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.learned: list[Clicks] = []

    def learn(self, clicks: Clicks) -> None:
        self.learned.append(clicks)

    def score(self, question: Question) -> Float64:
        self.asked.append(question)
        return np.floor(np.arange(question.n_items, dtype=np.float64) / 2)


def naive_questions(exam: Exam) -> list[tuple[int, str, list[str]]]:
    """By hand: place, target and context of every click that may be scored."""
    stream, found, history = exam.stream, [], dict[str, list[str]]()
    for place, (user, item) in enumerate(zip(stream.users, stream.items, strict=True)):
        finished = set(stream.items[: place // exam.batch * exam.batch])
        before = history.setdefault(user, [])
        if before:
            found.append((place, item, [other for other in before[:-11:-1] if other in finished]))
        before.append(item)
    return found


@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_contexts_are_those_of_a_plain_loop(batch: int) -> None:
    """The last ten of the user, newest first, this batch included, less the items of no finished batch."""
    exam = set_exam(made_stream(), batch, fraction=1.0, warmup=0.0)
    names = list(dict.fromkeys(exam.stream.items))
    naive = naive_questions(exam)
    found = []
    for place in exam.chosen.tolist():
        context = exam.context(place, exam.known_items(place // batch * batch))
        found.append((place, exam.stream.items[place], [names[row] for row in context]))

    assert found == naive


def test_scored_clicks_are_those_that_the_product_calls_ready() -> None:
    exam = set_exam(made_stream(), 20, fraction=1.0, warmup=0.0)
    learner, ready = Learner(LearnerConfig(dim=4)), []
    for place, _ in exam.batches():
        batch = exam.stream.batch(place)
        ready += (learner.ready(batch) + place.start).tolist()
        learner.learn(batch)

    assert exam.chosen.tolist() == ready


def test_ranks_are_those_of_a_plain_loop() -> None:
    exam = set_exam(made_stream(), 20, fraction=0.5, warmup=0.2, seed=3)
    ranks = sit(PeerContender(Noted(), exam), exam).ranks
    names, expected = list(dict.fromkeys(exam.stream.items)), []
    for place in exam.chosen.tolist():
        target, seen = exam.stream.items[place], set(exam.stream.items[: place // 20 * 20])
        mark = names.index(target) // 2
        others = [names.index(item) // 2 for item in seen - {target}]
        rank = 1 + sum(other > mark for other in others) + others.count(mark) / 2
        expected.append(rank if target in seen else np.inf)

    np.testing.assert_array_equal(ranks, expected)


def test_equal_times_keep_the_order_of_the_file() -> None:
    times = np.array([5, 1, 5, 1], np.int64)

    assert Stream.of("s", ["u"] * 4, ["a", "b", "c", "d"], times).items == ["b", "d", "a", "c"]


def test_an_unseen_target_is_a_miss() -> None:
    exam = set_exam(stream_of(("u", "a"), ("u", "b"), ("u", "b")), batch=2, fraction=1.0, warmup=0.0)
    sat = sit(PeerContender(Recent(), exam), exam)

    assert sat.ranks.tolist() == [np.inf, 1.0]


def test_ties_are_averaged() -> None:
    scores = np.array([3.0, 1.0, 1.0, 1.0, -np.inf, -np.inf])

    assert [rank_of(scores, target) for target in range(7)] == [1.0, 3.0, 3.0, 3.0, 5.5, 5.5, np.inf]


def test_the_scored_clicks_do_not_depend_on_the_batch() -> None:
    small, large = (set_exam(made_stream(), batch, fraction=0.3) for batch in (5, 100))

    np.testing.assert_array_equal(small.chosen, large.chosen)
    assert small.chosen.min() >= 30


def test_a_peer_is_asked_for_the_scored_clicks_only() -> None:
    exam, peer = set_exam(made_stream(), 50, fraction=0.2), Noted()
    sat = sit(PeerContender(peer, exam), exam)

    assert len(peer.asked) == np.isfinite(sat.ranks).sum() < len(exam.stream) / 4
    assert sum(len(clicks.items) for clicks in peer.learned) == len(exam.stream)


def test_the_product_and_the_peers_sit_the_same_exam() -> None:
    exam = set_exam(made_stream(), 50, fraction=0.5)
    product = quality.Product(LearnerConfig(dim=4, score_share=0.0), exam)
    ranks = [sit(contender, exam).ranks for contender in (product, PeerContender(Popularity(1.0), exam))]

    assert len(ranks[0]) == len(ranks[1]) == len(exam.chosen)
    np.testing.assert_array_equal(np.isinf(ranks[0]), np.isinf(ranks[1]))


def test_repeats_are_targets_in_their_context() -> None:
    exam = set_exam(stream_of(("u", "a"), ("u", "a"), ("u", "b"), ("u", "a")), batch=1, fraction=1.0, warmup=0.0)

    assert exam.repeats().tolist() == [True, False, True]


def test_the_summary_adds_up() -> None:
    figures = summary(np.array([1.0, 4.0, 15.0, np.inf]), np.array([True, False, False, False]))

    assert figures["mrr20"] == pytest.approx((1 + 1 / 4 + 1 / 15) / 4, abs=1e-5)
    assert (figures["hr20"], figures["hr10"], figures["mrr20_repeat"]) == (0.75, 0.5, 1.0)
    assert figures["ndcg10"] == pytest.approx((1 + 1 / np.log2(5)) / 4, abs=1e-5)


def test_the_interval_holds_the_mean_and_repeats_itself() -> None:
    random = np.random.default_rng(0)
    ranks, users = random.integers(1, 60, 500).astype(float), random.integers(0, 50, 500).astype(np.int32)
    gains = reciprocal(ranks, 20)
    low, high = interval(gains, users, seed=1)

    assert low < summary(ranks, ranks < 0)["mrr20"] < high
    assert (low, high) == interval(gains, users, seed=1)
    assert interval(gains - gains, users, seed=1) == (0.0, 0.0)


def test_the_curve_is_a_decayed_mean() -> None:
    np.testing.assert_allclose(rolling(np.array([1.0, 2.0, np.inf]), 1.0), [1.0, 2 / 3, (0.25 + 0.25) / 1.75])


def test_both_kinds_of_file_hold_the_same_stream(tmp_path: Path) -> None:
    rows = [{"user_id": 1, "session_id": row // 2, "product_id": f"p{row}", "timestamp": 10 - row} for row in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    parquet, lines = (read_stream(tmp_path / name, 4, "session_id") for name in ("s.parquet", "s.jsonl"))

    assert parquet.users == lines.users == ["1", "1", "0", "0"]
    assert parquet.items == lines.items == ["p3", "p2", "p1", "p0"]
    assert parquet.times.tolist() == lines.times.tolist() == [7000, 8000, 9000, 10000]
    for name in ("s.parquet", "s.jsonl"):
        assert read_stream(tmp_path / name, 2, skip=3).items == ["p4", "p3"]


def test_a_file_without_the_column_is_refused(tmp_path: Path) -> None:
    row = {"user_id": 1, "product_id": "p", "timestamp": 1}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "s.parquet")
    (tmp_path / "s.jsonl").write_bytes(msgspec.json.encode(row))

    for name, wrong in [("s.parquet", "no column visitor"), ("s.jsonl", "no clicks with visitor"), ("x", "no such")]:
        with pytest.raises(SystemExit, match=wrong):
            read_stream(tmp_path / name, user_column="visitor")


def test_json_has_the_same_keys_for_product_and_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = made_stream()
    columns = {"user_id": stream.users, "product_id": stream.items, "timestamp": stream.times}
    pq.write_table(pa.table(columns), tmp_path / "made.parquet")
    arguments = [str(tmp_path / "made.parquet"), "--json", "--batch", "50", "--peers", "recent,popularity"]
    monkeypatch.setattr(sys, "argv", ["quality", *arguments])
    quality.main()
    result = json.loads(capsys.readouterr().out)

    assert set(result) == {*KEYS, "peers", "settings"}
    assert set(result["peers"]) == {"recent", "popularity"}
    assert all(set(peer) == {*KEYS, "lead", "variant", "variants"} for peer in result["peers"].values())
    assert all(low <= high for low, high in (peer["lead"] for peer in result["peers"].values()))
    assert {result["scored"]} == {peer["scored"] for peer in result["peers"].values()}


def test_the_plot_is_of_the_product_and_the_best_peers() -> None:
    result = {
        "mrr20": 0.1,
        "peers": {"a": {"mrr20": 0.2}, "b": {"skipped": "x"}, "c": {"mrr20": 0.3}, "d": {"mrr20": 0}},
    }
    ranks = {name: np.ones(1) for name in ("product", "a", "c", "d")}

    assert list(quality.best(result, ranks, 2)) == ["product", "c", "a"]


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib: pip install '.[bench]'")
    exam = set_exam(made_stream(), 50, fraction=0.5)
    draw(tmp_path / "curve.png", exam, {"product": np.ones(len(exam.chosen)), "peer": np.full(len(exam.chosen), 3.0)})

    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_without_its_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> Peer:
        raise NotInstalled("no module nothing: pip install '.[peers]'")

    monkeypatch.setattr(quality, "PEERS", {"nobody": {"only": lacking}})
    result, ranks = quality.measure(set_exam(made_stream(60), 50), ["nobody"], seed=0)

    assert result["peers"] == {"nobody": {"skipped": "no module nothing: pip install '.[peers]'"}}
    assert list(ranks) == ["product"]
