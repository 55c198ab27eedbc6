"""What a candidate learns while multiplexed before its task, at every position: masked words (MUX-PLM, Murahari et al.,
2023, section 3.2: the primary reason for its accuracy), or an original's states of any text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from fastmux.configuration import TMuxConfig
from fastmux.distillation.teacher import captured_states


def learn_masked_words(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, arguments: TrainingArguments
) -> None:
    """Trains the encoder of ``student``, a joined model, to say the words that are masked in its rows; in place.

    What has no part in it, the task's head above all, stays as it is. The language head is new, and is dropped.
    """
    language = AutoModelForMaskedLM.from_config(student.model.config)
    setattr(language, language.base_model_prefix, student.model.base_model)
    language.tie_weights()
    with at_every_position(student):
        Trainer(
            model=language,
            args=arguments,
            train_dataset=rows.select_columns("input_ids"),
            data_collator=DataCollatorForLanguageModeling(tokenizer),
        ).train()


@contextlib.contextmanager
def at_every_position(student: PreTrainedModel) -> Iterator[None]:
    """Has a joined model run its last layers at every position, also where its head reads the first one alone."""
    encoder = student.model.base_model.encoder
    read_at_first = encoder.first_only, encoder.first_layers
    encoder.first_only, encoder.first_layers = False, 0
    try:
        yield
    finally:
        encoder.first_only, encoder.first_layers = read_at_first


def states_everywhere(student: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last states of a T-MUX or a joined model at every position, (B, L, d), whatever its head reads."""
    if student.config.model_type == TMuxConfig.model_type:
        mux = student.tmux.encode(**inputs)
        return student.tmux.demultiplex(mux, mux.content)
    with at_every_position(student), captured_states(student) as captured:
        student(**inputs)
    return captured[-1]
