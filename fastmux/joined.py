"""Models of Hugging Face whose deeper layers run on joined states: a trained encoder, head and all, made faster.

`JoinedForSequenceClassification.from_backbone(model, num_instances=2)` keeps everything that the model has learnt and
needs some distillation from it, on text without labels, to be its equal again.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from fastmux.joined_encoder import JOINS, JoinedEncoder

#: Encoders whose layers are BERT's: attention and feed-forward, each followed by a LayerNorm; no term by position.
BERT_LIKE = ("bert", "camembert", "electra", "roberta", "xlm-roberta")


class JoinedConfig(PreTrainedConfig):
    """Configuration of a model whose deeper layers run on joined states.

    Args:
        backbone_config: of the encoder as it is now, a Hugging Face config or its dict; one of `BERT_LIKE`.
        num_instances: N, states that are joined into one, 1 or more; 1 is the encoder as it was.
        join: "positions" (default), N neighbouring positions of a row; or "rows", N rows of the batch at each
            position.
        row_layers: layers before the join, 0 or more.
        last_layers: layers after it, where the states are apart again, 0 or more.
        kwargs: any common option of a Hugging Face config.

    Raises:
        ValueError: for a value outside what is listed above, or row and last layers that leave none of the encoder's to
            run on joined states.
    """

    model_type = "fastmux_joined"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    num_instances: int = 2
    join: str = "positions"
    row_layers: int = 1
    last_layers: int = 1

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict):
            options = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(options.pop("model_type", None), **options)
        elif self.backbone_config is None:
            self.backbone_config = AutoConfig.for_model("bert")
        backbone = self.backbone_config
        if backbone.model_type not in BERT_LIKE or getattr(backbone, "is_decoder", False):
            raise ValueError(
                f"backbone is a {backbone.model_type!r} model; layers can be run on joined states in encoders of the "
                f"kinds {', '.join(BERT_LIKE)}"
            )
        for name, least in (("num_instances", 1), ("row_layers", 0), ("last_layers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")
        if self.join not in JOINS:
            raise ValueError(f"join is {self.join!r}, expected one of {', '.join(map(repr, JOINS))}")
        layers = backbone.num_hidden_layers
        if self.row_layers + self.last_layers >= layers:
            raise ValueError(
                f"row_layers is {self.row_layers} and last_layers is {self.last_layers}, expected fewer than "
                f"{layers} in all: the encoder has {layers} layers, of which at least one runs on joined states"
            )
        for name in ("id2label", "label2id", "problem_type"):
            if getattr(backbone, name, None) is not None:
                kwargs.setdefault(name, getattr(backbone, name))
        kwargs.setdefault("attn_implementation", backbone._attn_implementation)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        return self.backbone_config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.backbone_config.vocab_size

    @property
    def pad_token_id(self) -> int | None:
        return self.backbone_config.pad_token_id


class JoinedPreTrainedModel(PreTrainedModel):
    """What the models here share: a Hugging Face model, `model`, whose encoder is a `JoinedEncoder`."""

    config_class = JoinedConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _auto: type = AutoModel
    _first_only = False  # the head reads the first position alone

    def __init__(self, config: JoinedConfig, *, model: PreTrainedModel | None = None):
        super().__init__(config)
        given = model is not None
        model = model if given else self._auto.from_config(config.backbone_config)
        if given:
            for module in model.modules():
                module._is_hf_initialized = True  # post_init leaves such modules their weights
        encoder = model.base_model.encoder
        model.base_model.encoder = JoinedEncoder(
            encoder.layer,
            encoder.config,
            num_instances=config.num_instances,
            join=config.join,
            row_layers=config.row_layers,
            last_layers=config.last_layers,
            first_only=self._first_only,
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
        joined_layers: Sequence[int] | None = None,
    ):
        """A copy of a model, with its head, whose deeper layers run on joined states.

        Args:
            backbone: a Hugging Face model, or the name or folder of one. It stays as it is.
            num_instances, join, row_layers, last_layers: see `JoinedConfig`.
            joined_layers: numbers of those of the model's layers that run on joined states, e.g. ``[1, 3]``, between
                the row and the last layers; the others are left out, for speed. All of them if None.

        Raises:
            ValueError: for a model of another kind than `BERT_LIKE`, or a value out of range.

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
        options = {
            "num_instances": num_instances,
            "join": join,
            "row_layers": row_layers,
            "last_layers": last_layers,
        }
        JoinedConfig(backbone_config=copy.deepcopy(backbone.config), **options)  # says what is wrong before any copy
        total = backbone.config.num_hidden_layers
        between = range(row_layers, total - last_layers)
        kept = list(between if joined_layers is None else joined_layers)
        if not kept or kept != sorted(set(kept)) or not set(kept) <= set(between):
            raise ValueError(
                f"joined_layers is {joined_layers!r}, expected ascending numbers from {between.start} to "
                f"{between.stop - 1}, at least one"
            )
        model = copy.deepcopy(backbone)
        layers = model.base_model.encoder.layer
        kept = [*range(row_layers), *kept, *range(total - last_layers, total)]
        model.base_model.encoder.layer = nn.ModuleList(layers[i] for i in kept)
        model.config.num_hidden_layers = len(kept)
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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ):
        """Arguments and output are those of the model that this was made from; ``hidden_states`` are those of the
        layers as they run, joined where they are."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        return self.model(**{name: t for name, t in inputs.items() if t is not None}, **kwargs)


class JoinedModel(JoinedPreTrainedModel):
    """An encoder without a head: ``last_hidden_state`` (B, L, d) and what else the encoder gives."""


class _JoinedForLabels(JoinedPreTrainedModel):
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
        """Arguments and output are those of the model that this was made from."""
        if labels is not None:
            kwargs["labels"] = labels
        return super().forward(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)


class JoinedForSequenceClassification(_JoinedForLabels):
    """An encoder with a head on its first position. The last layer is computed at that position alone, exactly."""

    _auto = AutoModelForSequenceClassification
    _first_only = True


class JoinedForTokenClassification(_JoinedForLabels):
    """An encoder with a head on every position."""

    _auto = AutoModelForTokenClassification


AutoConfig.register(JoinedConfig.model_type, JoinedConfig, exist_ok=True)
AutoModel.register(JoinedConfig, JoinedModel, exist_ok=True)
AutoModelForSequenceClassification.register(JoinedConfig, JoinedForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(JoinedConfig, JoinedForTokenClassification, exist_ok=True)
