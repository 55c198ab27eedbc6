"""What makes a model faster: each lever is a function here that names candidates for a given original.

A lever that is not here: write a function that takes the original's config and returns `Candidate`s, and put `@lever`
on it, or `@lever(to="label")` or `@lever(to="embed")` if it is only for models that do so. Nothing else has to know of
it: the race trains what `Candidate.make` returns, measures, exports and saves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.embedding_student import EmbeddingStudent
from fastmux.distillation.narrow import narrowed_for
from fastmux.embedding.model import EmbeddingModel
from fastmux.joins import BERT_LIKE
from fastmux.models.joined import JoinedForSequenceClassification, JoinedForTokenClassification


@dataclass(frozen=True)
class Candidate:
    """A structure that may take the original's place, before it learnt anything.

    Attributes:
        name: Its name in tables, pictures and folders.
        words: What it is, in a few words.
        make: Makes it of the original, which stays as it is. A ValueError says that this original has no such
            candidate. The result has the original's head and labels, takes the same inputs, and can be saved.
        multiplexed: Whether rows or positions share passes.
    """

    name: str
    words: str
    make: Callable[[Source], PreTrainedModel | EmbeddingModel]
    multiplexed: bool = False


@dataclass
class Source:
    """What candidates are made of.

    Attributes:
        original: The original, which stays as it is.
        rows: Rows that candidates learn from, with a column ``length``: they tell which neurons and heads the text
            needs.
        tokenizer: Pads the rows.
    """

    original: PreTrainedModel | EmbeddingModel
    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    _narrowed: dict[tuple[float, float], PreTrainedModel | EmbeddingModel] = field(
        default_factory=dict, init=False, repr=False
    )

    def narrowed(self, ffn_width: float, attention_width: float) -> PreTrainedModel | EmbeddingModel:
        """The original with these shares of each layer's neurons and heads; made once."""
        widths = ffn_width, attention_width
        if widths not in self._narrowed:
            given = {"ffn_width": ffn_width, "attention_width": attention_width}
            self._narrowed[widths] = narrowed_for(self.original, self.rows, self.tokenizer, **given)
        return self._narrowed[widths]


Lever = Callable[[PreTrainedConfig], list[Candidate]]
#: Every lever in the default race of models that label, and of those that embed.
LEVERS: dict[str, list[Lever]] = {"label": [], "embed": []}


def lever(function: Lever | None = None, *, to: str | None = None) -> Any:
    """Adds a lever to the races; with ``to``, to that of models that "label" or "embed"."""
    if function is None:
        return partial(lever, to=to)
    for kind in LEVERS if to is None else (to,):
        LEVERS[kind].append(function)
    return function


def candidates_for(config: PreTrainedConfig, to: str = "label") -> list[Candidate]:
    """The candidates of all levers for an original that labels or embeds."""
    return [candidate for function in LEVERS[to] for candidate in function(config)]


def joined(
    source: Source, num_instances: int, ffn_width: float = 1.0, attention_width: float = 1.0, **structure
) -> PreTrainedModel | EmbeddingModel:
    """A joined model with the original's head, or pooling, perhaps with fewer neurons and heads; see
    `JoinedForSequenceClassification.from_backbone`."""
    original = source.narrowed(ffn_width, attention_width)
    if isinstance(original, EmbeddingModel):
        return EmbeddingStudent.from_backbone(original, num_instances, **structure)
    tokens = type(original).__name__.endswith("ForTokenClassification")
    made = JoinedForTokenClassification if tokens else JoinedForSequenceClassification
    return made.from_backbone(original, num_instances, **structure)


@lever
def fewer_layers(config: PreTrainedConfig) -> list[Candidate]:
    """The original with some of its layers, evenly chosen, the first and the last among them."""
    total = _layers(config)
    if total < 2:
        return []
    counts = {max(1, round(total * share)) for share in (2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 12)}
    found = []
    for count in sorted(counts - {total}, reverse=True):
        if count == 1:
            structure: dict = {"row_layers": 0, "joined_layers": ()}
        else:
            structure = {"joined_layers": _spread(0, total - 1, count)[1:-1]}
        words = f"{count} of {total} layers"
        found.append(Candidate(f"cut-{count}", words, partial(joined, num_instances=1, **structure)))
    return found


@lever
def fewer_neurons(config: PreTrainedConfig) -> list[Candidate]:
    """Feed-forward layers keep the neurons that the text needs most, in all layers and in some."""
    total = _layers(config)
    found = []
    for share, words in ((1 / 2, "half"), (1 / 4, "a quarter")) if total else ():
        for count, layers, structure in _kept(total, {total, max(2, round(total * 2 / 3)), max(2, round(total / 2))}):
            make = partial(joined, num_instances=1, ffn_width=share, **structure)
            found.append(Candidate(f"narrow-{share:g}-{count}", f"{layers}, {words} of the neurons", make))
    return found


