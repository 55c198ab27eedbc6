"""The inputs of a run: a task's rows and text as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from fastmux.training.arguments import Settings
from fastmux.training.encoders import read_encoder
from fastmux.training.features import encode_rows, pack_rows
from fastmux.training.tasks import make_task
from fastmux.training.tasks.base import Task, texts_of
from fastmux.training.tokenization import train_tokenizer

#: Packed rows of held-out text on which retrieval accuracy is measured, at most.
RETRIEVAL_ROWS = 256


@dataclass(frozen=True)
class Inputs:
    """A task's data as the models take it.

    Attributes:
        task: The task.
        labels: The names of the labels by id.
        tokenizer: The pretrained encoder's tokenizer, or one that is trained on the task's text.
        train, evaluation: The rows, the latter by split; see `fastmux.training.features`.
        text, held_out_text: The packed rows for the retrieval warm-up, and others to measure it.
    """

    task: Task
    labels: list[str]
    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    evaluation: dict[str, Dataset]
    text: Dataset
    held_out_text: Dataset

    @property
    def curve_split(self) -> Dataset:
        """The evaluation split of the learning curves."""
        return next(iter(self.evaluation.values()))

    def counts(self) -> dict[str, object]:
        """The numbers of rows, and of rows that were cut at ``max_length``, by split; of packed rows and of tokens."""
        splits = {"train": self.train, **self.evaluation}
        return {
            "train_rows": len(self.train),
            "evaluation_rows": {split: len(rows) for split, rows in self.evaluation.items()},
            "cut_rows": {split: sum(rows["cut"]) for split, rows in splits.items()},
            "packed_text_rows": len(self.text),
            "vocabulary": len(self.tokenizer),
        }


def prepare(settings: Settings) -> Inputs:
    """Reads a run's task and makes token ids of it.

    Raises:
        ValueError: A file is missing or malformed, or holds too little.
    """
    options, recipe = settings.options, settings.recipe
    task = make_task(vars(options))
    data = task.checked(options.data_dir)
    if len(data.train) < recipe.num_instances:
        raise ValueError(
            f"the task has {len(data.train)} training rows, fewer than num_instances={recipe.num_instances}"
        )
    if options.encoder is not None:
        tokenizer, room = read_encoder(options.encoder)
        if recipe.max_length > room:
            raise ValueError(f"--max_length is {recipe.max_length}, but {options.encoder} has room for {room} tokens")
    else:
        tokenizer = train_tokenizer(data.text, recipe.vocab_size, recipe.max_length)
    encode = partial(encode_rows, task.kind, tokenizer, length=recipe.max_length)
    held_out = pack_rows(tokenizer, texts_of(next(iter(data.evaluation.values()))), recipe.max_length)
    return Inputs(
        task=task,
        labels=data.labels,
        tokenizer=tokenizer,
        train=encode(split=data.train),
        evaluation={name: encode(split=split) for name, split in data.evaluation.items()},
        text=pack_rows(tokenizer, data.text, recipe.max_length),
        held_out_text=held_out.shuffle(seed=0).select(range(min(RETRIEVAL_ROWS, len(held_out)))),
    )
