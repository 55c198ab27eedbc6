"""Hugging Face models whose deeper layers run on joined states, which makes a trained model faster.

`JoinedForSequenceClassification.from_backbone(model, num_instances=2)` keeps the trained weights, the head's too. It
needs some distillation from the original model, on unlabelled text, to become as accurate again.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from fastmux.files import finish_replacing
from fastmux.joined_configuration import JoinedConfig
from fastmux.joins import JOINS
from fastmux.models.alignment import from_first_token
from fastmux.models.encoders import drop_pooler
from fastmux.models.exporting import any_groups
from fastmux.models.joined_encoder import JoinedEncoder
from fastmux.models.losses import token_loss
from fastmux.models.model_card import joined_card
from fastmux.models.narrowing import resize_heads
from fastmux.models.packed_joined import PackedJoined
from fastmux.models.prediction import PredictsInGroups
from fastmux.models.publishing import WithCard
from fastmux.modules.is_plain import is_plain
from fastmux.passes.masks import unasked


class JoinedPreTrainedModel(WithCard):
    """The base class of joined models: a Hugging Face model, `model`, whose encoder is a `JoinedEncoder`."""

    config_class = JoinedConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    labels_of_tokens = True  # if a row is padded on the left, they move with its tokens
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _auto: type = AutoModel
    _first_only = False  # the head reads the first position alone
    _joins: tuple[str, ...] = JOINS

    def __init__(self, config: JoinedConfig, *, model: PreTrainedModel | None = None):
        super().__init__(config)
        given = model is not None
        model = model if given else self._auto.from_config(config.backbone_config)
        if given:
            for module in model.modules():
                module._is_hf_initialized = True  # post_init leaves such modules their weights
        encoder = model.base_model.encoder
        if not given and config.attention_heads is not None:
            resize_heads(encoder.layer, config.attention_heads)
        model.base_model.encoder = JoinedEncoder(
            encoder.layer,
            encoder.config,
            num_instances=config.num_instances,
            join=config.join,
            row_layers=config.row_layers,
            last_layers=config.last_layers,
            first_only=self._first_only,
            first_layers=config.first_layers,
        )
        self.model = model
        self.post_init()
        self.train(model.training)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        num_instances: int,
        *,
        join: str = "positions",
        row_layers: int = 1,
        last_layers: int = 1,
        first_layers: int = 1,
        joined_layers: Sequence[int] | None = None,
    ):
        """Copies a model, with its head, and makes its deeper layers run on joined states.

        Args:
            backbone: A Hugging Face model, or the name or folder of one; or one whose layers
                `fastmux.models.narrowing.narrowed` made narrower. It is not changed.
            num_instances, join, row_layers, last_layers, first_layers: See `JoinedConfig`.
            joined_layers: The numbers of the layers that run on joined states, e.g. ``[1, 3]``. They lie between the
                row layers and the last layers. Layers between these that are not listed are left out, for speed. None
                keeps all. With N = 1 the list may be empty, and the result is a plain encoder with fewer layers.

        Raises:
            ValueError: The model is not of a kind in `fastmux.joins.BERT_LIKE`, or a value is out of
                range.

        Example:
            >>> import torch, fastmux
            >>> from transformers import BertConfig, BertForSequenceClassification
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
            >>> original = BertForSequenceClassification(tiny)
            >>> model = fastmux.JoinedForSequenceClassification.from_backbone(original, num_instances=2)
            >>> model(input_ids=torch.ones(5, 7, dtype=torch.long)).logits.shape
            torch.Size([5, 2])
        """
        if not isinstance(backbone, PreTrainedModel):
            backbone = cls._auto.from_pretrained(backbone)
        options: dict = {
            "num_instances": num_instances,
            "join": join,
            "row_layers": row_layers,
            "last_layers": last_layers,
            "first_layers": first_layers,
        }
        if first_layers > 1 and not cls._first_only:
            raise ValueError(
                f"first_layers is {first_layers}, expected 1: the head of a {cls.__name__} reads every position"
            )
        if join in JOINS and join not in cls._joins:
            raise ValueError(
                f"join is {join!r}, expected one of {', '.join(map(repr, cls._joins))}: the head of a {cls.__name__} "
                "reads every position"
            )
        JoinedConfig(
            backbone_config=copy.deepcopy(backbone.config), **options
        )  # raises what is wrong before anything is copied
        total = backbone.config.num_hidden_layers
        between = range(row_layers, total - last_layers)
        kept = list(between if joined_layers is None else joined_layers)
        least = 0 if num_instances == 1 else 1
        if len(kept) < least or kept != sorted(set(kept)) or not set(kept) <= set(between):
            raise ValueError(
                f"joined_layers is {joined_layers!r}, expected ascending numbers from {between.start} to "
                f"{between.stop - 1}, at least {least}"
            )
        model = copy.deepcopy(backbone)
        layers = model.base_model.encoder.layer
        kept = [*range(row_layers), *kept, *range(total - last_layers, total)]
        model.base_model.encoder.layer = nn.ModuleList(layers[i] for i in kept)
        model.config.num_hidden_layers = len(kept)
        heads = layers[0].attention.self.num_attention_heads
        if heads != model.config.num_attention_heads:
            options["attention_heads"] = heads
        config = JoinedConfig(backbone_config=model.config, **options)
        return cls(config, model=model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, JoinedEncoder):
            module.reset_parameters()
        elif getattr(self, "model", None) is not None:
            self.model._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Hugging Face. First completes a save that a killed process left unfinished."""
        name = pretrained_model_name_or_path
        if name is not None and Path(name).is_dir():
            finish_replacing(Path(name, kwargs.get("subfolder", "")))
        return super().from_pretrained(name, *args, **kwargs)

    def plain(self) -> PreTrainedModel:
        """Copies a model that joins nothing to one of the class that it was made from, which runs without fastmux.

        Raises:
            ValueError: Hugging Face has no config for the model: states are joined, attention has fewer heads than its
                width has room for, or more than the last layer runs at the first position alone.

        Example:
            >>> import fastmux
            >>> from transformers import BertConfig, BertForSequenceClassification
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
            >>> original = BertForSequenceClassification(tiny)
            >>> cut = fastmux.JoinedForSequenceClassification.from_backbone(original, 1, joined_layers=[])
            >>> type(cut.plain()).__name__, cut.plain().config.num_hidden_layers
            ('BertForSequenceClassification', 2)
        """
        if not self.config.is_plain:
            raise ValueError(
                "the model has no form without fastmux: it joins states, has fewer heads, or runs several layers at "
                "the first position alone"
            )
        model = self._auto.from_config(self.model.config).to(self.device, self.dtype)
        if getattr(self.model, "pooler", None) is None:
            drop_pooler(model)
        model.load_state_dict(self.model.state_dict())
        return model.train(self.training)

    def packed_form(self) -> PackedJoined | None:
        """How the model runs packed rows (`fastmux.passes.packed_model`); None if it only runs padded ones."""
        known = is_plain(self, type(self)) and PackedJoined.can_pack(self.model)
        return PackedJoined(self.model) if known else None

    def _own_card(self, repository: str) -> ModelCard:
        return joined_card(self.config, type(self).__name__, repository)

    @any_groups
    @can_return_tuple
    @from_first_token
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ):
        """Arguments and output are those of the original model. ``hidden_states`` are the layers' own, so some of them
        are joined. Rows may be padded on either side."""
        return self._run(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)

    def _run(self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs):
        mask = unasked(attention_mask, self.model.config)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}
        inputs |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        return self.model(**{name: t for name, t in inputs.items() if t is not None}, return_dict=True, **kwargs)


