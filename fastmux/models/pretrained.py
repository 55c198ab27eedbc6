"""What all T-MUX models have in common: how they are made, stored and loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fastmux.configuration import TMuxConfig
from fastmux.files import finish_replacing
from fastmux.models.checkpoints import (
    FILE_OPTIONS,
    HUB_OPTIONS,
    check_loaded,
    dtypes_of,
    read_config,
    stored_dtypes,
    weight_files,
)
from fastmux.models.encoders import ModuleEncoder, encoder_class, load_backbone
from fastmux.models.model_card import model_card
from fastmux.models.published import is_published, load_tensors, published_config, published_state_dict
from fastmux.models.publishing import WithCard
from fastmux.modules.demultiplexers import Demultiplexer
from fastmux.modules.embeddings import rows_of
from fastmux.modules.multiplexer import Multiplexer
from fastmux.modules.retrieval import AuxiliaryDecoder

_CAPABILITIES = ("supports_gradient_checkpointing", "_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn")
_CAPABILITIES += ("_supports_attention_backend",)


class TMuxPreTrainedModel(WithCard):
    """Loading, saving and initialisation, as for every Hugging Face model, with four differences: `from_backbone`
    starts from an encoder, a damaged or foreign checkpoint is a ValueError, files appear under their names only when
    whole, and a model card goes with them."""

    config_class = TMuxConfig
    base_model_prefix = "tmux"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # a loss is a mean over rows, of which every batch of a step has as many
    labels_of_tokens = True  # where a row is padded on the left, they move along with its tokens
    # What some encoder can do; a model can what its own encoder can.
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: set[str] | list[str] | None = None

    # What a checkpoint of another task need not hold: heads, and the pooler, which task models do without.
    _heads = ("classifier.", "retrieval.", "backbone.pooler.")
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^retrieval\."]

    def __init__(self, config: TMuxConfig, *, encoder: PreTrainedModel | None = None):
        known = encoder_class(config.backbone_config) if encoder is None else type(encoder)
        for capability in _CAPABILITIES:
            setattr(self, capability, getattr(known, capability))
        super().__init__(config)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
        num_instances: int,
        **options,
    ):
        """A multiplexed model around an encoder, which keeps its weights.

        Args:
            backbone: the name of a model on the Hugging Face hub, a folder that holds one, a Hugging Face config
                (random weights) or a Hugging Face model (its encoder is used, with shared weights; modes, hooks and
                config are the new model's own).
            num_instances: N.
            options: anything `TMuxConfig` takes, e.g. ``multiplexer``, ``demultiplexer``, ``num_labels``, or the
                encoder's config.

        Raises:
            ValueError: for a backbone that fastmux cannot multiplex (with the reason), or an option out of range.

        Example:
            >>> from transformers import BertConfig
            >>> import fastmux
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=3)
            >>> model.config.num_labels
            3
        """
        backbone_config, encoder = load_backbone(backbone, options)
        # Labels and their loss are the task's; a model that comes with a head describes them in its config.
        for name in ("id2label", "label2id", "problem_type"):
            if "num_labels" not in options and getattr(backbone_config, name, None) is not None:
                options.setdefault(name, getattr(backbone_config, name))
        config = TMuxConfig(backbone_config=backbone_config, num_instances=num_instances, **options)
        return cls(config, encoder=encoder)

    def is_custom_code(self) -> bool:
        """What is drawn here spares tensors that came from a checkpoint, as code of transformers does. Of other code
        transformers would skip modules without weights of their own, in which ModernBERT draws those of its layers."""
        return isinstance(self.base_model.backbone, ModuleEncoder)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (Multiplexer, Demultiplexer, AuxiliaryDecoder)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.backbone.set_input_embeddings(value)

    def post_init(self) -> None:
        # Beside the layers inside them they hold tensors of their own, which Accelerate brings for whole modules alone.
        whole = {type(m).__name__ for m in self.modules() if isinstance(m, (Multiplexer, Demultiplexer))}
        self._no_split_modules = whole | set(self._no_split_modules or ())
        if self.get_output_embeddings() is not None and self.config.embedding_size == self.config.hidden_size:
            self._tied_weights_keys = {"retrieval.decoder.weight": self._word_table()}
        super().post_init()

    def _word_table(self) -> str:
        """The name of the parameter that holds the word embeddings, in whatever module an encoder has for them."""
        words = self.get_input_embeddings()
        module = next((name for name, m in self.named_modules() if m is words), None)
        tables = [name for name, p in words.named_parameters() if name == "weight" or p.dim() == 2]
        if module is None or not tables:
            raise ValueError(
                f"the word embeddings of the backbone are a {type(words).__name__} without a table of their own, which "
                "the decoder could share; expected an nn.Embedding, or a module with one inside"
            )
        return f"{module}.{tables[0]}"

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Hugging Face; the decoder of an auxiliary loss grows or shrinks along."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        decoder = getattr(getattr(self, "retrieval", None), "decoder", None)
        if isinstance(decoder, AuxiliaryDecoder):
            decoder.resize(rows_of(embeddings))
        return embeddings

    def fit_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Tell a tokenizer how long a row may be, and return it: ``truncation=True``, of a pipeline too, then cuts rows
        to what the index prefix leaves of the encoder's positions. Save it beside the model for those who load both.

        Example:
            >>> import fastmux
            >>> from tokenizers import Tokenizer, models
            >>> from transformers import BertConfig, PreTrainedTokenizerFast
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
            >>> fastmux.TMux(tiny, 10, demultiplexer="index").fit_tokenizer(tokenizer).model_max_length
            501
        """
        tokenizer.model_max_length = min(tokenizer.model_max_length, self.base_model.max_length)
        return tokenizer

    def _own_card(self, repository: str) -> ModelCard:
        return model_card(self.config, type(self).__name__, repository)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As in Hugging Face; checkpoints that the authors of DataMUX and MUX-PLM published load too. A checkpoint of
        another task gives its encoder, multiplexer and demultiplexer; the new head starts from random weights, as the
        warning says.

        Raises:
            ValueError: if the checkpoint is no T-MUX model, is damaged, holds something other than tensors, or lacks
                tensors other than a task head's.

        Warns:
            UserWarning: if weights are NaN or infinite, or the config has fields that fastmux does not know.
        """
        name = pretrained_model_name_or_path
        if name is not None and Path(name).is_dir():
            finish_replacing(Path(name, kwargs.get("subfolder", "")))
        hub = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
        if kwargs.get("config") is None and name is not None:
            stored = read_config(name, **hub)
            if is_published(stored):
                return cls._from_published(str(name), stored, output_loading_info, **kwargs)
            if stored.get("model_type") != TMuxConfig.model_type:
                raise ValueError(
                    f"{str(name)!r} holds a model of type {stored.get('model_type')!r}, expected 'tmux'; to "
                    f"multiplex an encoder, use {cls.__name__}.from_backbone({str(name)!r}, num_instances=...)"
                )
        dtypes = {}
        if name is not None and kwargs.get("state_dict") is None:
            files = {k: kwargs[k] for k in FILE_OPTIONS if k in kwargs}
            dtypes = stored_dtypes(weight_files(name, **files, **hub))
        return cls._load(str(name), dtypes, output_loading_info, name, *args, **kwargs)

    @classmethod
    def _from_published(cls, name: str, stored: dict, output_loading_info: bool, **kwargs):
        """Load what `fastmux.models.published` reads."""
        config = published_config(name, stored)
        for option in [k for k in kwargs if hasattr(config, k)]:
            setattr(config, option, kwargs.pop(option))
        where = {k: kwargs.pop(k) for k in (*HUB_OPTIONS, *FILE_OPTIONS) if k in kwargs}
        state_dict = published_state_dict(name, stored, config, load_tensors(name, **where))
        if cls.__name__ not in config.architectures:
            state_dict = {k: t for k, t in state_dict.items() if not k.startswith("classifier.")}
        dtypes = dtypes_of(state_dict)
        return cls._load(name, dtypes, output_loading_info, None, config=config, state_dict=state_dict, **kwargs)

    @classmethod
    def _load(cls, name: str, dtypes: dict[str, str], output_loading_info: bool, *args, **kwargs):
        """Hugging Face's ``from_pretrained`` of what has these ``dtypes``, with errors that say what is wrong with the
        checkpoint ``name``."""
        any_size = kwargs.pop("ignore_mismatched_sizes", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
        if info["mismatched_keys"] and not any_size:
            key, stored, expected = min(info["mismatched_keys"])
            raise ValueError(
                f"the weights in {name!r} do not fit their config: {key} has shape {tuple(stored)}, expected "
                f"{tuple(expected)}; {len(info['mismatched_keys'])} tensors differ so"
            )
        lacking = sorted(key for key in info["missing_keys"] if not key.startswith(cls._heads))
        if lacking:
            raise ValueError(f"the checkpoint {name!r} lacks {len(lacking)} tensors of the model, e.g. {lacking[:3]}")
        # Quantised weights are whatever their library makes of them.
        check_loaded(name, model, dtypes if getattr(model, "hf_quantizer", None) is None else {})
        return (model, info) if output_loading_info else model
