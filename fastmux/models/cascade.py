"""A cascade: rows of which the multiplexed model is unsure go through the model that it was made from.

How sure is sure enough is chosen on held-out rows, for a share of rows whose label is to be the original's
(`choose_min_confidence`); `predict` of the T-MUX classes then sends the others on. (Viola and Jones, 2001, for the
word; "Model cascades" of Wang et al., 2018, arXiv 1711.11541, for the use of a cheap model before a good one.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def confidence(logits: Tensor, problem_type: str, attention_mask: Tensor | None = None) -> Tensor:
    """How sure a model is of a row: the probability of its label, of its least certain label where a row has several.

    Args:
        logits: (B, C) of rows, or (B, L, C) of their tokens.
        problem_type: "single_label_classification", also for tokens, or "multi_label_classification".
        attention_mask: (B, L), 0 at tokens that do not count.

    Returns:
        (B), from 1/C (1/2 for several labels) to 1, float32.

    Raises:
        ValueError: for a regression, whose output says nothing of its own certainty.

    Example:
        >>> import torch
        >>> from fastmux.models.cascade import confidence
        >>> confidence(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), "single_label_classification")
        tensor([0.5000, 0.9999])
    """
    logits = logits.float()
    if problem_type == "single_label_classification":
        sure = logits.softmax(-1).amax(-1)
    elif problem_type == "multi_label_classification":
        sure = logits.abs().sigmoid().amin(-1)
    else:
        raise ValueError(
            f"problem_type is {problem_type!r}, expected 'single_label_classification' or "
            "'multi_label_classification': a regression's output has no confidence"
        )
    if sure.dim() == 1:
        return sure
    if attention_mask is not None:
        sure = sure.masked_fill(attention_mask == 0, 1.0)
    return sure.amin(-1)


def agrees(logits: Tensor, original: Tensor, problem_type: str, attention_mask: Tensor | None = None) -> Tensor:
    """Whether two models give a row the same label, all the same labels where it has several: (B), bool.

    Shapes as in `confidence`.
    """
    if problem_type == "multi_label_classification":
        same = ((logits > 0) == (original > 0)).all(-1)
    else:
        same = logits.argmax(-1) == original.argmax(-1)
    if same.dim() == 1:
        return same
    if attention_mask is not None:
        same = same | (attention_mask == 0)
    return same.all(-1)


@dataclass(frozen=True)
class CascadeThreshold:
    """What `choose_min_confidence` found on its rows.

    Attributes:
        min_confidence: rows below it go through the original.
        agreement: share of the rows that then have the original's label.
        fallback: share of the rows that go through it.
        rows: on how many this was found.
    """

    min_confidence: float
    agreement: float
    fallback: float
    rows: int


def choose_min_confidence(confidence: Tensor, agrees: Tensor, target_agreement: float) -> CascadeThreshold:
    """The lowest confidence at which the cascade's labels agree with the original's as often as asked.

    Choose on rows that nothing was trained on, and report on others: the agreement here is that of the rows that the
    threshold was chosen for.

    Args:
        confidence: (B), of the multiplexed model.
        agrees: (B), whether its label is the original's.
        target_agreement: in (0, 1].

    Raises:
        ValueError: no rows, a target out of range, or one that is reached only if all rows go through the original
            (the message says what is the best below that).

    Example:
        >>> import torch
        >>> from fastmux.models.cascade import choose_min_confidence
        >>> sure, same = torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.tensor([False, True, False, True])
        >>> choose_min_confidence(sure, same, 0.75)
        CascadeThreshold(min_confidence=0.699999988079071, agreement=0.75, fallback=0.25, rows=4)
    """
    rows = len(confidence)
    if rows == 0:
        raise ValueError("no rows to choose a threshold on")
    if not 0.0 < target_agreement <= 1.0:
        raise ValueError(f"target_agreement is {target_agreement}, expected a number above 0, up to 1")
    # A threshold lies at the confidence of a row, and all rows of that confidence are kept.
    levels, level = torch.unique(confidence.double().cpu(), return_inverse=True)
    wrong = torch.zeros(len(levels), dtype=torch.long).index_add_(0, level, (~agrees.cpu()).long())
    kept = torch.bincount(level, minlength=len(levels))
    wrong, kept = (t.flip(0).cumsum(0).flip(0) for t in (wrong, kept))  # at this level and above
    agreement = 1.0 - wrong.double() / rows
    enough = (agreement >= target_agreement).nonzero()
    if len(enough) == 0:
        raise ValueError(
            f"target_agreement is {target_agreement}, which no threshold reaches on these {rows} rows: the best, "
            f"keeping the {int(kept[-1])} most certain, is {agreement[-1].item():.4f}"
        )
    first = int(enough[0])
    return CascadeThreshold(
        min_confidence=levels[first].item(),
        agreement=agreement[first].item(),
        fallback=1.0 - kept[first].item() / rows,
        rows=rows,
    )
