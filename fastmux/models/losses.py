"""The losses of token labels and of retrieval. Batches that a training step accumulates count as one large batch.

With the mean over each batch, a label in a batch of few labels would count more than one in a batch of many. Hugging
Face's Trainer therefore counts the labels of all batches of a step and passes the number, ``num_items_in_batch``, to
models whose ``accepts_loss_kwargs`` is true. It adds up their losses without dividing by anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmux.configuration import TMuxConfig
from fastmux.models.multiplexed_pass import MultiplexedPass
from fastmux.models.pretrained import TMuxPreTrainedModel
from fastmux.modules.retrieval import IGNORE_INDEX, retrieval_labels


def token_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The cross-entropy of logits (B, L, C) against labels (B, L), -100 where there is no label, in float32 or wider.

    It is the sum over the labels divided by ``num_items_in_batch``, by default by their number. Without labels it is 0.

    Example:
        >>> import torch
        >>> from fastmux.models.losses import token_loss
        >>> logits, labels = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, 0, 1], [2, -100, -100, -100, -100]])
        >>> parts = [token_loss(logits[i : i + 1], labels[i : i + 1], num_items_in_batch=6) for i in range(2)]
        >>> torch.allclose(sum(parts), token_loss(logits, labels))
        True
    """
    logits = logits.flatten(0, -2)
    logits, labels = logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.flatten().to(logits.device)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / _at_least_one(_labelled(labels) if num_items_in_batch is None else num_items_in_batch, total)


class Share(NamedTuple):
    """A batch's share of all batches that a step accumulates: ``own`` out of ``all``."""

    own: Tensor
    all: Tensor

    def of(self, mean: Tensor) -> Tensor:
        """The amount that the mean over this batch adds to the mean over all batches, in the mean's dtype."""
        return mean * self.own / self.all


def share_of_labels(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Share | None:
    """The share of this batch's labels in a step's ``num_items_in_batch``; None if that is None."""
    if num_items_in_batch is None:
        return None
    count = _labelled(labels)
    return Share(count, _at_least_one(num_items_in_batch, count))


def share_of_tokens(
    labels: Tensor,
    num_items_in_batch: Tensor | int | None,
    attention_mask: Tensor | None,
    tokens_in_batch: Tensor | int | None,
) -> Share | None:
    """The share of this batch's tokens, padding left out, in a step's ``tokens_in_batch``; if that is None,
    `share_of_labels`."""
    if tokens_in_batch is None:
        return share_of_labels(labels, num_items_in_batch)
    mask = torch.ones_like(labels) if attention_mask is None else attention_mask
    count = (mask != 0).sum()
    return Share(count, _at_least_one(tokens_in_batch, count))


def _labelled(labels: Tensor) -> Tensor:
    return (labels != IGNORE_INDEX).sum()


def _at_least_one(number: Tensor | int, like: Tensor) -> Tensor:
    return torch.as_tensor(number, device=like.device).reshape(()).clamp(min=1)


def instances_asked(model: TMuxPreTrainedModel, labels: Tensor, given: Tensor | None) -> Tensor | None:
    """The instances (G, L) that retrieval recovers, for labels (G, N, L). None where they are to be drawn."""
    if given is not None or model.training:
        return given
    groups, num_instances, length = labels.shape
    first = torch.arange(groups, device=labels.device)[:, None]
    return (first + torch.arange(length, device=labels.device)) % num_instances


def own_tokens(mux: MultiplexedPass, config: TMuxConfig) -> Tensor:
    """The labels of retrieval (G, N, L): the batch's own tokens, -100 where the loss does not count."""
    conventions, padding = config.conventions, None
    if conventions.attend_padding:
        padding = None if config.pad_token_id is None else mux.input_ids == config.pad_token_id
    elif mux.attention_mask is not None:
        padding = mux.attention_mask == 0
    if conventions.retrieval_counts_padding:
        padding = None
    return retrieval_labels(mux.input_ids, padding, conventions.retrieval_skips_first)


def joint_losses(
    model: TMuxPreTrainedModel,
    mux: MultiplexedPass,
    task_loss: Tensor,
    retrieval_instances: Tensor | None,
    share: Share | None = None,
) -> dict[str, Tensor]:
    """Returns the task's loss, the retrieval loss and their weighted sum. Without token ids, or if retrieval has no
    weight, there is only the task's loss. The retrieval loss is multiplied with this batch's ``share`` in a step."""
    task_weight, weight = model.config.loss_weights
    if model.retrieval is None or not weight or mux.input_ids is None:
        return {"loss": task_loss, "task_loss": task_loss}
    targets = own_tokens(mux, model.config)
    instances = instances_asked(model, targets, retrieval_instances)
    retrieval_loss = model.retrieval.loss(model.tmux, mux, targets, instances)
    retrieval_loss = retrieval_loss if share is None else share.of(retrieval_loss)
    loss = task_weight * task_loss + weight * retrieval_loss
    return {"loss": loss, "task_loss": task_loss, "retrieval_loss": retrieval_loss}
