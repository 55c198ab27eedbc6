"""T-MUX with heads: retrieval pre-training, masked tokens, sequence and token classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.utils.generic import can_return_tuple

from fastmux.configuration import TMuxConfig
from fastmux.models.alignment import from_first_token
from fastmux.models.exporting import any_groups
from fastmux.models.inputs import check_sequence_labels, check_token_labels
from fastmux.models.losses import (
    instances_asked,
    joint_losses,
    own_tokens,
    share_of_labels,
    share_of_tokens,
    token_loss,
)
from fastmux.models.multiplexed_pass import MultiplexedPass
from fastmux.models.outputs import (
    TMuxMaskedLMOutput,
    TMuxRetrievalOutput,
    TMuxSequenceClassifierOutput,
    TMuxTokenClassifierOutput,
)
from fastmux.models.packed_tmux import PackedTMux, packed_tmux
from fastmux.models.prediction import PredictsInGroups
from fastmux.models.pretrained import TMuxPreTrainedModel
from fastmux.models.tmux import TMux
from fastmux.modules.classifier import build_classifier
from fastmux.modules.groups import group
from fastmux.modules.is_plain import is_plain
from fastmux.modules.retrieval import IGNORE_INDEX, RetrievalHead


class _TMuxWithDecoder(TMuxPreTrainedModel):
    """T-MUX with a head that decodes its states to tokens."""

    accepts_loss_kwargs = True

    def __init__(self, config: TMuxConfig, *, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder=encoder)
        self.tmux = TMux(config, encoder=encoder, add_pooling_layer=False)
        self.retrieval = RetrievalHead.from_config(config)
        # Parameters that only a task uses are frozen here: DDP requires a gradient for every parameter that is trained.
        demultiplexer = self.tmux.demultiplexer
        waiting = [demultiplexer]
        if self.retrieval.demultiplexer is None:
            waiting = [getattr(demultiplexer, name) for name in demultiplexer.task_only]
        for module in waiting:
            module.requires_grad_(False)
        self.post_init()
        self.train(self.tmux.training)

    def get_output_embeddings(self) -> nn.Module:
        return self.retrieval.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.retrieval.decoder = new_embeddings


class TMuxForRetrieval(_TMuxWithDecoder):
    """The retrieval warm-up (DataMUX, section 3.3): it learns to tell N multiplexed sequences apart, from any text."""

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
        retrieval_instances: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> TMuxRetrievalOutput:
        """Args:
            input_ids, attention_mask, token_type_ids, position_ids: As for `TMux.forward`, (B, L).
            inputs_embeds: As for `TMux.forward`, (B, L, d).
            labels: The token ids to recover, (B, L), -100 where there is none. The input's own tokens if None.
            retrieval_instances: The instance to recover at each position, (G, L). If None, it is drawn; in eval mode
                the instances take turns, so that the loss is the same in every call.
            num_items_in_batch: The number of labels in all batches of a step, as for `TMuxForTokenClassification`.

        Returns:
            The loss and, in eval mode, ``predictions`` (B, L), the token recovered for every row and position.

        Raises:
            ValueError: There are neither ``input_ids`` nor ``labels``, or labels do not fit; or as in `TMux.forward`.
        """
        if input_ids is None and labels is None:
            raise ValueError("labels is missing, expected token ids (rows, length): there are no input_ids to recover")
        mux = self.tmux.encode(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        share = None
        if labels is None:
            labels = own_tokens(mux, self.config)
        else:
            check_token_labels(labels, input_ids if input_ids is not None else inputs_embeds, self.config.vocab_size)
            share = share_of_labels(labels, num_items_in_batch)
            labels = group(labels, self.config.num_instances)
        instances = instances_asked(self, labels, retrieval_instances)
        loss = self.retrieval.loss(self.tmux, mux, labels, instances)
        return TMuxRetrievalOutput(
            loss=loss if share is None else share.of(loss),
            predictions=None if self.training else self.retrieval.predict(self.tmux, mux),
            hidden_states=mux.encoder_outputs.hidden_states,
            attentions=mux.encoder_outputs.attentions,
        )


class _TMuxForTask(PredictsInGroups, TMuxPreTrainedModel):
    """T-MUX with a task head on demultiplexed states, and with retrieval as an auxiliary loss."""

    def __init__(self, config: TMuxConfig, *, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder=encoder)
        self.num_labels = config.num_labels
        self.tmux = TMux(config, encoder=encoder, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = build_classifier(
            config.conventions.classifier_type, config.hidden_size, config.num_labels, config.layer_norm_eps
        )
        self.retrieval = RetrievalHead.from_config(config, auxiliary=True) if config.retrieval_loss_weight else None
        self.post_init()
        self.train(self.tmux.training)

    def _logits(self, mux: MultiplexedPass, h: Tensor) -> Tensor:
        """Maps hidden states (G, L', d) of some positions to logits (B, L', C)."""
        if is_plain(self.dropout, nn.Dropout) and not (self.dropout.training and self.dropout.p):
            return self.tmux.demultiplex(mux, h, head=self.classifier)
        return self.classifier(self.dropout(self.tmux.demultiplex(mux, h)))

    def packed_form(self) -> PackedTMux | None:
        """See `TMux.packed_form`."""
        return packed_tmux(self, self.tmux)


class TMuxForSequenceClassification(_TMuxForTask):
    """T-MUX that labels sequences: single-label, multi-label or regression, by ``config.problem_type``.

    The head reads what ``config.sequence_summary`` says: "first", the demultiplexed state of the index prefix's CLS or,
    without a prefix, of the first position; or "mean", the average of the row's states.

    Example:
        >>> import torch, fastmux
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=3)
        >>> model(input_ids=torch.ones(10, 7, dtype=torch.long)).logits.shape
        torch.Size([10, 3])
    """

    labels_of_tokens = False

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
        retrieval_instances: Tensor | None = None,
        **kwargs,
    ) -> TMuxSequenceClassifierOutput:
        """Args:
            input_ids, attention_mask, token_type_ids, position_ids: As for `TMux.forward`, (B, L).
            inputs_embeds: As for `TMux.forward`, (B, L, d).
            labels: Integers (B) below C; for multi-label, floats (B, C); for regression, floats (B) or (B, C).
            retrieval_instances: The instance to recover at each position, (G, L), as for `TMuxForRetrieval`.

        Returns:
            ``logits`` (B, C) and, with labels, ``loss = (1 - lambda) * task_loss + lambda * retrieval_loss``.

        Raises:
            ValueError: The shape, dtype or (on a CPU) values of labels do not fit; or as in `TMux.forward`.
        """
        if labels is not None:
            rows = (input_ids if input_ids is not None else inputs_embeds).shape[0]
            check_sequence_labels(labels, rows, self.config)
        first = self.config.sequence_summary == "first"
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        # With labels there may be a retrieval loss, which needs every position.
        mux = self.tmux.encode(*inputs, summary_only=first and labels is None, **kwargs)
        if first:
            logits = self._logits(mux, mux.summary).squeeze(1)
        else:
            logits = self.classifier(self.dropout(self._mean_state(mux)))
        losses = {}
        if labels is not None:
            task_loss = ForSequenceClassificationLoss(labels, logits, self.config)
            losses = joint_losses(self, mux, task_loss, retrieval_instances)
        return TMuxSequenceClassifierOutput(
            logits=logits,
            hidden_states=mux.encoder_outputs.hidden_states,
            attentions=mux.encoder_outputs.attentions,
            **losses,
        )

    def _mean_state(self, mux: MultiplexedPass) -> Tensor:
        """The average (B, d) of each row's demultiplexed states, padding left out."""
        states = self.tmux.demultiplex(mux, mux.content)
        if mux.attention_mask is None:
            return states.mean(1)
        real = (mux.attention_mask.flatten(0, 1)[: mux.rows, :, None] != 0).to(states.dtype)
        return (states * real).sum(1) / real.sum(1).clamp(min=1)


