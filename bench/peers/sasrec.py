"""SASRec (Kang and McAuley, 2018): causal self-attention over a user's clicks, in torch, on one thread.

`sasrec` is retrained from scratch at each fifth of the stream, as most shops run it; `sasrec_online` takes one step
after each batch instead, on the sequences that the batch's clicks end. Two blocks of one head, width 64, 50 clicks,
sampled softmax over 256 shared negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.peer import Clicks, Question, beneath, library
from bench.peers.popularity import Popularity
from bench.peers.refits import Refits
from model.batch import Float64, Int64

WIDTH = 64
LENGTH = 50
NEGATIVES = 256
ROWS_AT_ONCE = 128
EPOCHS = 5
STEP = 1e-3


class SasRec:
    """`online`: a step per batch; else a fit from scratch at each fifth. Item row i is token i + 1, 0 is padding.

    Tables have room for `capacity` items and are doubled beyond it, weights kept.
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
            # Only what is new is learned: each sequence's last clicks, as many as the batch brought.
            self._train([(self._histories[user], count) for user, count in ended.items()], clicks.n_items)
        elif due:
            self._net = None
            self._grow(clicks.n_items)
            pieces = [piece for history in self._histories.values() for piece in _pieces(history)]
            for _ in range(EPOCHS):
                self._train(
                    [(pieces[place], LENGTH) for place in self._random.permutation(len(pieces))], clicks.n_items
                )

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

    def _train(self, sequences: list[tuple[list[int], int]], n_items: int) -> None:
        """A step per `ROWS_AT_ONCE` sequences, on the last `count` clicks of each."""
        usable = [(history[-LENGTH - 1 :], count) for history, count in sequences if len(history) > 1]
        for start in range(0, len(usable), ROWS_AT_ONCE):
            tokens, targets = _padded(usable[start : start + ROWS_AT_ONCE])
            negatives = self._random.integers(1, n_items + 1, NEGATIVES)
            loss = self._loss(*(self._torch.from_numpy(each) for each in (tokens, targets, negatives)))
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


def _pieces(history: list[int]) -> list[list[int]]:
    """The history in runs of at most `LENGTH` clicks, each with the click before it."""
    return [history[max(end - LENGTH - 1, 0) : end] for end in range(len(history), 1, -LENGTH)]


def _padded(sequences: list[tuple[list[int], int]]) -> tuple[Int64, Int64]:
    """Tokens and, shifted by one, targets, int64 [rows, longest] each, 0 after the end and before the last `count`."""
    longest = max(len(history) for history, _ in sequences) - 1
    tokens, targets = (np.zeros((len(sequences), longest), np.int64) for _ in range(2))
    for row, (history, count) in enumerate(sequences):
        known = np.array(history, np.int64) + 1
        length = len(history) - 1
        tokens[row, :length] = known[:-1]
        first = max(length - count, 0)
        targets[row, first:length] = known[1 + first :]
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
