"""What a conversion refuses before it begins, in one sentence each."""

from __future__ import annotations

import os
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.speed import engine_of, tokens_of
from fastmux.embedding.model import EmbeddingModel
from fastmux.files import check_room
from fastmux.labelling.labels import label_names
from fastmux.labelling.majority import majority_share
from fastmux.models.problems import Regression, SingleLabel, TokenLabels, Vectors
from fastmux.passes.shares import known_to

#: How many bytes a conversion takes on the disk for checkpoints and the model, in those of the original, about.
_COPIES = 10


def check_alone() -> None:
    """Raise ValueError in one of several processes, which would all train and write the same model."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdigit() and int(processes) > 1:
        raise ValueError(
            f"convert runs in one process, but a launcher started {processes} (WORLD_SIZE={processes}); start it "
            "without torchrun or accelerate launch: fastmux convert MODEL --text FILE --output_dir DIR"
        )


def check_enough(rows: int, least: int, share: float) -> None:
    """Raise ValueError for fewer than the least rows, of which a share is kept apart to measure on."""
    if rows < least:
        apart = int(share * rows)
        raise ValueError(
            f"texts has {rows} rows, expected at least {least}, better some thousands: {apart} would be kept apart to "
            f"measure on, by which {known_to(apart)}"
        )


def check_labels(
    original: PreTrainedModel | EmbeddingModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Dataset,
    problem: str | None,
) -> None:
    """Raise ValueError if the original gives all rows that are kept apart one label.

    Args:
        problem: The kind of labels, of `fastmux.models.problems`; None without a head.
    """
    if problem in (None, Regression.name, Vectors.name):
        return
    kind, what = (SingleLabel.name, "tokens") if problem == TokenLabels.name else (problem, "rows")
    logits = engine_of(original, tokenizer).run(tokens_of(held_out)).logits
    majority_share(logits, kind, label_names(original.config.id2label, original.config.num_labels), what)


def check_disk(folder: Path, states: float, original: PreTrainedModel | EmbeddingModel) -> None:
    """Raise OSError if the disk has too little room for what a conversion keeps while it runs.

    Args:
        states: The bytes of the original's outputs.
    """
    weights = sum(p.numel() * p.element_size() for p in original.parameters())
    check_room(folder, states + _COPIES * weights, "the conversion")
