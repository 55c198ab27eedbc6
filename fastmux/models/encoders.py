"""Finding an encoder, and checking that it can be multiplexed.

T-MUX runs the encoder's embedding module on every instance, multiplexes, and passes the result to the encoder as
``inputs_embeds`` (DataMUX, section 3.1; the published checkpoints do the same).
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping

from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from fastmux.configuration import TMuxConfig
from fastmux.modules.embeddings import EmbeddingAdapter

# Embedding modules that consist of a word table, LayerNorm and dropout, and of position and type tables in some.
STANDARD_EMBEDDINGS = {
    "albert.AlbertEmbeddings",
    "bert.BertEmbeddings",
    "camembert.CamembertEmbeddings",
    "deberta_v2.DebertaV2Embeddings",
    "distilbert.Embeddings",
    "electra.ElectraEmbeddings",
    "modernbert.ModernBertEmbeddings",
    "mpnet.MPNetEmbeddings",
    "roberta.RobertaEmbeddings",
    "xlm_roberta.XLMRobertaEmbeddings",
}


def load_backbone(
    backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel, options: Mapping[str, object]
) -> tuple[PreTrainedConfig, PreTrainedModel | None]:
    """Returns the config and the encoder of a hub name, a local folder, a config or a model. The encoder of a config is
    None: it has yet to be built.

    Of a model with a task head, the encoder is taken. It shares its weights with the given model. Modules and config
    are copies, so that a mode, a hook or an adapter of one does not reach the other. An encoder that is loaded by name
    gets those of the ``options`` that are in its config.

    Raises:
        ValueError: ``backbone`` is none of these, or names nothing that can be loaded, or an option is misspelt.
    """
    TMuxConfig.check_spelling(options)
    if isinstance(backbone, (str, os.PathLike)):
        try:
            config = AutoConfig.from_pretrained(backbone)
            theirs = {name: value for name, value in options.items() if TMuxConfig.belongs_to(config, name)}
            backbone = AutoModel.from_pretrained(backbone, **theirs)
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
        encoder = backbone if isinstance(backbone, ModuleEncoder) else _around_the_same_weights(backbone.base_model)
        return encoder.config, encoder
    raise ValueError(
        f"backbone is a {type(backbone).__name__}, expected a hub name, a folder, a Hugging Face config or a "
        "Hugging Face model"
    )


def _around_the_same_weights(encoder: PreTrainedModel) -> PreTrainedModel:
    """Copies an encoder without its tensors, which both share."""
    tensors: dict[int, Tensor] = {}
    for module in encoder.modules():
        for attributes in (module._parameters, module._buffers, vars(module)):
            tensors |= {id(value): value for value in attributes.values() if isinstance(value, Tensor)}
    return copy.deepcopy(encoder, tensors)


def encoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of the encoder that `build_encoder` builds."""
    known = MODEL_MAPPING.get(type(config), ModuleEncoder)
    return known[0] if isinstance(known, (tuple, list)) else known


def check_encoder_config(config: PreTrainedConfig) -> None:
    """Raises ValueError, with the reason, unless the config is that of a bidirectional text encoder."""
    kind = f"backbone is a {config.model_type!r} model"
    if config.model_type == "tmux":
        raise ValueError(f"{kind}, which is multiplexed already; load it with from_pretrained")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise ValueError(f"{kind} with a decoder; only encoders that see the whole sequence can be multiplexed")
    if not hasattr(config, "hidden_size") or not hasattr(config, "vocab_size"):
        raise ValueError(f"{kind} without a hidden_size and a vocab_size; expected a text encoder")


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Builds an encoder with random weights.

    Raises:
        ValueError: transformers has no encoder for this config.
    """
    if type(config) is ModuleEncoderConfig:  # subclasses name a class to build
        raise ValueError(
            "the encoder of this model is a module that its author wrote, which a config cannot build; pass it: "
            "from_pretrained(..., encoder=fastmux.ModuleEncoder(...))"
        )
    try:
        return AutoModel.from_config(config)
    except ValueError as error:
        raise ValueError(
            f"backbone has a {type(config).__name__}, from which AutoModel builds no encoder: {error}"
        ) from error


def pool(encoder: PreTrainedModel, states: Tensor) -> Tensor | None:
    """Applies the encoder's pooler to states (B, L, d) -> (B, d). None if it has no pooler."""
    pooler = getattr(encoder, "pooler", None)
    if pooler is None:
        return None
    if hasattr(encoder, "pooler_activation"):  # ALBERT's pooler is a linear layer
        return encoder.pooler_activation(pooler(states[:, 0]))
    return pooler(states)


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Removes the encoder's pooler. Task heads do not read it, and DDP requires a gradient for every parameter."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None


