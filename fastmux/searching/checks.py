"""What a search refuses before it begins, in one sentence each."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.distil import distillation_arguments
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import teacher_bytes
from fastmux.embedding.loading import embeds
from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.neighbours import NEIGHBOURS, directions
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.files import check_room
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.majority import majority_share
from fastmux.passes.runtimes.record import is_exported
from fastmux.passes.shares import word_places
from fastmux.searching.forms import FLOAT32, INT8, why_not_exported
from fastmux.searching.measure import Part
from fastmux.searching.rows import SearchRows
from fastmux.searching.settings import SearchSettings

#: How many bytes a search takes on the disk for checkpoints and exported models, in those of the original, about.
_COPIES = 30
#: Vectors point the same way if none is so far from their mean; they have length 1.
_APART = 1e-3


def check_runtime(settings: SearchSettings) -> None:
    """Raise ValueError for a runtime or a precision that is asked for and cannot run here."""
    if settings.runtime == "onnxruntime" or settings.precision == INT8:
        device = distillation_arguments(Path(), ConversionSettings(), {}).device
        if (reason := why_not_exported(str(device), settings.precision or FLOAT32)) is not None:
            asked = "precision" if settings.runtime is None else "runtime"
            raise ValueError(f"{asked} is {getattr(settings, asked)!r}, but {reason}")


def checked_original(
    model: str | PathLike | PreTrainedModel | EmbeddingModel, tokenizer: PreTrainedTokenizerBase | None
) -> Classifier | Vectorizer:
    """The original.

    Raises:
        ValueError: It neither labels nor embeds, gives numbers, or is multiplexed or exported already.
    """
    if isinstance(model, (str, PathLike)) and is_exported(model):
        raise ValueError(f"model {str(model)!r} is exported already; give the one that it was made from")
    kind = Vectorizer if isinstance(model, EmbeddingModel) or embeds(model) else Classifier
    classifier = kind.of(model, tokenizer)
    if classifier.problem_type == "regression":
        raise ValueError("model is a regression: it gives numbers, and has no labels that another model could share")
    if classifier.num_instances > 1:
        raise ValueError(
            f"model is multiplexed already (num_instances {classifier.num_instances}); give the plain one that it was "
            "made from"
        )
    return classifier


def check_disk(folder: Path, rows: SearchRows, classifier: Classifier | Vectorizer) -> None:
    """Raise OSError if the disk has too little room for what a search keeps while it runs."""
    weights = sum(p.numel() * p.element_size() for p in classifier.model.parameters())
    lengths = rows.tokens.lengths[rows.learning]
    states = teacher_bytes(lengths, classifier.model.config.hidden_size, not classifier.per_token)
    check_room(folder, _COPIES * weights + states, "the search")


def check_answers(part: Part, names: list[str]) -> float:
    """What an answer that knows nothing of the rows would share with the original's: the share of the most frequent
    label, or of neighbours that are drawn at random.

    Raises:
        ValueError: All answers are the same.
    """
    if part.embeds:
        return _check_vectors(part)
    logits, words = part.original, part.tokens.words is not None
    return majority_share(
        logits[word_places(part.tokens)] if words else logits, part.problem_type, names, "words" if words else "rows"
    )


def _check_vectors(part: Part) -> float:
    vectors = directions(part.original[:, : part.dimensions])
    if np.linalg.norm(vectors - vectors.mean(0), axis=-1).max() < _APART:
        raise ValueError(
            f"texts: the vectors that the original gives all {len(vectors):,} rows that are kept apart point the same "
            "way: which of them are nearest means nothing; give text of all kinds that it tells apart"
        )
    return NEIGHBOURS / (len(vectors) - 1)