@lever
def fewer_neurons_and_heads(config: PreTrainedConfig) -> list[Candidate]:
    """All layers, with the neurons and the heads that the text needs most."""
    total = _layers(config)
    structure: dict = {"row_layers": 0, "joined_layers": ()} if total == 1 else {}
    found = []
    for share, words in ((1 / 2, "half"), (1 / 4, "a quarter")) if total else ():
        make = partial(joined, num_instances=1, ffn_width=share, attention_width=share, **structure)
        found.append(Candidate(f"narrow-both-{share:g}", f"all layers, {words} of the neurons and heads", make))
    return found


@lever(to="embed")
def fewer_neurons_and_some_heads(config: PreTrainedConfig) -> list[Candidate]:
    """A quarter of the neurons and three quarters of the heads, in all layers and in half of them: the best copies of
    their speed that `training/embeddings.py` found for a model of six layers."""
    total = _layers(config)
    found = []
    for count, layers, structure in _kept(total, {total, max(2, round(total / 2))} if total > 1 else set()):
        make = partial(joined, num_instances=1, ffn_width=1 / 4, attention_width=3 / 4, **structure)
        words = f"{layers}, a quarter of the neurons, three quarters of the heads"
        found.append(Candidate(f"narrow-0.25-0.75-{count}", words, make))
    return found


@lever(to="label")
def joined_positions(config: PreTrainedConfig) -> list[Candidate]:
    """N neighbouring positions of a row share some layers between the first and the last."""
    return _joined(config, "positions", "neighbouring positions", [(2, 1 / 3), (2, 1 / 6), (4, 1 / 3), (4, 1 / 6)])


@lever(to="label")
def pooled_positions(config: PreTrainedConfig) -> list[Candidate]:
    """N neighbouring positions become one behind the first layer, and stay so; for heads that read one position."""
    return _joined(config, "pooled", "positions become one and", [(2, 2 / 3), (2, 1 / 3), (4, 1 / 3)])


@lever(to="embed")
def pooled_vectors(config: PreTrainedConfig) -> list[Candidate]:
    """N neighbouring positions become one before the first layer or behind it, and stay so: what is pooled in the end
    need not be apart. Positions that are joined and restored, and joined rows, are left out: the first work for
    nothing, and a vector that depends on the rows beside it serves no index."""
    total = _layers(config)
    found: dict[str, Candidate] = {}
    for own, instances, share in (
        *((0, 2, share) for share in (1, 2 / 3, 1 / 2)),
        *((0, 4, share) for share in (1, 1 / 2)),
        *((1, 2, share) for share in (1, 2 / 3)),
        (1, 4, 2 / 3),
    ):
        count = round(total * share) - own
        if count < 1:
            continue
        structure: dict = {"row_layers": own, "last_layers": 0, "joined_layers": _spread(own, total - 1, count)}
        make = partial(joined, num_instances=instances, join="pooled", **structure)
        if own:
            name, where = f"pooled-behind-{instances}x{count + 1}", f" behind the first of {count + 1} layers"
        else:
            name, where = f"pooled-{instances}x{count}", f", then {count} of {total} layers"
        found[name] = Candidate(name, f"{instances} positions become one{where}", make, multiplexed=True)
    return list(found.values())


@lever
def joined_feed_forward(config: PreTrainedConfig) -> list[Candidate]:
    """N neighbouring positions share the feed-forward layers; attention runs at each."""
    return _joined(config, "feed_forward", "positions", [(2, 2 / 3), (4, 2 / 3), (4, 1 / 3)])


@lever(to="label")
def joined_rows(config: PreTrainedConfig) -> list[Candidate]:
    """N rows share some layers between the first and the last."""
    return _joined(config, "rows", "rows", [(2, 1 / 3), (4, 1 / 3)])


def _kept(total: int, counts: set[int]) -> list[tuple[int, str, dict[str, Any]]]:
    """For each number of layers that stay, the largest first: it, words for it, and the arguments of `joined`."""
    found = []
    for count in sorted(counts, reverse=True):
        kept = {"joined_layers": _spread(0, total - 1, count)[1:-1]}
        structure: dict[str, Any] = kept if total > 1 else {"row_layers": 0, "joined_layers": ()}
        found.append((count, f"{count} of {total} layers" if count < total else "all layers", structure))
    return found


def _joined(config: PreTrainedConfig, join: str, what: str, kinds: list[tuple[int, float]]) -> list[Candidate]:
    total = _layers(config)
    if total < 3:
        return []
    found: dict[str, Candidate] = {}
    for instances, share in kinds:
        count = max(1, round(total * share))
        kept = _spread(1, total - 2, count)
        name = f"{join.replace('_', '-')}-{instances}x{len(kept)}"
        words = f"{instances} {what} share {len(kept)} of {len(kept) + 2} layers"
        make = partial(joined, num_instances=instances, join=join, row_layers=1, joined_layers=kept)
        found[name] = Candidate(name, words, make, multiplexed=True)
    return list(found.values())


def _layers(config: PreTrainedConfig) -> int:
    """The number of layers of an encoder whose layers can be left out or joined; 0 of any other."""
    return config.num_hidden_layers if config.model_type in BERT_LIKE else 0


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """So many numbers from ``first`` to ``last``, as evenly as can be."""
    if count == 1:
        return ((first + last) // 2,)
    return tuple(sorted({int(k) for k in np.linspace(first, last, count).round()}))
