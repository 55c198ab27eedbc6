"""Logits of any number of rows, at a speed and accuracy of one's choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastmux.functional import holding
from fastmux.models.cascade import CascadeThreshold, agrees, choose_min_confidence, confidence
from fastmux.models.grouping import average_slots, group_rows, row_order
from fastmux.models.padding import attends_padding, least_width, pad_rows


class PredictsInGroups:
    """`predict`, for models whose ``forward`` returns ``logits`` of rows that share groups."""

    @torch.no_grad()
    def predict(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        copies: int = 1,
        grouping: str = "in_order",
        seed: int | None = None,
        groups_per_batch: int = 32,
        fallback: PreTrainedModel | None = None,
        min_confidence: float | None = None,
    ) -> Tensor:
        """Logits of any number of rows, in eval mode, at a speed and accuracy of one's choice.

        Args:
            input_ids, attention_mask, token_type_ids: (B, L). Where the model's conventions have a ``padded_length``,
                rows are padded to it.
            copies: slots that each row takes, 1 to N; its logits are averaged over them. A group then serves
                N // copies rows.
            grouping: which rows share a group: "in_order", "random" (with ``seed``) or "length" (rows of like length;
                each batch is cut to its longest row).
            groups_per_batch: groups that one pass of the encoder takes.
            fallback: the model that rows go through of which this one is unsure (a cascade), e.g. the one that this
                was made from: same labels, same tokens.
            min_confidence: below it a row goes through the fallback; `calibrate` finds it. See
                `fastmux.models.cascade.confidence`.

        Returns:
            (B, C), or (B, L, C) for tokens, 0 where they are padding; in the order of the rows given.

        Raises:
            ValueError: copies or grouping out of range; a fallback without a confidence, or the other way round, or of
                other labels; and as ``forward``.

        Example:
            >>> import torch, fastmux
            >>> from transformers import BertConfig
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=3)
            >>> model.predict(torch.ones(10, 7, dtype=torch.long), copies=2).shape
            torch.Size([10, 3])
        """
        if groups_per_batch < 1:
            raise ValueError(f"groups_per_batch is {groups_per_batch}, expected at least 1")
        if (fallback is None) != (min_confidence is None):
            raise ValueError("fallback and min_confidence go together, but only one of them was given")
        _check_fallback(self, fallback)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: t for name, t in inputs.items() if t is not None}
        lengths = None if attention_mask is None else _lengths(attention_mask)
        order = row_order(len(input_ids), grouping, seed, lengths)
        slots = group_rows(order, self.config.num_instances, copies)
        if not len(slots):
            with predicting(self):
                return self(**inputs).logits
        batches = (batch.flatten() for batch in slots.split(groups_per_batch))
        logits = average_slots(_logits(self, inputs, lengths, batches), slots, len(input_ids))
        if fallback is not None:
            unsure = (confidence(logits, problem_of(self), attention_mask) < min_confidence).nonzero().flatten()
            if len(unsure):
                by_length = unsure if lengths is None else unsure[lengths[unsure].argsort(descending=True, stable=True)]
                batches = by_length.cpu().split(groups_per_batch * self.config.num_instances)
                logits[by_length] = _logits(fallback, inputs, lengths, batches).to(logits)
        if logits.dim() == 3 and attention_mask is not None:
            logits = logits * (attention_mask != 0)[..., None]
        return logits

    @torch.no_grad()
    def calibrate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        fallback: PreTrainedModel,
        target_agreement: float = 0.99,
        **options,
    ) -> CascadeThreshold:
        """The ``min_confidence`` at which `predict` gives as many rows as asked the label that the fallback gives them.

        Use rows that neither model was trained on, and none that figures are reported on: on others the agreement is
        the one that was asked for only on average.

        Args:
            input_ids, attention_mask, token_type_ids: (B, L), no labels.
            fallback: as for `predict`.
            target_agreement: share of the rows, in (0, 1].
            options: ``copies``, ``grouping``, ``seed``, ``groups_per_batch``, as they will be given to `predict`.

        Raises:
            ValueError: a target that no threshold reaches (the message says the best one), a regression, and as
                `predict`.

        Example:
            >>> import torch, fastmux
            >>> from transformers import BertConfig, BertForSequenceClassification
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> original = BertForSequenceClassification(tiny)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(original, num_instances=2, num_labels=2)
            >>> ids = torch.arange(40).view(8, 5)
            >>> found = model.calibrate(ids, fallback=original, target_agreement=0.1)
            >>> model.predict(ids, fallback=original, min_confidence=found.min_confidence).shape
            torch.Size([8, 2])
        """
        _check_fallback(self, fallback)
        ours = self.predict(input_ids, attention_mask, token_type_ids, **options)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: t for name, t in inputs.items() if t is not None}
        lengths = None if attention_mask is None else _lengths(attention_mask)
        batches = torch.arange(len(input_ids)).split(32 * self.config.num_instances)
        theirs = _logits(fallback, inputs, lengths, batches)
        problem = problem_of(self)
        return choose_min_confidence(
            confidence(ours, problem, attention_mask), agrees(ours, theirs, problem, attention_mask), target_agreement
        )


def problem_of(model: PreTrainedModel) -> str:
    """What kind of labels a model gives; by their number where its config does not say, as its loss would take it."""
    return model.config.problem_type or (
        "regression" if model.config.num_labels == 1 else "single_label_classification"
    )


def _check_fallback(model: PreTrainedModel, fallback: PreTrainedModel | None) -> None:
    if fallback is not None and fallback.config.num_labels != model.config.num_labels:
        raise ValueError(
            f"fallback has {fallback.config.num_labels} labels, expected the {model.config.num_labels} of this model"
        )


@contextlib.contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """Every module of a model in eval mode, and afterwards in the mode that it was in; weights stay as they are
    meanwhile, so that what depends on them alone is computed once, in this thread and without gradients."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with holding():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _logits(
    model: PreTrainedModel, inputs: dict[str, Tensor], lengths: Tensor | None, batches: Iterable[Tensor]
) -> Tensor:
    """A model's logits of the rows of all batches, end to end. Each batch is cut to its longest row, or to the width
    that the model wants: where it attends to padding and wants none, it gets the rows as they are."""
    width, least = inputs["input_ids"].shape[1], least_width(model)
    if attends_padding(model) and not least:
        lengths = None
    inputs = pad_rows(model, inputs)
    padded = inputs["input_ids"].shape[1]
    parts = []
    with predicting(model):
        for rows in batches:
            rows = rows.to(inputs["input_ids"].device)
            length = padded if lengths is None else max(1, least, int(lengths[rows].max()))
            logits = model(**{name: t[rows, :length] for name, t in inputs.items()}).logits
            # Of tokens, one answer for each that was given; padding takes off where it is negative.
            parts.append(nn.functional.pad(logits, (0, 0, 0, width - length)) if logits.dim() == 3 else logits)
    return torch.cat(parts)


def _lengths(attention_mask: Tensor) -> Tensor:
    """One more than the last position that is no padding, (B)."""
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return ((attention_mask != 0) * positions).amax(1)
