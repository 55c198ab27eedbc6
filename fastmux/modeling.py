"""T-MUX models: an encoder of Hugging Face that serves N rows in one pass."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from fastmux.backbones import (
    ModuleEncoder,
    build_encoder,
    check_embeddings,
    drop_pooler,
    encoder_class,
    load_backbone,
    pool,
)
from fastmux.checkpoints import (
    FILE_OPTIONS,
    HUB_OPTIONS,
    check_loaded,
    dtypes_of,
    read_config,
    stored_dtypes,
    weight_files,
)
from fastmux.configuration import TMuxConfig
from fastmux.files import finish_replacing, replacing_files
from fastmux.functional._checks import check_range
from fastmux.model_card import model_card
from fastmux.modules.demultiplexers import DEMULTIPLEXERS, Demultiplexer, Head
from fastmux.modules.embeddings import EmbeddingAdapter, rows_of
from fastmux.modules.multiplexers import MULTIPLEXERS, Multiplexer
from fastmux.modules.plain import is_plain, tensor_of
from fastmux.modules.retrieval import RetrievalHead
from fastmux.published import is_published, load_tensors, published_config, published_state_dict

_CAPABILITIES = ("supports_gradient_checkpointing", "_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn")
_CAPABILITIES += ("_supports_attention_backend",)


class TMuxPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, as for every Hugging Face model, with four differences: `from_backbone`
    starts from an encoder, a damaged or foreign checkpoint is a ValueError, files appear under their names only when
    whole, and a model card goes with them."""

    config_class = TMuxConfig
    base_model_prefix = "tmux"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # a loss is the mean over its own batch, whatever it will be accumulated with
    # What some encoder can do; a model can what its own encoder can.
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

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
            (random
                weights) or a Hugging Face model (its encoder is used, with shared weights, and not copied).
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
        if isinstance(module, (Multiplexer, Demultiplexer, RetrievalHead)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Hugging Face; a retrieval head's decoder grows or shrinks along."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        head = getattr(self, "retrieval", None)
        if head is not None:
            head.resize(rows_of(embeddings))
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
            >>> fastmux.TMux(tiny, num_instances=10).fit_tokenizer(tokenizer).model_max_length
            501
        """
        tokenizer.model_max_length = min(tokenizer.model_max_length, self.base_model.max_length)
        return tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs) -> None:
        """As in Hugging Face, with a model card. The files count once all are written; then the former weights go,
        whether in one file or in shards, and other files stay. The card is written where there is none.

        Raises:
            ValueError: if ``save_directory`` is a file.
        """
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"save_directory is {str(target)!r}, which is a file; expected a folder")
        if not self.should_save_on_this_rank(is_main_process) or kwargs.get("distributed_checkpoint"):
            # Nothing to write, or files that all processes write together.
            return super().save_pretrained(target, is_main_process=is_main_process, **kwargs)
        if kwargs.get("state_dict") is not None:
            kwargs["state_dict"] = dict(kwargs["state_dict"])  # Hugging Face takes out what it has written
        name = target.resolve().name or "model"
        if kwargs.get("push_to_hub"):
            name = kwargs.setdefault("repo_id", name)
        with replacing_files(target, _former_weights) as staging:
            super().save_pretrained(staging, **kwargs)
            card = staging / "README.md"
            if (target / card.name).exists():  # somebody may have written it
                card.unlink(missing_ok=True)
            elif not card.exists():
                model_card(self.config, type(self).__name__, name).save(card)

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
        """Load what `fastmux.published` reads."""
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


#: A file of weights, in shards or not, and an index of shards, of any variant.
_WEIGHTS = re.compile(
    r"(?P<name>.+?)(?:-\d{5}-of-\d{5})?\.safetensors|(?P<indexed>.+?)\.safetensors\.index(?P<variant>\..+)?\.json"
)


def _former_weights(written: set[str], former: set[str]) -> set[str]:
    """The former files that hold, in other shards, what the written ones hold."""

    def name(file: str) -> str | None:
        match = _WEIGHTS.fullmatch(file)
        return match and (match["name"] or match["indexed"] + (match["variant"] or ""))

    names = {name(file) for file in written} - {None}
    return {file for file in former if name(file) in names}


@dataclass
class Multiplexed:
    """What one pass of the encoder leaves behind, before demultiplexing."""

    content: Tensor  # (G, L, d), hidden states behind the prefix
    prefix_states: Tensor | None  # (G, N, d), hidden states at the index tokens
    transforms: Tensor | None  # the multiplexer's, if the demultiplexer applies them
    summary: Tensor  # (G, 1, d), the one position that sequence tasks read
    rows: int  # rows of the batch, before the last group was filled
    input_ids: Tensor | None  # (G, N, L)
    attention_mask: Tensor | None  # (G, N, L)
    encoder_outputs: BaseModelOutput


class TMux(TMuxPreTrainedModel):
    """A Hugging Face encoder that serves `num_instances` rows in one pass; a drop-in for that encoder.

    Same arguments, same outputs, same shapes, same order of rows. Any batch size: a short last group is filled with
    repeated rows, whose outputs are dropped. Positions that are padding in all rows of a group are masked. A row's
    result depends on the rows that share its group: rows ``g * N`` to ``g * N + N - 1`` of the batch.

    Args:
        backbone: hub name, local folder, Hugging Face config or model; or a `TMuxConfig`.
        num_instances: N; comes with the config if ``backbone`` is a `TMuxConfig`.
        add_pooling_layer: keep the encoder's pooler, if it has one; it then runs on the demultiplexed rows.
        options: anything `TMuxConfig` takes.

    Raises:
        ValueError: for a backbone that fastmux cannot multiplex (with the reason), or an option out of range.

    Example:
        >>> import torch, fastmux
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> model = fastmux.TMux(tiny, num_instances=4)
        >>> model(input_ids=torch.ones(10, 7, dtype=torch.long)).last_hidden_state.shape
        torch.Size([10, 7, 32])
    """

    def __init__(
        self,
        backbone: TMuxConfig | str | os.PathLike | PreTrainedConfig | PreTrainedModel,
        num_instances: int | None = None,
        *,
        encoder: PreTrainedModel | None = None,
        add_pooling_layer: bool = True,
        **options,
    ):
        if isinstance(backbone, TMuxConfig):
            if num_instances is not None or options:
                given = ["num_instances"] * (num_instances is not None) + list(options)
                raise ValueError(f"{', '.join(given)} given beside a TMuxConfig; set it in the config")
            config = backbone
        else:
            if num_instances is None:
                raise ValueError("num_instances is missing, expected an integer of at least 1")
            backbone_config, encoder = load_backbone(backbone, options)
            config = TMuxConfig(backbone_config=backbone_config, num_instances=num_instances, **options)
        super().__init__(config, encoder=encoder)
        given = encoder is not None
        encoder = encoder if given else build_encoder(config.backbone_config)
        built_with = encoder.config
        config.backbone_config._attn_implementation = built_with._attn_implementation
        for module in encoder.modules():
            if given:
                module._is_hf_initialized = True  # post_init leaves such modules their weights
            if getattr(module, "config", None) is built_with:
                module.config = config.backbone_config  # one config: what is set in it later, all read
        if not add_pooling_layer:
            drop_pooler(encoder)
        check_embeddings(encoder)
        room = embeddings_of(encoder).max_length
        if room <= config.prefix_length:
            raise ValueError(
                f"num_instances is {config.num_instances}, whose index prefix takes {config.prefix_length} "
                f"positions; the encoder has {room} in all"
            )
        self.backbone = encoder
        self.multiplexer: Multiplexer = MULTIPLEXERS[config.multiplexer].from_config(config)
        self.demultiplexer: Demultiplexer = DEMULTIPLEXERS[config.demultiplexer].from_config(config)
        # Word embeddings of the N index tokens, the pad between them and the CLS behind them: rows of their own, so
        # that no entry of the vocabulary is given up.
        self.prefix_tokens = (
            nn.Embedding(config.num_instances + 2, config.embedding_size) if config.prefix_length else None
        )
        self.post_init()
        self.train(encoder.training)

    @property
    def num_instances(self) -> int:
        return self.config.num_instances

    @property
    def max_length(self) -> int:
        """Positions that a row may have: the encoder's, less those of the index prefix."""
        return EmbeddingAdapter(self.backbone).max_length - self.config.prefix_length

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Args:
            input_ids: (B, L) token ids, any B. attention_mask: (B, L), 0 at padding.
            token_type_ids, position_ids: (B, L), as for the encoder.
            inputs_embeds: (B, L, d) word embeddings in place of ``input_ids``.
            kwargs: ``output_hidden_states``, ``output_attentions``, ``return_dict``, as for the encoder.

        Returns:
            ``last_hidden_state`` (B, L, d) and, with a pooler, ``pooler_output`` (B, d), of every row.
            ``hidden_states`` and ``attentions`` are the encoder's, one a group, prefix included.

        Raises:
            ValueError: for shapes that do not fit, sequences longer than the encoder has room for with the prefix,
            and (on a
                CPU) ids out of the vocabulary.
        """
        mux = self.encode(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        states = self.demultiplex(mux, mux.content)
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=pool(self.backbone, states),
            hidden_states=mux.encoder_outputs.hidden_states,
            attentions=mux.encoder_outputs.attentions,
        )

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> Multiplexed:
        """Multiplex a batch and run the encoder on it once; arguments as in `forward`."""
        adapter = embeddings_of(self.backbone)
        self._check_inputs(adapter, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        rows, length = (input_ids if input_ids is not None else inputs_embeds).shape[:2]
        if rows == 0:
            attention_mask = None
        if position_ids is None:
            device = (input_ids if input_ids is not None else inputs_embeds).device
            position_ids = adapter.content_positions(input_ids, length, self.config.prefix_length, device)
        else:
            position_ids = position_ids + self.config.prefix_length
        ids, mask, types, embeds = (
            self._group(t, rows) for t in (input_ids, attention_mask, token_type_ids, inputs_embeds)
        )
        if position_ids is not None and position_ids.dim() == 2:
            position_ids = self._group(position_ids.expand(rows, -1), rows)
        if ids is not None and self.config.first_token_id is not None:
            ids = torch.cat([torch.full_like(ids[..., :1], self.config.first_token_id), ids[..., 1:]], dim=-1)
        x = self._multiplex(adapter, ids, embeds, position_ids, types, mask)

        offset = self.config.prefix_length
        encoder_mask = None
        if mask is not None and not self.config.attend_padding:
            encoder_mask = nn.functional.pad((mask != 0).any(1).to(mask.dtype), (offset, 0), value=1)
        kwargs.pop("return_dict", None)
        outputs = self.backbone(inputs_embeds=x, attention_mask=encoder_mask, return_dict=True, **kwargs)
        prefix, content = None, outputs.last_hidden_state
        if offset:
            # One split, not slices: the gradient of every slice would be as large as all states.
            prefix, content = content.split([offset, content.shape[1] - offset], dim=1)
        return Multiplexed(
            content=content,
            prefix_states=None if prefix is None else prefix[:, :-1],
            transforms=tensor_of(self.multiplexer, "transforms") if self.demultiplexer.takes_transforms else None,
            # DataMUX, section 3.2: the prefix's CLS; the first position where there is no prefix.
            summary=content[:, :1] if prefix is None else prefix[:, -1:],
            rows=rows,
            input_ids=ids,
            attention_mask=mask,
            encoder_outputs=outputs,
        )

    def demultiplex(self, mux: Multiplexed, h: Tensor, head: nn.Module | None = None) -> Tensor:
        """Hidden states h (G, L', d) of some positions -> (B, L', d), or the logits (B, L', C) of a head on them.

        Of a plain linear head the states need not be written.
        """
        fused = head is not None and is_plain(head, nn.Linear)
        linear = Head(head.weight, head.bias) if fused else None
        z = self.demultiplexer(h, mux.prefix_states, mux.transforms, head=linear).flatten(0, 1)[: mux.rows]
        return z if fused or head is None else head(z)

    def _multiplex(self, adapter: EmbeddingAdapter, ids, embeds, position_ids, types, mask) -> Tensor:
        """Embed and multiplex a grouped batch, prefix included: (G, N + 1 + L, d), or (G, L, d) without a prefix."""
        device = (ids if embeds is None else embeds).device
        prefix = partial(self._embedded_prefix, adapter, device) if self.config.prefix_length else None
        tables = adapter.tables(position_ids, types) if embeds is None else None
        if tables is not None:
            return self.multiplexer.from_tokens(ids, tables, prefix, mask)
        x = adapter.embed(adapter.word(ids) if embeds is None else embeds, position_ids, types)
        return self.multiplexer.from_embeddings(x, prefix, mask)

    def _embedded_prefix(self, adapter: EmbeddingAdapter, device: torch.device) -> tuple[Tensor, Tensor]:
        """The embedded index prefix: each instance's own token at its own position (N, d), and what is there
        otherwise: pads, then the CLS (N + 1, d)."""
        n = self.num_instances
        tokens = self.prefix_tokens(torch.arange(n + 2, device=device))
        own, pad, cls = tokens[:n], tokens[n], tokens[n + 1]
        shared = torch.cat([pad.expand(n, -1), cls[None]])
        positions = adapter.content_positions(None, n + 1, 0, tokens.device)
        positions = None if positions is None else torch.cat([positions[:n], positions])
        embedded = adapter.embed(torch.cat([own, shared]), positions, None)
        return embedded[:n], embedded[n:]

    def _group(self, t: Tensor | None, rows: int) -> Tensor | None:
        """(B, ...) -> (G, N, ...); the last group is filled with rows from the start of the batch."""
        if t is None:
            return None
        n = self.num_instances
        if rows == 0:
            # Encoders of transformers refuse an empty batch: they run on a group of zeros, whose rows are dropped.
            t = t.new_zeros((n, *t.shape[1:]))
        elif rows % n:
            t = t[torch.arange(-(-rows // n) * n, device=t.device) % rows]
        return t.unflatten(0, (t.shape[0] // n, n))

    def _check_inputs(self, adapter, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        device = adapter.device
        for name, t in given.items():
            if t is not None and device is not None and t.device != device:
                raise ValueError(f"{name} is on {t.device}, expected {device}, where the model is")
        if input_ids is not None:
            if input_ids.dim() != 2:
                raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, expected (rows, length)")
            if input_ids.is_floating_point():
                raise ValueError(f"input_ids has dtype {input_ids.dtype}, expected an integer dtype")
            check_range("input_ids", input_ids, rows_of(adapter.word))
            shape = tuple(input_ids.shape)
        else:
            width = self.config.embedding_size
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != width:
                raise ValueError(
                    f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, expected (rows, length, {width})"
                )
            shape = tuple(inputs_embeds.shape[:2])
        for name, t in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if t is not None and tuple(t.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(t.shape)}, expected {shape}")
        for name, given, table in (
            ("token_type_ids", token_type_ids, adapter.token_type),
            ("position_ids", position_ids, adapter.position),
        ):
            if given is not None and table is None:
                raise ValueError(
                    f"{name} was given, but a {type(self.backbone).__name__} has no embeddings for them; leave them out"
                )
        if token_type_ids is not None:
            check_range("token_type_ids", token_type_ids, rows_of(adapter.token_type))
        if position_ids is not None and tuple(position_ids.shape) not in (shape, (1, shape[1])):
            raise ValueError(f"position_ids has shape {tuple(position_ids.shape)}, expected {shape}")
        prefix = self.config.prefix_length
        allowed = adapter.max_length - prefix
        if shape[1] > allowed:
            raise ValueError(
                f"input_ids has sequences of {shape[1]} positions, expected at most {allowed}: the encoder has "
                f"{adapter.max_length}, of which the index prefix of {self.num_instances} instances takes {prefix}; "
                "model.fit_tokenizer(tokenizer) makes truncation=True cut them there"
            )
        if shape[1] == 0:
            raise ValueError("input_ids has sequences of 0 positions, expected at least 1")
        if position_ids is not None:
            check_range("position_ids", position_ids, adapter.max_length + adapter.first_position - prefix)


def embeddings_of(encoder: PreTrainedModel) -> EmbeddingAdapter:
    """The embeddings of an encoder that `check_embeddings` has seen."""
    return EmbeddingAdapter(encoder.embeddings, getattr(encoder.config, "max_position_embeddings", None))


AutoModel.register(TMuxConfig, TMux, exist_ok=True)