class TMuxForTokenClassification(_TMuxForTask):
    """T-MUX that labels every token of every row.

    Example:
        >>> import torch, fastmux
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> model = fastmux.TMuxForTokenClassification.from_backbone(tiny, num_instances=4, num_labels=9)
        >>> model(input_ids=torch.ones(10, 7, dtype=torch.long)).logits.shape
        torch.Size([10, 7, 9])
    """

    accepts_loss_kwargs = True

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
        retrieval_instances: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        tokens_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> TMuxTokenClassifierOutput:
        """Args:
            input_ids, attention_mask, token_type_ids, position_ids: As for `TMux.forward`, (B, L).
            inputs_embeds: As for `TMux.forward`, (B, L, d).
            labels: Integers (B, L) below C, -100 where a token has no label.
            retrieval_instances: The instance to recover at each position, (G, L), as for `TMuxForRetrieval`.
            num_items_in_batch: The number of labels in all batches whose gradients a step accumulates, as Hugging
                Face's Trainer counts them. The task's loss is the sum over this batch's labels divided by it. If None,
                the sum is divided by the number of this batch's labels.
            tokens_in_batch: The number of tokens in all these batches, padding not counted. The retrieval loss is
                weighted with this batch's share of it. If None, with this batch's share of the labels.

        Returns:
            ``logits`` (B, L, C) and, with labels, ``loss = (1 - lambda) * task_loss + lambda * retrieval_loss``.

        Raises:
            ValueError: The shape, dtype or (on a CPU) values of labels do not fit; or as in `TMux.forward`.
        """
        if labels is not None:
            check_token_labels(labels, input_ids if input_ids is not None else inputs_embeds, self.num_labels)
        mux = self.tmux.encode(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self._logits(mux, mux.content)
        losses = {}
        if labels is not None:
            if self.config.conventions.ignore_padding_labels and attention_mask is not None:
                labels = labels.masked_fill(attention_mask == 0, IGNORE_INDEX)
            task_loss = token_loss(logits, labels, num_items_in_batch)
            share = share_of_tokens(labels, num_items_in_batch, attention_mask, tokens_in_batch)
            losses = joint_losses(self, mux, task_loss, retrieval_instances, share)
        return TMuxTokenClassifierOutput(
            logits=logits,
            hidden_states=mux.encoder_outputs.hidden_states,
            attentions=mux.encoder_outputs.attentions,
            **losses,
        )


class TMuxForMaskedLM(_TMuxWithDecoder):
    """T-MUX that predicts masked tokens, with the retrieval head as its decoder (MUX-PLM, section 3, pre-training).

    Example:
        >>> import torch, fastmux
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> model = fastmux.TMuxForMaskedLM.from_backbone(tiny, num_instances=4).eval()
        >>> model(input_ids=torch.ones(10, 7, dtype=torch.long)).logits.shape
        torch.Size([10, 7, 30522])
    """

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
        retrieval_instances: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        tokens_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> TMuxMaskedLMOutput:
        """Args:
            input_ids, attention_mask, token_type_ids, position_ids: As for `TMux.forward`, (B, L).
            inputs_embeds: As for `TMux.forward`, (B, L, d).
            labels: Token ids (B, L), -100 where a position has no label.
            retrieval_instances: The instance to recover at each position, (G, L), as for `TMuxForRetrieval`.
            num_items_in_batch, tokens_in_batch: As for `TMuxForTokenClassification`.

        Returns:
            ``logits`` (B, L, V); None in a training step, which decodes only the positions that have a label. With
            labels, ``loss = (1 - lambda) * task_loss + lambda * retrieval_loss``.

        Raises:
            ValueError: The shape, dtype or (on a CPU) values of labels do not fit; or as in `TMux.forward`.
        """
        if labels is not None:
            check_token_labels(labels, input_ids if input_ids is not None else inputs_embeds, self.config.vocab_size)
        mux = self.tmux.encode(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        states = self.retrieval.states(self.tmux, mux).flatten(0, 1)[: mux.rows]
        logits, losses = None, {}
        if labels is None or not self.training:
            logits = self.retrieval.decoder(states)
        if labels is not None:
            share = share_of_tokens(labels, num_items_in_batch, attention_mask, tokens_in_batch)
            own = share_of_labels(labels, num_items_in_batch)
            if not torch.compiler.is_compiling():  # a graph cannot hold a size that depends on data
                asked = labels != IGNORE_INDEX
                states, labels = states[asked], labels[asked]
            task_loss = self.retrieval.cross_entropy(self.tmux, states, labels)
            task_loss = task_loss if own is None else own.of(task_loss)
            losses = joint_losses(self, mux, task_loss, retrieval_instances, share)
        return TMuxMaskedLMOutput(
            logits=logits,
            hidden_states=mux.encoder_outputs.hidden_states,
            attentions=mux.encoder_outputs.attentions,
            **losses,
        )
