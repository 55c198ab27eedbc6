"""Logits of any number of rows, at a speed and accuracy of one's choice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fastmux.models.inputs import check_unmasked
from fastmux.models.problems import Regression, TokenLabels, problem_of
from fastmux.passes.cascade import CascadeThreshold
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import TorchRuntime, attends_padding, least_width
from fastmux.passes.tokens import Tokens

GROUPINGS = ("in_order", "random", "length")
#: Of a fallback's passes.
_BATCH_TOKENS = 4096


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
            input_ids, attention_mask, token_type_ids: (B, L). Rows may be padded on either side, as the mask says;
                without a mask, padding is refused. Where the model's conventions have a ``padded_length``, rows are
                padded to it.
            copies: slots that each row takes, 1 to N; its logits are averaged over them. A group then serves
                N // copies rows.
            grouping: which rows share a group: "in_order", "random" (with ``seed``) or "length" (rows of like length;
                each batch is cut to its longest row).
            groups_per_batch: groups that one pass of the encoder takes.
            fallback: the model that rows go through of which this one is unsure (a cascade), e.g. the one that this
                was made from: same labels, same tokens.
            min_confidence: below it a row goes through the fallback; `calibrate` finds it. See
                `fastmux.passes.cascade.confidence`.

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
        tokens = _tokens(input_ids, attention_mask, token_type_ids)
        order = _row_order(len(input_ids), grouping, seed, None if attention_mask is None else tokens.lengths)
        engine = _engine(self, input_ids, attention_mask, copies, fallback, min_confidence)
        found = engine.run(tokens, _plan(order, engine, groups_per_batch))
        logits = torch.from_numpy(found.logits).to(input_ids.device)
        if not engine.runtime.per_token:
            return logits
        inside = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
        return logits.new_zeros((*input_ids.shape, logits.shape[-1])).masked_scatter_(inside[..., None], logits)

    @torch.no_grad()
    def calibrate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        fallback: PreTrainedModel,
        target_agreement: float = 0.99,
        copies: int = 1,
        grouping: str = "in_order",
        seed: int | None = None,
        groups_per_batch: int = 32,
    ) -> CascadeThreshold:
        """The ``min_confidence`` at which `predict` gives as many rows as asked the label that the fallback gives them.

        Use rows that neither model was trained on, and none that figures are reported on: on others the agreement is
        the one that was asked for only on average.

        Args:
            input_ids, attention_mask, token_type_ids: (B, L), as for `predict`, no labels. `fastmux.Labeller.calibrate`
                takes texts.
            fallback: as for `predict`.
            target_agreement: share of the rows, in (0, 1].
            copies, grouping, seed, groups_per_batch: as they will be given to `predict`.

        Raises:
            ValueError: a target that no threshold reaches (the message says the best one), a regression, and as
                `predict`.

        Example:
            >>> import torch, fastmux
            >>> from transformers import BertConfig, BertForSequenceClassification
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> original = BertForSequenceClassification(tiny)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(original, num_instances=2, num_labels=2)
            >>> ids = torch.arange(1, 41).view(8, 5)
            >>> found = model.calibrate(ids, fallback=original, target_agreement=0.1)
            >>> model.predict(ids, fallback=original, min_confidence=found.min_confidence).shape
            torch.Size([8, 2])
        """
        tokens = _tokens(input_ids, attention_mask, token_type_ids)
        order = _row_order(len(input_ids), grouping, seed, None if attention_mask is None else tokens.lengths)
        engine = _engine(self, input_ids, attention_mask, copies, fallback, 0.0)
        return engine.calibrate(tokens, target_agreement, _plan(order, engine, groups_per_batch))


def _plan(order: np.ndarray, engine: Engine, groups_per_batch: int) -> list[np.ndarray]:
    """The rows of every pass: so many groups of neighbours in the order."""
    if groups_per_batch < 1:
        raise ValueError(f"groups_per_batch is {groups_per_batch}, expected at least 1")
    rows = engine.layout.rows * groups_per_batch
    return [order[begin : begin + rows] for begin in range(0, len(order), rows)]


def _engine(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    copies: int,
    fallback: PreTrainedModel | None,
    min_confidence: float | None,
) -> Engine:
    """What runs rows through a model, and through the fallback behind it."""
    # What attends to padding is what it is without a mask, too; a fallback is not.
    if fallback is not None or not attends_padding(model):
        check_unmasked(model.config, input_ids, attention_mask)
    pad_id, width = _pad_id(model, input_ids, attention_mask), input_ids.shape[1]
    behind = None
    if fallback is not None:
        _check_same_kind(model, fallback)
        if fallback.config.num_labels != model.config.num_labels:
            raise ValueError(
                f"fallback has {fallback.config.num_labels} labels, "
                f"expected the {model.config.num_labels} of this model"
            )
        behind = Engine(TorchRuntime(fallback, pad_id), _BATCH_TOKENS)
    # A model that attends to padding, and wants no width of its own, gets the rows as wide as they are.
    runtime = TorchRuntime(model, pad_id, least_width=width if attends_padding(model) and not least_width(model) else 0)
    return Engine(runtime, _BATCH_TOKENS, copies, fallback=behind, min_confidence=min_confidence)


def _check_same_kind(model: PreTrainedModel, fallback: PreTrainedModel) -> None:
    """Raises ValueError for a fallback behind a model that is never sure, or one of another kind of labels."""
    ours, theirs = problem_of(model), problem_of(fallback)
    if ours == Regression.name:
        raise ValueError("fallback is given, but the model is a regression, which does not say how certain it is")
    if ours not in (TokenLabels.name, theirs):
        raise ValueError(f"fallback gives labels of the kind {theirs!r}, expected this model's, {ours!r}")


def _pad_id(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> int:
    """The token at the padding of a batch: others of a group see it."""
    if attention_mask is not None and len(found := input_ids[attention_mask == 0]):
        return int(found[0])
    return model.config.pad_token_id or 0


def _tokens(input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tokens:
    arrays = (None if t is None else t.cpu().numpy() for t in (input_ids, attention_mask, token_type_ids))
    return Tokens.of_padded(*arrays)


def _row_order(rows: int, grouping: str, seed: int | None, lengths: np.ndarray | None) -> np.ndarray:
    """The order in which rows are put into groups, (B).

    Raises:
        ValueError: The grouping is unknown, or there are no lengths to group by.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping is {grouping!r}, expected one of {', '.join(map(repr, GROUPINGS))}")
    if grouping == "in_order":
        return np.arange(rows)
    if grouping == "random":
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randperm(rows, generator=generator).numpy()
    if lengths is None:
        raise ValueError("grouping is 'length', which needs an attention_mask to tell lengths from")
    return np.argsort(-lengths, kind="stable")
