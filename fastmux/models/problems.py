"""What kind of labels a model gives, and what follows from it: how a copy learns, and by what it is measured.

One small class for each of transformers' ``problem_type`` and one for labels of tokens. `problem_of` says which is a
model's; whoever compares two models asks it. How sure a model is, and whether two agree, `fastmux.passes.cascade` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from fastmux.passes.runtimes.torch import problem_of as of_config


class Problem:
    """A kind of labels.

    Attributes:
        name: as in ``problem_type``.
        same: what two models that agree have in common, in words; None where no two are ever quite alike.
        divergence_name: of what `divergence` gives, in words and with its unit.
    """

    name: str
    same: str | None
    divergence_name: str | None

    def divergence(
        self, said: Tensor, wanted: Tensor, temperature: float = 1.0, *, variance: Tensor | None = None
    ) -> Tensor:
        """How far a model's logits are from another's: said, wanted (..., C) -> scalar, the mean over rows, in float32
        or, of float64, in that.

        Args:
            temperature: divides both sides' logits; the result is multiplied with its square, which keeps the size of
                its gradient (Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", section
                2). Of a regression, which has no distribution, it is no part.
            variance: (C), of a regression's outputs, by which its squared errors are divided.
        """
        raise NotImplementedError

    def variance(self, logits: Tensor) -> Tensor | None:
        """What `divergence` is to be scaled by: logits (R, C) of all rows -> (C), or None."""
        return None


class SingleLabel(Problem):
    """One label of C, by a softmax."""

    name = "single_label_classification"
    same = "same labels"
    divergence_name = "KL divergence, nats"

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        ours, theirs = (F.log_softmax(_precise(t).flatten(0, -2) / temperature, -1) for t in (said, wanted))
        return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class MultiLabel(Problem):
    """Any of C labels, by a sigmoid each."""

    name = "multi_label_classification"
    same = "same sets of labels"
    divergence_name = "KL divergence of the labels' sigmoids, nats a row"

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        # A label's sigmoid is the softmax of its logit and 0; labels are questions of their own, whose divergences add.
        ours, theirs = (_precise(t).flatten(0, -2)[..., None] / temperature for t in (said, wanted))
        ours, theirs = (F.logsigmoid(torch.cat([t, -t], -1)) for t in (ours, theirs))
        return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Regression(Problem):
    """C numbers, by a squared error."""

    name = "regression"
    same = None
    divergence_name = None

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        error = (_precise(said) - _precise(wanted)).square().flatten(0, -2)
        return (error if variance is None else error / variance.to(error)).mean()

    def variance(self, logits):
        spread = _precise(logits).var(0, correction=0)
        return torch.where(spread > 0, spread, 1.0)

    def r2(self, said: Tensor, wanted: Tensor) -> float:
        """The share of the variance of ``wanted`` that ``said`` explains, R^2, the mean over outputs: (R, C) each. An
        output that is the same for all rows counts 1 if it is met, 0 if not."""
        said, wanted = said.double(), wanted.double()
        missed = (said - wanted).square().sum(0)
        total = (wanted - wanted.mean(0)).square().sum(0)
        flat = torch.where(missed > 0, 0.0, 1.0).double()
        return torch.where(total > 0, 1 - missed / torch.where(total > 0, total, 1.0), flat).mean().item()


class TokenLabels(SingleLabel):
    """One label of C for every token. transformers trains such a head on nothing else, whatever ``problem_type`` is."""

    name = "token_classification"
    same = "same labels of tokens"


PROBLEMS: dict[str, Problem] = {p.name: p for p in (SingleLabel(), MultiLabel(), Regression(), TokenLabels())}


def problem_of(model: PreTrainedModel) -> str:
    """What kind of labels a model gives: the name of one of `PROBLEMS`.

    As transformers decides: by ``config.problem_type``, and where that is None a head of one output is a regression and
    any other gives one label. (A model that was trained on multi-hot labels has it in its config from then on.) A
    head on tokens gives each one label.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from fastmux.models.problems import problem_of
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> problem_of(BertForSequenceClassification(tiny))
        'single_label_classification'
    """
    if type(model).__name__.endswith("ForTokenClassification"):
        return TokenLabels.name
    return of_config(model.config)


def _precise(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()
