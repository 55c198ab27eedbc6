"""`TMux`: a Hugging Face encoder that serves N rows in one pass."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from fastmux.configuration import TMuxConfig
from fastmux.functional.derived import derived
from fastmux.functional.pair_norm import Head
from fastmux.models.alignment import from_first_token
from fastmux.models.encoders import build_encoder, check_embeddings, drop_pooler, embeddings_of, load_backbone, pool
from fastmux.models.exporting import any_groups
from fastmux.models.inputs import check_inputs
from fastmux.models.last_layer import states_at_first_positions
from fastmux.models.multiplexed_pass import MultiplexedPass
from fastmux.models.packed_tmux import PackedTMux, packed_tmux
from fastmux.models.padding import warn_of_width
from fastmux.models.pretrained import TMuxPreTrainedModel
from fastmux.modules.demultiplexers import DEMULTIPLEXERS, Demultiplexer
from fastmux.modules.embeddings import EmbeddingAdapter
from fastmux.modules.groups import group
from fastmux.modules.is_plain import is_plain, tensor_of
from fastmux.modules.multiplexer import MULTIPLEXERS, Multiplexer
from fastmux.passes.masks import goes_unasked, inside, unasked


class TMux(TMuxPreTrainedModel):
    """A Hugging Face encoder that serves `num_instances` rows in one pass, in place of that encoder.

    Arguments, outputs, shapes and the order of rows stay the same. The batch may have any size: a short last group is
    filled with repeated rows, whose outputs are dropped. The encoder does not attend to positions where every row of a
    group has padding. A row's result depends on the rows that share its group: rows ``g * N`` to ``g * N + N - 1`` of
    the batch.

    Args:
        backbone: A hub name, a local folder, a Hugging Face config, a Hugging Face model or a `TMuxConfig`.
        num_instances: N. It must not be given beside a `TMuxConfig`, which has it.
        encoder: The encoder to use, for a `TMuxConfig`. By default one is built, with random weights.
        add_pooling_layer: Whether the encoder's pooler is kept. It then runs on the demultiplexed rows.
        options: Options of `TMuxConfig`.

    Raises:
        ValueError: fastmux cannot multiplex the backbone (the message says why), or an option is out of range.

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
        # Word embeddings of the N index tokens, the pad between them and the CLS after them. They have their own table,
        # so that the vocabulary keeps all its entries.
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
        """The number of positions that a row may have: the encoder's, less those of the index prefix."""
        return embeddings_of(self.backbone).max_length - self.config.prefix_length

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
    ) -> BaseModelOutputWithPooling:
        """Args:
            input_ids: Token ids (B, L), for any B.
            attention_mask: The mask (B, L), 0 at padding. Rows may be padded on either side.
            token_type_ids, position_ids: As for the encoder, (B, L).
            inputs_embeds: Word embeddings (B, L, d) in place of ``input_ids``.
            kwargs: ``output_hidden_states``, ``output_attentions`` and ``return_dict``, as for the encoder.

        Returns:
            ``last_hidden_state`` (B, L, d) and, with a pooler, ``pooler_output`` (B, d), for every row.
            ``hidden_states`` and ``attentions`` are the encoder's: one for each group, prefix included.

        Raises:
            ValueError: Shapes do not fit, a sequence is longer than the encoder takes, or (on a CPU) an id is out of
                the vocabulary.

        The last tokens of a sequence that fits the encoder but not the encoder with an index prefix share the last
        position embedding. A warning says so once.
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
        *,
        summary_only: bool = False,
        **kwargs,
    ) -> MultiplexedPass:
        """Multiplexes a batch and runs the encoder on it once. Arguments are as in `forward`, but every row must begin
        with its first token.

        ``summary_only`` says that the caller does not read the content. It is then not computed, where the encoder
        allows that, and has length 0, or 1 without a prefix.
        """
        adapter = embeddings_of(self.backbone)
        check_inputs(self.config, adapter, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        rows, length = (input_ids if input_ids is not None else inputs_embeds).shape[:2]
        n, conventions = self.num_instances, self.config.conventions
        if not self.training:
            warn_of_width(self, length)
        if conventions.ignore_token_types:
            token_type_ids = None
        if rows == 0:
            attention_mask = None
        if position_ids is None:
            device = (input_ids if input_ids is not None else inputs_embeds).device
            position_ids = adapter.content_positions(input_ids, length, self.config.prefix_length, device)
        else:
            position_ids = (position_ids + self.config.prefix_length).clamp(max=adapter.end_position - 1)
        ids, mask, types, embeds = (group(t, n) for t in (input_ids, attention_mask, token_type_ids, inputs_embeds))
        if position_ids is not None and position_ids.dim() == 2:
            position_ids = group(position_ids.expand(rows, -1), n)
        first = conventions.first_token_id
        if ids is not None and first is not None:
            ids = torch.cat([torch.full_like(ids[..., :1], first), ids[..., 1:]], dim=-1)
        device = (ids if embeds is None else embeds).device
        prefix = partial(self._embedded_prefix, adapter, device) if self.config.prefix_length else None
        x = self._multiplex(adapter, ids, embeds, position_ids, types, mask, prefix)

        offset = self.config.prefix_length
        encoder_mask = None
        if mask is not None and not conventions.attend_padding:
            encoder_mask = inside(mask).any(1)
            if not goes_unasked(mask, self.backbone.config):
                encoder_mask = encoder_mask.to(mask.dtype)
            if offset:
                ones = partial(torch.ones, 1, offset, dtype=encoder_mask.dtype, device=encoder_mask.device)
                seen = derived(("prefix is seen", encoder_mask.dtype, encoder_mask.device), self, (), ones)
                encoder_mask = torch.cat([seen.expand(encoder_mask.shape[0], -1), encoder_mask], dim=1)
        kwargs.pop("return_dict", None)
        states = None
        if x.shape[1] > adapter.max_length and adapter.position is not None:
            kwargs["position_ids"] = adapter.content_positions(None, x.shape[1], 0, x.device)[None]
        elif summary_only and not any(kwargs.values()):
            states = states_at_first_positions(self.backbone, x, encoder_mask, offset or 1)
        if states is None:
            outputs = self.backbone(
                inputs_embeds=x, attention_mask=unasked(encoder_mask, self.backbone.config), return_dict=True, **kwargs
            )
        else:
            outputs = BaseModelOutput(last_hidden_state=states)
        prefix, content = None, outputs.last_hidden_state
        if offset:
            # One split, not slices: the gradient of every slice would be as large as all states.
            prefix, content = content.split([offset, content.shape[1] - offset], dim=1)
        return MultiplexedPass(
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

    def demultiplex(self, mux: MultiplexedPass, h: Tensor, head: nn.Module | None = None) -> Tensor:
        """Demultiplexes hidden states h (G, L', d) of some positions -> (B, L', d), or the logits (B, L', C) of a head.

        With a plain linear head, one op computes the logits and never writes the states.
        """
        fused = head is not None and is_plain(head, nn.Linear)
        linear = Head(head.weight, head.bias) if fused else None
        z = self.demultiplexer(h, mux.prefix_states, mux.transforms, head=linear).flatten(0, 1)[: mux.rows]
        return z if fused or head is None else head(z)

    def packed_form(self) -> PackedTMux | None:
        """How the model runs packed rows (`fastmux.passes.packed_model`); None if it only runs padded ones."""
        return packed_tmux(self, self)

    def _multiplex(self, adapter: EmbeddingAdapter, ids, embeds, position_ids, types, mask, prefix) -> Tensor:
        """Embeds and multiplexes a grouped batch: (G, N + 1 + L, d) with a prefix, or (G, L, d) without one."""
        tables = adapter.tables(position_ids, types) if embeds is None else None
        if tables is not None:
            return self.multiplexer.from_tokens(ids, tables, prefix, mask)
        x = adapter.embed(adapter.word(ids) if embeds is None else embeds, position_ids, types)
        return self.multiplexer.from_embeddings(x, prefix, mask)

    def _embedded_prefix(self, adapter: EmbeddingAdapter, device: torch.device) -> tuple[Tensor, Tensor]:
        """The embedded index prefix: own (N, d), the token of instance i at position i, and shared (N + 1, d), what
        every instance has at the other positions, pads and then the CLS."""
        n = self.num_instances
        tokens = self.prefix_tokens(torch.arange(n + 2, device=device))
        own, pad, cls = tokens[:n], tokens[n], tokens[n + 1]
        shared = torch.cat([pad.expand(n, -1), cls[None]])
        positions = adapter.content_positions(None, n + 1, 0, tokens.device)
        positions = None if positions is None else torch.cat([positions[:n], positions])
        embedded = adapter.embed(torch.cat([own, shared]), positions, None)
        return embedded[:n], embedded[n:]
