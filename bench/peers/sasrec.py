"""SASRec (Kang and McAuley, 2018): causal self-attention over a user's clicks, in torch, on one thread.

`sasrec` is retrained from scratch at each fifth of the stream, as most shops run it; `sasrec_online` goes on from
where it is, with a few epochs over the clicks of each batch. Two blocks of one head, width 64, the ten clicks that a
question has, sampled softmax over 256 shared negatives.

On deskdrop .106 online (FACTS: .1187) and .088 retrained (.0407): here what the net does not know is ranked by
popularity, which lifts the retrained one most, and HR@20 is higher for both. On complete_journey .016 and .013 (.0200
and .0198), on online_retail .015 (.0125) retrained: no setting was tuned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.peer import Clicks, Question, beneath, library
from bench.peers.popularity import Popularity
from bench.peers.refits import Refits
from model.batch import Float64, Int64

WIDTH = 64
LENGTH = 10
NEGATIVES = 256
ROWS_AT_ONCE = 64
EPOCHS = 5
STEP = 5e-3
Piece = tuple[list[int], int]


class SasRec:
    """`online`: epochs over each batch; else a fit from scratch at each fifth. Item row i is token i + 1, 0 padding.

    The table of items is made twice as long as it must be, and anew when it is full; its weights are kept.
    """

    def __init__(self, *, online: bool) -> None:
        self._torch = library("torch", "peers-torch")
        self._torch.set_num_threads(1)
        self._torch.manual_seed(0)
        self._online = online
        self._refits = Refits(0.2)
        self._random = np.random.default_rng(0)
        self._histories: dict[int, list[int]] = {}
        self._popularity = Popularity(6.0)
        self._items = 0
        self._net: Any = None
        self._optimizer: Any = None

    def learn(self, clicks: Clicks) -> None:
        self._popularity.learn(clicks)
        due = self._refits.due(clicks)
        ended: dict[int, int] = {}
        for user, item in zip(clicks.users.tolist(), clicks.items.tolist(), strict=True):
            self._histories.setdefault(user, []).append(item)
            ended[user] = ended.get(user, 0) + 1
        if self._online:
            self._grow(clicks.n_items)
            self._fit([piece for user, count in ended.items() for piece in _pieces(self._histories[user], count)])
        elif due:
            self._net = None
            self._grow(clicks.n_items)
            self._fit([piece for history in self._histories.values() for piece in _pieces(history, len(history))])

    def score(self, question: Question) -> Float64:
        popular = self._popularity.score(question)
        if self._net is None or not len(question.context):
            return popular
        with self._torch.no_grad():
            tokens = self._torch.from_numpy(question.context[::-1].astype(np.int64) + 1)
            tokens = tokens[tokens <= self._items]
            if not len(tokens):
                return popular
            hidden = self._net.hidden(tokens[None])[0, -1]
            scores = self._net.items.weight[1 : self._items + 1] @ hidden
        return beneath(scores.numpy().astype(np.float64), popular)

    def _grow(self, n_items: int) -> None:
        self._items = n_items
        old = self._net
        if old is not None and n_items < old.items.num_embeddings:
            return
        self._net = _network(self._torch, 2 * n_items + 1)
        if old is not None:
            state = old.state_dict()
            rows = len(state["items.weight"])
            state["items.weight"] = self._torch.cat([state["items.weight"], self._net.items.weight.data[rows:]])
            self._net.load_state_dict(state)
        self._optimizer = self._torch.optim.Adam(self._net.parameters(), lr=STEP)

    def _fit(self, pieces: list[Piece]) -> None:
        for _ in range(EPOCHS):
            order = self._random.permutation(len(pieces))
            for start in range(0, len(order), ROWS_AT_ONCE):
                self._step([pieces[place] for place in order[start : start + ROWS_AT_ONCE]])

    def _step(self, pieces: list[Piece]) -> None:
        negatives = self._random.integers(1, self._items + 1, NEGATIVES)
        loss = self._loss(*(self._torch.from_numpy(each) for each in (*_padded(pieces), negatives)))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def _loss(self, tokens: Any, targets: Any, negatives: Any) -> Any:
        """Softmax cross-entropy of each target against the shared negatives; padding (0) has no target."""
        hidden = self._net.hidden(tokens)[targets > 0]
        wanted = targets[targets > 0]
        right = (hidden * self._net.items(wanted)).sum(-1, keepdim=True)
        wrong = hidden @ self._net.items(negatives).T
        wrong = wrong.masked_fill(negatives[None] == wanted[:, None], -1e9)
        return -self._torch.cat([right, wrong], 1).log_softmax(1)[:, 0].mean()


def _pieces(history: list[int], count: int) -> list[Piece]:
    """The last `count` clicks that have one before them, as targets of pieces of at most `LENGTH`, and their number."""
    left, end, found = min(count, len(history) - 1), len(history), []
    while left > 0:
        found.append((history[max(end - LENGTH - 1, 0) : end], min(left, LENGTH)))
        left, end = left - LENGTH, end - LENGTH
    return found


def _padded(pieces: list[Piece]) -> tuple[Int64, Int64]:
    """Tokens and, shifted by one, targets, int64 [rows, LENGTH] each; 0 where there is none."""
    tokens, targets = (np.zeros((len(pieces), LENGTH), np.int64) for _ in range(2))
    for row, (clicked, count) in enumerate(pieces):
        known, length = np.array(clicked, np.int64) + 1, len(clicked) - 1
        tokens[row, :length] = known[:-1]
        targets[row, length - count : length] = known[length - count + 1 :]
    return tokens, targets


def _network(torch: Any, tokens: int) -> Any:
    """Made here, so that torch is only loaded where it is wanted."""

    class Network(torch.nn.Module):  # type: ignore[misc]  # torch is Any: it may not be installed
        def __init__(self) -> None:
            super().__init__()
            self.items = torch.nn.Embedding(tokens, WIDTH, padding_idx=0)
            self.places = torch.nn.Embedding(LENGTH, WIDTH)
            torch.nn.init.normal_(self.items.weight, std=0.02)
            layer = torch.nn.TransformerEncoderLayer(WIDTH, 1, WIDTH, 0.0, batch_first=True, norm_first=True)
            self.blocks = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.norm = torch.nn.LayerNorm(WIDTH)

        def hidden(self, clicked: Any) -> Any:
            length = clicked.shape[1]
            mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
            # Sequences are padded after their end, where causal attention never looks.
            start = self.items(clicked) * WIDTH**0.5 + self.places(torch.arange(length))
            return self.norm(self.blocks(start, mask=mask, is_causal=True))

    return Network()
