"""What makes a model faster: each lever is a function here that names candidates for a given original.

A lever that is not here: write a function that takes the original and returns `Candidate`s, and put `@lever` on it.
Nothing else has to know of it: the race trains what `Candidate.make` returns, and measures, exports and saves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import PreTrainedModel

from fastmux.joined_configuration import BERT_LIKE
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
    make: Callable[[PreTrainedModel], PreTrainedModel]
    multiplexed: bool = False


Lever = Callable[[PreTrainedModel], list[Candidate]]
#: Every lever in the default race.
LEVERS: list[Lever] = []


def lever(function: Lever) -> Lever:
    """Adds a lever to the race."""
    LEVERS.append(function)
    return function


def candidates_for(original: PreTrainedModel) -> list[Candidate]:
    """The candidates of all levers."""
    return [candidate for function in LEVERS for candidate in function(original)]


def joined(original: PreTrainedModel, num_instances: int, **structure) -> PreTrainedModel:
    """A joined model with the original's head; see `JoinedForSequenceClassification.from_backbone`."""
    tokens = type(original).__name__.endswith("ForTokenClassification")
    made = JoinedForTokenClassification if tokens else JoinedForSequenceClassification
    return made.from_backbone(original, num_instances, **structure)


@lever
def fewer_layers(original: PreTrainedModel) -> list[Candidate]:
    """The original with some of its layers, evenly chosen, the first and the last among them."""
    total = _layers(original)
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
def joined_positions(original: PreTrainedModel) -> list[Candidate]:
    """N neighbouring positions of a row share some layers between the first and the last."""
    return _joined(original, "positions", "neighbouring positions", [(2, 1 / 3), (2, 1 / 6), (4, 1 / 3), (4, 1 / 6)])


@lever
def joined_rows(original: PreTrainedModel) -> list[Candidate]:
    """N rows share some layers between the first and the last."""
    return _joined(original, "rows", "rows", [(2, 1 / 3), (4, 1 / 3)])


def _joined(original: PreTrainedModel, join: str, what: str, kinds: list[tuple[int, float]]) -> list[Candidate]:
    total = _layers(original)
    if total < 3:
        return []
    found: dict[str, Candidate] = {}
    for instances, share in kinds:
        count = max(1, round(total * share))
        kept = _spread(1, total - 2, count)
        name = f"{join}-{instances}x{len(kept)}"
        words = f"{instances} {what} share {len(kept)} of {len(kept) + 2} layers"
        make = partial(joined, num_instances=instances, join=join, row_layers=1, joined_layers=kept)
        found[name] = Candidate(name, words, make, multiplexed=True)
    return list(found.values())


def _layers(original: PreTrainedModel) -> int:
    """The number of layers of an encoder whose layers can be left out or joined; 0 of any other."""
    known = original.config.model_type in BERT_LIKE
    return original.config.num_hidden_layers if known else 0


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """So many numbers from ``first`` to ``last``, as evenly as can be."""
    if count == 1:
        return ((first + last) // 2,)
    return tuple(sorted({int(k) for k in np.linspace(first, last, count).round()}))