class JoinedModel(JoinedPreTrainedModel):
    """An encoder without a head: it returns ``last_hidden_state`` (B, L, d) and the encoder's other outputs."""


class _JoinedForLabels(PredictsInGroups, JoinedPreTrainedModel):
    @any_groups
    @can_return_tuple
    @from_first_token
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ):
        """Arguments and output are those of the original model. Rows may be padded on either side."""
        if labels is not None:
            kwargs["labels"] = labels
        return self._run(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)


class JoinedForSequenceClassification(_JoinedForLabels):
    """An encoder with a head on its first position. The last layer is computed at that position only, which is
    exact."""

    _auto = AutoModelForSequenceClassification
    _first_only = True
    labels_of_tokens = False


class JoinedForTokenClassification(_JoinedForLabels):
    """An encoder with a head on every position."""

    accepts_loss_kwargs = True
    _joins = tuple(join for join in JOINS if join != "pooled")
    _auto = AutoModelForTokenClassification

    @any_groups
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ):
        """Arguments and output are those of the original model. ``num_items_in_batch`` is the number of labels in all
        batches whose gradients a step accumulates; the loss is then the sum over this batch's labels divided by it."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if labels is None or num_items_in_batch is None:
            return super().forward(*inputs, labels, **kwargs)
        # The models of transformers accept the number and ignore it.
        outputs = super().forward(*inputs, **kwargs)
        return TokenClassifierOutput(
            loss=token_loss(outputs.logits, labels, num_items_in_batch),
            **{name: t for name, t in outputs.items() if name != "loss"},
        )
