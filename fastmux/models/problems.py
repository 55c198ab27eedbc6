"""The kinds of labels that models give. The kind decides how a student learns from a teacher and how the two are
compared.

There is a class for each of transformers' ``problem_type``, and one for labels of tokens. `problem_of` tells which kind
a model has. `fastmux.passes.cascade` defines confidence and agreement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from fastmux.passes.runtimes.torch import EMBEDDING
from fastmux.passes.runtimes.torch import problem_of as of_config


class Problem:
    """A kind of labels.

    Attributes:
        name: The name, as in ``problem_type``.
        same: What two models that agree have in common, for messages. None for numbers, which are never quite equal.
        divergence_name: The name of what `divergence` computes, with its unit.
    """

    name: str
    same: str | None
    divergence_name: str | None

    def divergence(
        self, said: Tensor, wanted: Tensor, temperature: float = 1.0, *, variance: Tensor | None = None
    ) -> Tensor:
        """The divergence of a model's logits from another model's, a scalar: the mean over rows, in float32 or wider.

        Args:
            said: The model's logits (..., C).
            wanted: The other model's logits (..., C).
            temperature: Divides both models' logits. The result is multiplied with its square, which keeps the size of
                the gradient (Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", section
                2). A regression ignores it.
            variance: The variance (C) of a regression's outputs, or the whole variance of vectors, by which squared
                errors are divided.
        """
        raise NotImplementedError

    def variance(self, logits: Tensor) -> Tensor | None:
        """The ``variance`` for `divergence`, from the logits (R, C) of all rows: (C) for a regression, a scalar for
        vectors, else None."""
        return None


class SingleLabel(Problem):
    """One of C labels, by a softmax."""

    name = "single_label_classification"
    same = "same labels"
    divergence_name = "KL divergence, nats"

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        ours, theirs = (F.log_softmax(_precise(t).flatten(0, -2) / temperature, -1) for t in (said, wanted))
        return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class MultiLabel(Problem):
    """Any number of C labels, by a sigmoid for each."""

    name = "multi_label_classification"
    same = "same sets of labels"
    divergence_name = "KL divergence of the labels' sigmoids, nats a row"

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        # A label's sigmoid is the softmax of its logit and 0. Labels are independent, so their divergences add up.
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
        """R^2, the share of the variance of ``wanted`` (R, C) that ``said`` (R, C) explains, as the mean over outputs.
        An output that is the same for all rows counts 1 if the model gives exactly this value, else 0."""
        said, wanted = said.double(), wanted.double()
        missed = (said - wanted).square().sum(0)
        total = (wanted - wanted.mean(0)).square().sum(0)
        flat = torch.where(missed > 0, 0.0, 1.0).double()
        return torch.where(total > 0, 1 - missed / torch.where(total > 0, total, 1.0), flat).mean().item()


class TokenLabels(SingleLabel):
    """One of C labels for every token. transformers trains such heads on nothing else, and ignores ``problem_type``."""

    name = "token_classification"
    same = "same labels of tokens"


class Vectors(Problem):
    """A vector for each row, which is compared with other rows' by its direction."""

    name = EMBEDDING
    same = None
    divergence_name = None

    def divergence(self, said, wanted, temperature=1.0, *, variance=None):
        """The squared error of the vectors, and that of the cosines between the rows of the batch (relational
        distillation, Park et al., CVPR 2019, section 3.2), each over its variance; the temperature is ignored."""
        ours, theirs = _precise(said), _precise(wanted)
        error = (ours - theirs).square().sum(-1).mean() / (1.0 if variance is None else variance.to(theirs))
        ours, theirs = (F.normalize(t, dim=-1) @ F.normalize(t, dim=-1).T for t in (ours, theirs))
        spread = theirs.var(correction=0).clamp(min=1e-4)
        return error + (ours - theirs).square().mean() / spread

    def variance(self, logits):
        spread = _precise(logits).var(0, correction=0).sum()
        return torch.where(spread > 0, spread, 1.0)


PROBLEMS: dict[str, Problem] = {
    p.name: p for p in (SingleLabel(), MultiLabel(), Regression(), TokenLabels(), Vectors())
}


def problem_of(model: PreTrainedModel) -> str:
    """The kind of labels that a model gives: a name in `PROBLEMS`.

    It is decided as in transformers, by ``config.problem_type``. If that is None, a head with one output is a
    regression, and any other gives one label. Training on multi-hot labels sets it. A head on tokens gives each token
    one label.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from fastmux.models.problems import problem_of
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> problem_of(BertForSequenceClassification(tiny))
        'single_label_classification'
    """
    if type(model).__name__.endswith("ForTokenClassification"):
        return TokenLabels.name
    if hasattr(model, "vector_size"):
        return Vectors.name
    return of_config(model.config)


def _precise(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()