class ModuleEncoderConfig(PreTrainedConfig):
    """The config of a `ModuleEncoder`. It does not describe the module, which it cannot build."""

    model_type = "fastmux_module"

    vocab_size: int = 0
    hidden_size: int = 0
    embedding_size: int = 0
    pad_token_id: int | None = None


AutoConfig.register(ModuleEncoderConfig.model_type, ModuleEncoderConfig, exist_ok=True)


class ModuleEncoder(PreTrainedModel):
    """Makes any module an encoder: an LSTM, a mixture of experts, your own transformer.

    Args:
        module: The module to run. It maps embeddings (G, L, embedding_size) to hidden states (G, L, hidden_size), and
            takes an ``attention_mask`` (G, L), 1 where at least one row of a group is not padding, or None. It returns
            the states, a tuple that begins with them, or an output with ``last_hidden_state``. With the demultiplexer
            "index" it must see the whole sequence, since every position has to see the prefix.
        embeddings: The word table (V, embedding_size).
        hidden_size: The width of the hidden states. embedding_size if None.

    Raises:
        ValueError: ``embeddings`` is not an nn.Embedding. In a call, the states have an unexpected shape.

    Example:
        >>> import torch, fastmux
        >>> class Tagger(torch.nn.LSTM):
        ...     def forward(self, inputs_embeds, attention_mask=None):
        ...         return super().forward(inputs_embeds)[0]
        >>> lstm = Tagger(32, 16, batch_first=True, bidirectional=True)
        >>> encoder = fastmux.ModuleEncoder(lstm, torch.nn.Embedding(100, 32))
        >>> model = fastmux.TMuxForTokenClassification.from_backbone(
        ...     encoder, num_instances=4, demultiplexer="unbind", num_labels=9
        ... )
        >>> model(input_ids=torch.ones(10, 7, dtype=torch.long)).logits.shape
        torch.Size([10, 7, 9])
    """

    config_class = ModuleEncoderConfig
    main_input_name = "inputs_embeds"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # the module decides

    def __init__(self, module: nn.Module, embeddings: nn.Embedding, hidden_size: int | None = None):
        if not isinstance(embeddings, nn.Embedding):
            raise ValueError(f"embeddings is a {type(embeddings).__name__}, expected a torch.nn.Embedding")
        vocab_size, width = embeddings.weight.shape
        super().__init__(
            ModuleEncoderConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size or width,
                embedding_size=width,
                pad_token_id=embeddings.padding_idx,
            )
        )
        self.module = module
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, **kwargs) -> BaseModelOutput:
        """Maps inputs_embeds (G, L, embedding_size), attention_mask (G, L) to ``last_hidden_state``
        (G, L, hidden_size)."""
        out = self.module(inputs_embeds, attention_mask=attention_mask)
        states = getattr(out, "last_hidden_state", out[0] if isinstance(out, tuple) else out)
        expected = (*inputs_embeds.shape[:2], self.config.hidden_size)
        if tuple(states.shape) != expected:
            raise ValueError(
                f"the module {type(self.module).__name__} returned states of shape {tuple(states.shape)}, "
                f"expected {expected}"
            )
        return BaseModelOutput(last_hidden_state=states)


def check_embeddings(encoder: PreTrainedModel) -> None:
    """Raises ValueError if fastmux does not know the encoder's embeddings, or the encoder takes no
    ``inputs_embeds``."""
    module = getattr(encoder, "embeddings", None)
    package, _, family = type(module).__module__.rpartition(".")[0].rpartition(".")
    name = f"{family}.{type(module).__name__}"
    known = package == "transformers.models" and name in STANDARD_EMBEDDINGS
    if not known and not isinstance(encoder, ModuleEncoder):
        raise ValueError(
            f"backbone is a {type(encoder).__name__} whose embeddings are {name}; fastmux multiplexes encoders "
            f"with one of {', '.join(sorted(STANDARD_EMBEDDINGS))}, and modules of your own in a "
            "fastmux.ModuleEncoder"
        )
    if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
        raise ValueError(f"backbone is a {type(encoder).__name__}, whose forward takes no inputs_embeds")
    if getattr(module, "embed_proj", None) is not None:
        raise ValueError(
            f"backbone is a {type(encoder).__name__} that projects its word embeddings before normalising them: "
            "what is multiplexed would not have the width that it takes as inputs_embeds"
        )


def embeddings_of(encoder: PreTrainedModel) -> EmbeddingAdapter:
    """The embeddings of an encoder that has passed `check_embeddings`."""
    return EmbeddingAdapter(encoder.embeddings, getattr(encoder.config, "max_position_embeddings", None))
