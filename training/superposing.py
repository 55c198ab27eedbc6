"""Masked-language modelling of superposed text: N rows, or N neighbouring positions, share a pass of one encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from fastmux import functional as F
from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.settings import check_fields, integer, one_of
from fastmux.training.learner import Order

#: Of the tokens that are to be said: this share is hidden, and another word stands there in half of the rest (Devlin et
#: al., 2019, "BERT", section 3.1).
_HIDDEN = 0.8


@dataclass(frozen=True)
class Way:
    """A way to train a plain encoder.

    Attributes:
        num_instances: N, what shares a pass until the recovery.
        join: What that is: "rows" of the batch, or neighbouring "positions" of a row.
    """

    num_instances: int = integer(1, 1)
    join: str = one_of("rows", ("rows", "positions"))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Batch:
    """Rows of a step.

    Attributes:
        ids: The token ids, some of them hidden, (B, L).
        labels: The tokens to be said, -100 elsewhere, (B, L).
        way: What shares a pass.
    """

    ids: Tensor
    labels: Tensor
    way: Way


def states_to_decode(model: BertForMaskedLM, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The states at the tokens that are to be said, (K, d), in front of BERT's own head, and these tokens, (K).

    Embedded rows are superposed, ``1/sqrt(N) sum_i v_i * x_i``, which has the size of one of them, and what the encoder
    makes of that is multiplied with v_i again, in front of the head: the demultiplexer "unbind", whose layer, GELU and
    LayerNorm are those of BERT's head. Unlike a `fastmux.TMux`, the sum does not pass the embeddings' positions and
    LayerNorm a second time: with N = 1 this is BERT.

    Args:
        vectors: The vectors of signs v_i, (N, d).
    """
    n, embedded = batch.way.num_instances, model.bert.embeddings(batch.ids)
    labels = batch.labels
    if n == 1:
        x = embedded
        labels = labels[:, None]
    else:
        x, labels = _grouped(embedded, batch.way), _grouped(labels, batch.way)
        x = F.hadamard_mux(x, vectors, scale=n**-0.5)
    h = model.bert.encoder(x)[0]
    group, instance, place = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    states = h[group, place]
    return (states if n == 1 else states * vectors[instance]), labels[group, instance, place]


def _grouped(values: Tensor, way: Way) -> Tensor:
    """(B, L, ...) -> (G, N, L', ...): N rows of the batch, or N neighbouring positions of a row."""
    n = way.num_instances
    if way.join == "rows":
        return values.unflatten(0, (-1, n))
    return values.unflatten(1, (-1, n)).transpose(1, 2)


def masked_loss(model: BertForMaskedLM, batch: Batch, vectors: Tensor) -> Tensor:
    """The mean cross-entropy of the tokens that are to be said."""
    states, tokens = states_to_decode(model, batch, vectors)
    head = model.cls.predictions
    return F.linear_cross_entropy(head.transform(states), head.decoder.weight, tokens, head.decoder.bias)


@dataclass
class MaskedRows:
    """Rows of text whose tokens are hidden anew in each step.

    Args:
        ids: The token ids, (rows, L), without padding.
        tokenizer: It knows which tokens are special, and which one hides.
        share: The share of the tokens that are to be said.
        sequences: How many a pass of the encoder has.
        seed: Of the order of rows, and of what is hidden.

    Raises:
        ValueError: There are fewer rows than a step has.
    """

    ids: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    share: float
    sequences: int
    seed: int
    _orders: dict[int, Order] = field(default_factory=dict, init=False, repr=False)

    def batch(self, step: int, way: Way) -> Batch:
        """The rows of a step: as many sequences for the encoder, whatever shares them."""
        order = self._orders.get(way.num_instances)
        if order is None:
            order = Order(np.full(len(self.ids), self.ids.shape[1]), self.sequences * way.num_instances, self.seed)
            self._orders[way.num_instances] = order
        return self._hidden(order.rows(step), np.random.default_rng((self.seed, step)), way)

    def all(self, way: Way) -> Iterator[Batch]:
        """All rows once, but for what fills no group; always with the same tokens hidden."""
        n = way.num_instances if way.join == "rows" else 1
        size = self.sequences * n
        for start in range(0, len(self.ids) // n * n, size):
            stop = min(start + size, len(self.ids) // n * n)
            yield self._hidden(np.arange(start, stop), np.random.default_rng((self.seed, start)), way)

    def _hidden(self, rows: np.ndarray, draw: np.random.Generator, way: Way) -> Batch:
        ids = self.ids[rows]
        asked = (draw.random(ids.shape) < self.share) & ~np.isin(ids, self.tokenizer.all_special_ids)
        labels = np.where(asked, ids, IGNORE_INDEX)
        kind = draw.random(ids.shape)
        ids = np.where(asked & (kind < _HIDDEN), self.tokenizer.mask_token_id, ids)
        other = draw.integers(0, len(self.tokenizer), ids.shape)
        ids = np.where(asked & (kind >= (1 + _HIDDEN) / 2), other, ids)
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels), way)


@torch.no_grad()
def score(model: BertForMaskedLM, rows: MaskedRows, vectors: Tensor, way: Way) -> tuple[float, float]:
    """The mean cross-entropy of all hidden tokens, and the share that is said rightly."""
    model.eval()
    total = right = count = 0.0
    for batch in rows.all(way):
        states, tokens = states_to_decode(model, batch, vectors)
        logits = model.cls.predictions(states).float()
        total += float(torch.nn.functional.cross_entropy(logits, tokens, reduction="sum"))
        right += float((logits.argmax(-1) == tokens).sum())
        count += len(tokens)
    return total / max(count, 1), right / max(count, 1)
