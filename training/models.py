"""The models of a run: the plain encoder with its head, and the multiplexed ones, all from one encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import fastmux
import fastmux.training.custom_encoders
from fastmux.distillation.embedding_student import EmbeddingStudent
from fastmux.models.loading import read_pretrained
from fastmux.training.recipe import Recipe
from fastmux.training.starts import start_from_averages, start_from_neighbours

#: Configs that have a name.
CONFIGS = Path(fastmux.training.custom_encoders.__file__).parent
PLAIN = "plain"
#: Variants that learn from the task's labels alone, without a warm-up and without a teacher: the encoder that is
#: multiplexed, what one would use in place of a T-MUX (it with fewer layers, or with less width), and it with all but
#: its first layers run on joined positions. `training/front.py` compares these for a pretrained encoder.
SMALLER = ("shallow", "narrow")
RIVALS = (*SMALLER, "joined")
ALONE = (PLAIN, *RIVALS)


def head_class(family: str, kind: str):
    """The class of a model with a head.

    Args:
        family: "AutoModel", a plain encoder; "TMux"; or "Joined".
        kind: The task's kind of head: "sequence", "multi_label", "regression" or "token"; or "embedding", with family
            "Joined": a model that embeds.
    """
    if kind == "embedding":
        return EmbeddingStudent
    end = "ForTokenClassification" if kind == "token" else "ForSequenceClassification"
    return getattr(transformers if family == "AutoModel" else fastmux, family + end)


@dataclass(frozen=True)
class ModelFactory:
    """Builds every model of a run.

    Attributes:
        recipe: The recipe, with the encoder's sizes, N, multiplexer, dropout and losses.
        tokenizer: The tokenizer, whose vocabulary the encoder has.
        kind: The kind of head: "sequence", "multi_label", "regression" or "token".
        labels: The names of the labels by id.
        encoder: The hub name or folder of a pretrained encoder; None for a new BERT of the recipe's size.
        config_name: The config of an encoder to make anew in place of that BERT, see `config_path`.
        start: The folder of the model whose encoder the multiplexed ones start from; None to start as the plain one
            does.
    """

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    kind: str
    labels: list[str]
    encoder: str | None = None
    config_name: str | None = None
    start: Path | None = None

    def plain(self) -> PreTrainedModel:
        """The encoder without multiplexing, with a new head."""
        config = self._encoder_config(self.recipe.dropout, **label_options(self.labels, self.kind))
        if self.encoder is not None:
            return read_pretrained(head_class("AutoModel", self.kind), self.encoder, "--encoder", config=config)
        return self._start(head_class("AutoModel", self.kind).from_config(config))

    def rival(self, variant: str) -> PreTrainedModel:
        """One of `RIVALS`, with new weights."""
        recipe = self.recipe
        config = self._encoder_config(recipe.dropout, **label_options(self.labels, self.kind))
        if variant == "shallow":
            config.num_hidden_layers = recipe.shallow_layers
        elif variant == "narrow":
            config.num_hidden_layers, config.hidden_size = recipe.narrow_layers, recipe.narrow_size
            config.intermediate_size = recipe.intermediate_size * recipe.narrow_size // recipe.hidden_size
        model = self._start(head_class("AutoModel", self.kind).from_config(config))
        if variant != "joined":
            return model
        options = {"join": "positions", "row_layers": recipe.joined_row_layers, "last_layers": 0}
        return head_class("Joined", self.kind).from_backbone(model, recipe.num_instances, **options)

    def retrieval(self, demultiplexer: str) -> fastmux.TMuxForRetrieval:
        """A multiplexed model for the warm-up. Without dropout: what it learns is exact copying."""
        return fastmux.TMuxForRetrieval.from_backbone(self._backbone(0.0), **self._mux_options(demultiplexer))

    def task(self, demultiplexer: str, warmed_up: Path | None) -> PreTrainedModel:
        """A multiplexed model with a new task head, on what the warm-up left or on the encoder alone."""
        head, recipe = head_class("TMux", self.kind), self.recipe
        options = {"retrieval_loss_weight": recipe.retrieval_loss_weight, **label_options(self.labels, self.kind)}
        options["retrieval_percentage"] = recipe.task_retrieval_percentage
        if warmed_up is None:
            return head.from_backbone(self._backbone(recipe.mux_dropout), **self._mux_options(demultiplexer), **options)
        config = fastmux.TMuxConfig.from_pretrained(warmed_up, **options)
        set_dropout(config.backbone_config, recipe.mux_dropout)
        model = head(config)
        # Only the heads differ.
        model.load_state_dict(fastmux.TMuxForRetrieval.from_pretrained(warmed_up).state_dict(), strict=False)
        return model

    def load(self, variant: str, folder: Path) -> PreTrainedModel:
        """The trained task model of a variant."""
        family = "Joined" if variant == "joined" else "AutoModel" if variant in ALONE else "TMux"
        return head_class(family, self.kind).from_pretrained(folder)

    def _mux_options(self, demultiplexer: str) -> dict[str, object]:
        return {
            "num_instances": self.recipe.num_instances,
            "multiplexer": self.recipe.multiplexer,
            "demultiplexer": demultiplexer,
            "sequence_summary": "first" if self.encoder is not None else self.recipe.sequence_summary,
        }

    def _backbone(self, dropout: float) -> PreTrainedModel:
        """The encoder that the multiplexed models start from."""
        if self.start is not None:
            config = AutoConfig.from_pretrained(self.start)
            set_dropout(config, dropout)
            # Without its head.
            return head_class("AutoModel", self.kind).from_pretrained(self.start, config=config).base_model
        config = self._encoder_config(dropout)
        if self.encoder is not None:
            return read_pretrained(AutoModel, self.encoder, "--encoder", config=config)
        return self._start(AutoModel.from_config(config))

    def _start(self, model: PreTrainedModel) -> PreTrainedModel:
        if self.config_name is not None:
            return model
        start_from_averages(model)
        if self.recipe.start_from_neighbours:
            start_from_neighbours(model)
        return model

    def _encoder_config(self, dropout: float, **options) -> PreTrainedConfig:
        if self.encoder is not None:
            config = AutoConfig.from_pretrained(self.encoder, **options)
        elif self.config_name is not None:
            words = {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
            config = AutoConfig.from_pretrained(config_path(self.config_name), **words, **options)
        else:
            recipe = self.recipe
            config = BertConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=recipe.hidden_size,
                num_hidden_layers=recipe.num_layers,
                num_attention_heads=recipe.num_heads,
                intermediate_size=recipe.intermediate_size,
                # Room for the longest prefix, so that every variant has the same encoder.
                max_position_embeddings=recipe.max_length + recipe.num_instances + 1,
                pad_token_id=self.tokenizer.pad_token_id,
                **options,
            )
        set_dropout(config, dropout)
        return config


def config_path(name: str) -> str:
    """What to read a config from: a file of `custom_encoders` by its name, or the name itself."""
    own = CONFIGS / f"{name}.json"
    return str(own) if own.is_file() else name


def label_options(labels: list[str], kind: str = "sequence") -> dict[str, object]:
    """The arguments of a config that describe a task's labels."""
    known = {"multi_label": "multi_label_classification", "regression": "regression"}
    problem = {"problem_type": known[kind]} if kind in known else {}
    return {**problem, "id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets every dropout that an encoder's config has."""
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
