"""Numbers for labels: the scores, the teacher, and the models' loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error, r2_score
from transformers import EvalPrediction

from fastmux.training.distillation import Distillation
from fastmux.training.metrics import regression
from fastmux.training.regression import spread
from fastmux.training.scoring import Predicted, difference, score_split

ROWS = Dataset.from_dict({"row": list(range(40))})


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("digits", [1, 6])
def test_scores_are_those_of_scikit_learn_and_scipy(offset, digits):
    generator = np.random.default_rng(0)
    true = generator.normal(size=40).round(digits) + offset
    said = (true + generator.normal(size=40)).round(digits)
    found = regression(EvalPrediction(said[:, None], true), ROWS)
    assert found["r2"] == pytest.approx(r2_score(true, said), rel=1e-4)
    assert found["pearson"] == pytest.approx(pearsonr(true, said).statistic, rel=1e-4)
    assert found["spearman"] == pytest.approx(spearmanr(true, said).statistic)
    assert found["rmse"] == pytest.approx(mean_squared_error(true, said) ** 0.5, rel=1e-4)


def test_what_says_always_the_same_has_no_correlation():
    true = np.arange(40.0)
    mean = regression(EvalPrediction(np.full((40, 1), 19.5), true), ROWS)
    assert mean["r2"] == pytest.approx(0) and mean["pearson"] == mean["spearman"] == 0
    worse = regression(EvalPrediction(np.full((40, 1), 99.0), true), ROWS)
    assert worse["r2"] < -10 and worse["pearson"] == 0
    assert regression(EvalPrediction(true[:, None], true), ROWS) == {"r2": 1, "pearson": 1, "spearman": 1, "rmse": 0}


def test_splits_are_scored_by_slot_and_beside_another_model():
    generator = np.random.default_rng(1)
    true = generator.normal(size=40)
    near, far = (true + scale * generator.normal(size=40) for scale in (0.1, 0.6))

    def scored(said: np.ndarray):
        orders = [np.random.default_rng(seed).permutation(40) for seed in range(2)]
        found = [Predicted(order, EvalPrediction(said[order, None], true[order]), 0.5, 8) for order in orders]
        return score_split(regression, "r2", ROWS, found, 2)

    a, b = scored(near), scored(far)
    assert a.scores["r2"].mean == pytest.approx(r2_score(true, near)) and len(a.slots) == 2
    found = difference(lambda sums: regression.score(sums)["r2"], a.counts, b.counts)
    assert found.mean == pytest.approx(r2_score(true, near) - r2_score(true, far))
    assert 0 < found.low < found.mean < found.high


def test_values_far_from_what_rates_are_meant_for_are_said():
    assert spread("stars", [1.0, 3.0]) == "'stars' has mean 2 and standard deviation 1 in the training rows"
    for values in ([1e5, 3e5], [0.0, 0.01], [1000.0, 1002.0]):
        assert "learning rates are meant for values of about 1" in spread("price", values)


def test_a_teacher_of_numbers_is_followed_by_squared_error():
    student, teacher, labels = torch.randn(5, 1, requires_grad=True), torch.randn(5, 1), torch.randn(5)
    loss = Distillation(0.5, 3.0).loss(student, teacher, labels)
    torch.testing.assert_close(loss, (student - teacher).square().mean())
    assert Distillation(0.5, 3.0).loss(teacher, teacher, labels) == 0
