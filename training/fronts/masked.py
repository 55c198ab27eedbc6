"""Masked-language modelling while multiplexed, before a candidate learns its task (MUX-PLM, Murahari et al., 2023,
section 3.2: the primary reason for its accuracy)."""

from __future__ import annotations

from datasets import Dataset
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)


def learn_masked_words(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, arguments: TrainingArguments
) -> None:
    """Trains the encoder of ``student``, a joined model, to say the words that are masked in its rows; in place.

    What has no part in it, the task's head above all, stays as it is. The language head is new, and is dropped.
    """
    base = student.model.base_model
    language = AutoModelForMaskedLM.from_config(student.model.config)
    setattr(language, language.base_model_prefix, base)
    language.tie_weights()
    encoder = base.encoder
    read_at_first = encoder.first_only, encoder.first_layers
    encoder.first_only, encoder.first_layers = False, 0
    try:
        Trainer(
            model=language,
            args=arguments,
            train_dataset=rows.select_columns("input_ids"),
            data_collator=DataCollatorForLanguageModeling(tokenizer),
        ).train()
    finally:
        encoder.first_only, encoder.first_layers = read_at_first
