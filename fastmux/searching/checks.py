"""What a search refuses before it begins, in one sentence each."""

from __future__ import annotations

import errno
import shutil
from os import PathLike
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.teacher import teacher_bytes
from fastmux.labelling.classifier import Classifier
from fastmux.passes.runtimes.record import is_exported
from fastmux.searching.measure import Part
from fastmux.searching.rows import SearchRows
from fastmux.searching.shares import word_places

#: How many bytes a search takes on the disk for checkpoints and exported models, in those of the original, about.
_COPIES = 30


def checked_classifier(
    model: str | PathLike | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> Classifier:
    """The original.

    Raises:
        ValueError: It is no classifier, gives numbers, or is multiplexed or exported already.
    """
    if isinstance(model, (str, PathLike)) and is_exported(model):
        raise ValueError(f"model {str(model)!r} is exported already; give the one that it was made from")
    classifier = Classifier.of(model, tokenizer)
    if classifier.problem_type == "regression":
        raise ValueError("model is a regression: it gives numbers, and has no labels that another model could share")
    if classifier.num_instances > 1:
        raise ValueError(
            f"model is multiplexed already (num_instances {classifier.num_instances}); give the plain one that it was "
            "made from"
        )
    return classifier


def check_disk(folder: Path, rows: SearchRows, classifier: Classifier) -> None:
    """Raise OSError if the disk has too little room for what a search keeps while it runs."""
    weights = sum(p.numel() * p.element_size() for p in classifier.model.parameters())
    lengths = rows.tokens.lengths[rows.learning]
    states = teacher_bytes(lengths, classifier.model.config.hidden_size, not classifier.per_token)
    needed = _COPIES * weights + states
    there = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"output_dir {str(folder)!r}: the search keeps up to {needed / 2**30:.1f} GiB there while it runs, and "
            f"{free / 2**30:.1f} GiB are free",
        )


def check_labels(part: Part, names: list[str]) -> float:
    """The share of the most frequent label among those that the original gives.

    Raises:
        ValueError: It is the only one.
    """
    if part.problem_type == "multi_label_classification":
        given = part.original > 0
        labels = np.unique(given, axis=0, return_inverse=True)[1].ravel()
        said = " and ".join(name for name, there in zip(names, given[0], strict=True) if there) or "no label"
    else:
        labels = part.original.argmax(-1)
        labels = labels if part.tokens.words is None else labels[word_places(part.tokens)]
        said = repr(names[labels[0]])
    share = float(np.bincount(labels).max() / len(labels))
    if share == 1.0:
        what = "rows" if part.tokens.words is None else "words"
        raise ValueError(
            f"texts: the original gives all {len(labels):,} {what} that are kept "
            f"apart one label, {said}: agreement with it means nothing; give text of all kinds that it tells apart"
        )
    return share
