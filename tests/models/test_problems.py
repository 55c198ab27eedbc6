"""What follows from the kind of a model's labels, held to its formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import BertConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss

import fastmux
from fastmux.models.problems import PROBLEMS, problem_of
from fastmux.passes.cascade import agrees, confidence

SINGLE, MULTI, REGRESSION, TOKENS = (
    PROBLEMS[name]
    for name in (
        "single_label_classification",
        "multi_label_classification",
        "regression",
        "token_classification",
    )
)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_is_the_kinds_own(temperature):
    said, wanted = drawn(2, 5, 3)
    p, q = ((t / temperature).softmax(-1) for t in (wanted, said))
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(SINGLE.divergence(said, wanted, temperature), expected)
    torch.testing.assert_close(TOKENS.divergence(said[None], wanted[None], temperature), expected)
    p, q = ((t / temperature).sigmoid() for t in (wanted, said))
    binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(MULTI.divergence(said, wanted, temperature), temperature**2 * binary.sum(-1).mean())
    spread = REGRESSION.variance(wanted)
    torch.testing.assert_close(spread, wanted.var(0, correction=0))
    error = REGRESSION.divergence(said, wanted, temperature, variance=spread)
    torch.testing.assert_close(error, ((said - wanted) ** 2 / wanted.var(0, correction=0)).mean())
    torch.testing.assert_close(1 - error.item(), REGRESSION.r2(said, wanted))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_a_copy_is_no_way_off_and_anything_else_is(problem, scale):
    """Saturated logits too, whose probabilities are 0 and 1 in float32."""
    wanted = scale * drawn(6, 4).float()
    said = wanted.clone().requires_grad_()
    same = problem.divergence(said, wanted)
    (gradient,) = torch.autograd.grad(same, said)
    assert same.abs() < 1e-6 and gradient.abs().max() < 1e-6
    other = (wanted.flip(0)).requires_grad_()
    loss = problem.divergence(other, wanted)
    (gradient,) = torch.autograd.grad(loss, other)
    assert loss > 0.1 and gradient.isfinite().all() and gradient.abs().max() > 0


def test_binary_divergence_has_the_gradient_of_the_loss_on_probabilities():
    """As BCE against the original's probabilities, up to what no student can change."""
    said, wanted = drawn(2, 5, 3)
    said.requires_grad_()
    (ours,) = torch.autograd.grad(MULTI.divergence(said, wanted), said)
    bce = F.binary_cross_entropy_with_logits(said, wanted.sigmoid(), reduction="sum") / len(said)
    torch.testing.assert_close(ours, torch.autograd.grad(bce, said)[0])


def test_r2_of_outputs_that_never_change():
    wanted = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert REGRESSION.r2(wanted, wanted) == 1.0
    assert REGRESSION.r2(wanted + torch.tensor([0.0, 1.0]), wanted) == 0.5
    constant = torch.ones(4, 1)
    assert REGRESSION.variance(constant).tolist() == [1.0]
    assert REGRESSION.divergence(constant + 2, constant, variance=REGRESSION.variance(constant)) == 4.0


@pytest.mark.parametrize(
    ("options", "labels", "kind"),
    [
        ({"num_labels": 3}, None, "single_label_classification"),
        ({"num_labels": 1}, None, "regression"),
        ({"num_labels": 3, "problem_type": "regression"}, None, "regression"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, None, "multi_label_classification"),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, None, "multi_label_classification"),
        ({"num_labels": 3}, torch.tensor([[0.0, 1.0, 1.0]]), "multi_label_classification"),
        ({"num_labels": 3}, torch.tensor([2]), "single_label_classification"),
        ({"num_labels": 1}, torch.tensor([0.5]), "regression"),
    ],
)
def test_the_kind_is_the_one_that_transformers_trains(options, labels, kind):
    """Where ``problem_type`` is missing, the first labels decide, and the config has it from then on."""
    model = transformers.BertForSequenceClassification(BertConfig(**SIZES, **options))
    if labels is not None:
        model(input_ids=torch.tensor([[1, 2]]), labels=labels)
    assert problem_of(model) == kind
    joined = fastmux.JoinedForSequenceClassification.from_backbone(model, 1, row_layers=0)
    tmux = fastmux.TMuxForSequenceClassification.from_backbone(model, 2)
    assert problem_of(joined) == problem_of(tmux) == kind
    assert ForSequenceClassificationLoss  # what decides
    tagger = transformers.BertForTokenClassification(BertConfig(**SIZES, **options))
    assert problem_of(tagger) == "token_classification"


def test_numbers_never_agree_and_are_never_sure():
    logits = np.random.default_rng(0).normal(size=(2, 1))
    with pytest.raises(ValueError, match="problem_type is 'regression'"):
        confidence(logits, "regression")
    with pytest.raises(ValueError, match="problem_type is 'regression'"):
        agrees(logits, logits, "regression")
