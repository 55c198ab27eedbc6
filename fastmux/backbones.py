"""Encoders: finding one, checking that it can be multiplexed, and reaching into its embeddings.

T-MUX runs the encoder's embedding module on every instance before multiplexing, and the encoder itself, as
``inputs_embeds``, on the result (DataMUX, section 3.1; the published checkpoints do the same).
"""

from __future__ import annotations

import copy
import inspect
import os

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from fastmux import functional as F

# Embedding modules made of word, position and (some) token type tables, LayerNorm and dropout, and nothing else.
STANDARD_EMBEDDINGS = {
    "bert.BertEmbeddings",
    "camembert.CamembertEmbeddings",
    "distilbert.Embeddings",
    "electra.ElectraEmbeddings",
    "mpnet.MPNetEmbeddings",
    "roberta.RobertaEmbeddings",
    "xlm_roberta.XLMRobertaEmbeddings",
}


def load_backbone(
    backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
) -> tuple[PreTrainedConfig, PreTrainedModel | None]:
    """(config, encoder) of a hub name, a local folder, a config (encoder None: still to be built) or a model.

    A model with a task head is asked for its encoder. The encoder shares its weights with the model that was given; the
    config is a copy.

    Raises:
        ValueError: if ``backbone`` is none of these, or names nothing that can be loaded.
    """
    if isinstance(backbone, (str, os.PathLike)):
        try:
            backbone = AutoModel.from_pretrained(backbone)
        except OSError as error:
            raise ValueError(
                f"backbone is {str(backbone)!r}, expected the name of a model on the Hugging Face hub or a folder that "
                f"holds one: {error}"
            ) from error
    if isinstance(backbone, PreTrainedConfig):
        check_encoder_config(backbone)
        return copy.deepcopy(backbone), None
    if isinstance(backbone, PreTrainedModel):
        check_encoder_config(backbone.config)
        # Shallow: the weights are shared, but dropping the pooler must not reach into the caller's model.
        encoder = copy.copy(backbone.base_model)
        encoder._modules = dict(encoder._modules)
        return copy.deepcopy(encoder.config), encoder
    raise ValueError(
        f"backbone is a {type(backbone).__name__}, expected a hub name, a folder, a Hugging Face config or a "
        "Hugging Face model"
    )


def check_encoder_config(config: PreTrainedConfig) -> None:
    """Raises ValueError, with the reason, for a model that is no bidirectional text encoder."""
    kind = f"backbone is a {config.model_type!r} model"
    if config.model_type == "tmux":
        raise ValueError(f"{kind}, which is multiplexed already; load it with from_pretrained")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise ValueError(f"{kind} with a decoder; only encoders that see the whole sequence can be multiplexed")
    if not hasattr(config, "hidden_size") or not hasattr(config, "vocab_size"):
        raise ValueError(f"{kind} without a hidden_size and a vocab_size; expected a text encoder")


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A new encoder with random weights.

    Raises:
        ValueError: if transformers has no encoder for this config.
    """
    try:
        return AutoModel.from_config(config)
    except ValueError as error:
        raise ValueError(
            f"backbone has a {type(config).__name__}, of which AutoModel makes no encoder: {error}"
        ) from error


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Task heads read demultiplexed states, never the pooler; DDP asks that every parameter have a gradient."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None


class EmbeddingAdapter:
    """What multiplexing needs to know of an encoder's embedding module: its tables, its position rule, its room.

    Raises:
        ValueError: if the encoder's embeddings are of a kind that fastmux does not know, or it takes no
        ``inputs_embeds``.
    """

    def __init__(self, encoder: PreTrainedModel):
        module = getattr(encoder, "embeddings", None)
        package, _, family = type(module).__module__.rpartition(".")[0].rpartition(".")
        name = f"{family}.{type(module).__name__}"
        if package != "transformers.models" or name not in STANDARD_EMBEDDINGS:
            known = ", ".join(sorted(STANDARD_EMBEDDINGS))
            raise ValueError(
                f"backbone is a {type(encoder).__name__} whose embeddings are {name}; fastmux multiplexes "
                f"encoders with one of {known}"
            )
        if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
            raise ValueError(f"backbone is a {type(encoder).__name__}, whose forward takes no inputs_embeds")
        self.word: nn.Embedding = module.word_embeddings
        self.position: nn.Embedding = module.position_embeddings
        self.token_type: nn.Embedding | None = getattr(module, "token_type_embeddings", None)
        self.layer_norm: nn.LayerNorm = module.LayerNorm
        self.dropout: nn.Dropout = module.dropout
        # RoBERTa and its kin count positions from pad_token_id + 1 and leave pads at pad_token_id.
        self.pad_id: int | None = self.position.padding_idx
        self.first_position = 0 if self.pad_id is None else self.pad_id + 1

    @property
    def max_length(self) -> int:
        """Positions that the encoder has room for."""
        return self.position.num_embeddings - self.first_position

    def content_positions(self, input_ids: Tensor | None, length: int, offset: int, device: torch.device) -> Tensor:
        """Position ids (L) or (B, L) of the content behind a prefix of ``offset`` positions."""
        start = self.first_position + offset
        if self.pad_id is None or input_ids is None:
            return torch.arange(start, start + length, device=device)
        real = input_ids != self.pad_id
        if not torch.compiler.is_compiling() and real.device.type == "cpu" and bool(real.all()):
            return torch.arange(start, start + length, device=device)
        return torch.where(real, real.cumsum(1) + (start - 1), self.pad_id)

    def embed(self, words: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """The embedding module from the word embeddings on: words (..., L, d), ids (L) or (..., L) -> (..., L, d)."""
        x = words + self.position(position_ids)
        if self.token_type is not None:
            x = x + (self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids))
        return self.dropout(self.layer_norm(x))

    def multiplex(
        self, multiplexer: nn.Module, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        """Embed and multiplex: ids (G, N, L), position_ids (L) or (G, N, L) -> (G, L, d)."""
        dropout = self.dropout.p if self.dropout.training else 0.0
        if multiplexer.transforms.dim() != 2 or self._is_adapted() or (dropout and torch.compiler.is_compiling()):
            # A traced graph has no seeded generator to draw the dropout of the fused op from.
            return multiplexer(self.embed(self.word(input_ids), position_ids, token_type_ids))
        return F.embedding_mux(
            input_ids,
            multiplexer.transforms,
            self.word.weight,
            self.position.weight,
            position_ids,
            None if self.token_type is None else self.token_type.weight,
            token_type_ids if self.token_type is not None else None,
            self.layer_norm.weight,
            self.layer_norm.bias,
            self.layer_norm.eps,
            dropout=dropout,
            padding_idx=self.word.padding_idx,
            position_padding_idx=self.position.padding_idx,
        )

    def _is_adapted(self) -> bool:
        """Somebody put hooks or modules of his own in place (adapters, quantised tables): run the modules then."""
        modules = (self.word, self.position, self.token_type, self.layer_norm, self.dropout)
        plain = (nn.Embedding, nn.Embedding, nn.Embedding, nn.LayerNorm, nn.Dropout)
        return any(
            m is not None and (type(m) is not kind or m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
            for m, kind in zip(modules, plain, strict=True)
        )
