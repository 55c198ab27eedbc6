"""`TMuxPreTrainedModel`: how T-MUX models are built, saved and loaded."""

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
    """The base class of T-MUX models. Models load, save and initialise as every Hugging Face model does, with four
    differences: `from_backbone` starts from an encoder; a damaged or foreign checkpoint raises ValueError; files get
    their names only when they are complete; a model card is saved with them."""

    config_class = TMuxConfig
    base_model_prefix = "tmux"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # a loss is a mean over rows, and batches have equal numbers
    labels_of_tokens = True  # if a row is padded on the left, they move with its tokens
    # The capabilities of some encoder. Each model gets those of its own encoder.
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: set[str] | list[str] | None = None

    # What a checkpoint of another task may lack: heads, and the pooler, which task models do not have.
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
        """Builds a multiplexed model around an encoder, which keeps its weights.

        Args:
            backbone: The name of a model on the Hugging Face hub, a folder that holds one, a Hugging Face config (the
                weights are then random) or a Hugging Face model. The new model shares the weights of a given model's
                encoder, and has its own modes, hooks and config.
            num_instances: N, the number of rows that share one pass.
            options: Options of `TMuxConfig`, e.g. ``multiplexer``, ``demultiplexer`` or ``num_labels``, and of the
                encoder's config.

        Raises:
            ValueError: fastmux cannot multiplex the backbone (the message says why), or an option is out of range.

        Example:
            >>> from transformers import BertConfig
            >>> import fastmux
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=3)
            >>> model.config.num_labels
            3
        """
        backbone_config, encoder = load_backbone(backbone, options)
        # The config of a model with a head describes its labels and their loss.
        for name in ("id2label", "label2id", "problem_type"):
            if "num_labels" not in options and getattr(backbone_config, name, None) is not None:
                options.setdefault(name, getattr(backbone_config, name))
        config = TMuxConfig(backbone_config=backbone_config, num_instances=num_instances, **options)
        return cls(config, encoder=encoder)

    def is_custom_code(self) -> bool:
        """False for all encoders of transformers: `_init_weights` here leaves tensors from a checkpoint alone, as code
        of transformers does. In custom code transformers skips modules without weights of their own, and in those
        ModernBERT initialises its layers."""
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
        # These modules hold tensors besides their layers'. Accelerate brings such tensors in only for whole modules.
        whole = {type(m).__name__ for m in self.modules() if isinstance(m, (Multiplexer, Demultiplexer))}
        self._no_split_modules = whole | set(self._no_split_modules or ())
        if self.get_output_embeddings() is not None and self.config.embedding_size == self.config.hidden_size:
            self._tied_weights_keys = {"retrieval.decoder.weight": self._word_table()}
        super().post_init()

    def _word_table(self) -> str:
        """The name of the parameter that holds the word embeddings."""
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
        """As in Hugging Face. The decoder of the auxiliary loss is resized, too."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        decoder = getattr(getattr(self, "retrieval", None), "decoder", None)
        if isinstance(decoder, AuxiliaryDecoder):
            decoder.resize(rows_of(embeddings))
        return embeddings

    def fit_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Sets the tokenizer's ``model_max_length`` to the longest row that the model takes, and returns the tokenizer.

        ``truncation=True``, in a pipeline too, then cuts rows to the positions that the index prefix leaves. Save the
        tokenizer with the model to keep the setting.

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
        """As in Hugging Face. It also loads the checkpoints that the authors of DataMUX and MUX-PLM published.

        From a checkpoint of another task it takes the encoder, the multiplexer and the demultiplexer. The new head gets
        random weights, and a warning says so.

        Raises:
            ValueError: The checkpoint is not a T-MUX model, is damaged, holds anything but tensors, or lacks tensors
                that do not belong to a task head.

        Warns:
            UserWarning: Weights are NaN or infinite, or the config has fields that fastmux does not know.
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
        """Loads a checkpoint that `fastmux.models.published` reads."""
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
        """Calls Hugging Face's ``from_pretrained`` and raises ValueError if the checkpoint ``name``, whose tensors were
        stored in ``dtypes``, does not fit the model."""
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
        # Quantised weights have their library's dtypes.
        check_loaded(name, model, dtypes if getattr(model, "hf_quantizer", None) is None else {})
        return (model, info) if output_loading_info else model
