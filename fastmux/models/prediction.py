"""`predict` and `calibrate`: the logits of any number of rows."""

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
#: The tokens in one pass of a fallback.
_BATCH_TOKENS = 4096


class PredictsInGroups:
    """Adds `predict` and `calibrate` to models whose rows share groups."""

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
        """Computes the logits of any number of rows, in eval mode.

        Args:
            input_ids, attention_mask, token_type_ids: The rows, (B, L). They may be padded on either side if there is a
                mask; without one, padding is refused. A model whose conventions have a ``padded_length`` gets rows of
                that length.
            copies: The number of slots that each row takes, 1 to N. Its logits are averaged over them, which is more
                accurate and slower: a group serves N // copies rows.
            grouping: Which rows share a group: "in_order", "random", or "length" for rows of similar length, where each
                batch is cut to its longest row.
            seed: The seed of the "random" grouping.
            groups_per_batch: The number of groups in one pass of the encoder.
            fallback: The model that classifies the rows that this model is unsure of (a cascade), e.g. the model that
                this one was made from. It must have the same labels and tokens.
            min_confidence: The confidence below which a row goes to the fallback. `calibrate` finds it. See
                `fastmux.passes.cascade.confidence`.

        Returns:
            The logits in the order of the given rows: (B, C), or (B, L, C) for tokens, with 0 at padding.

        Raises:
            ValueError: copies or grouping is out of range; there is a fallback without a confidence, or a confidence
                without a fallback; the fallback has other labels; or as in ``forward``.

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
        """Finds the ``min_confidence`` at which `predict` agrees with the fallback on the given share of rows.

        Use rows that neither model was trained on and that no figure is reported on. On other rows the agreement will
        be about, not exactly, the target.

        Args:
            input_ids, attention_mask, token_type_ids: The rows, (B, L), as for `predict`. Labels are not needed.
                `fastmux.Labeller.calibrate` takes texts.
            fallback: The fallback, as for `predict`.
            target_agreement: The share of rows that must get the fallback's label, above 0, up to 1.
            copies, grouping, seed, groups_per_batch: As they will be passed to `predict`.

        Raises:
            ValueError: No threshold reaches the target (the message names the best one), the model is a regression, or
                as in `predict`.

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
    """The rows of every pass: ``groups_per_batch`` groups of neighbours in the order."""
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
    """Builds the engine that runs rows through a model and its fallback."""
    # A model that attends to padding takes rows without a mask as well. Its fallback does not.
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
    # A model that attends to padding and has no padded length gets the rows as long as they are.
    runtime = TorchRuntime(model, pad_id, least_width=width if attends_padding(model) and not least_width(model) else 0)
    return Engine(runtime, _BATCH_TOKENS, copies, fallback=behind, min_confidence=min_confidence)


def _check_same_kind(model: PreTrainedModel, fallback: PreTrainedModel) -> None:
    """Raises ValueError if the model has no confidence, or the fallback has another kind of labels."""
    ours, theirs = problem_of(model), problem_of(fallback)
    if ours == Regression.name:
        raise ValueError("fallback is given, but the model is a regression, which does not say how certain it is")
    if ours not in (TokenLabels.name, theirs):
        raise ValueError(f"fallback gives labels of the kind {theirs!r}, expected this model's, {ours!r}")


def _pad_id(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> int:
    """The token at the padding of a batch. Other rows of a group see it."""
    if attention_mask is not None and len(found := input_ids[attention_mask == 0]):
        return int(found[0])
    return model.config.pad_token_id or 0


def _tokens(input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tokens:
    arrays = (None if t is None else t.cpu().numpy() for t in (input_ids, attention_mask, token_type_ids))
    return Tokens.of_padded(*arrays)


def _row_order(rows: int, grouping: str, seed: int | None, lengths: np.ndarray | None) -> np.ndarray:
    """The order (B) in which rows are put into groups.

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
