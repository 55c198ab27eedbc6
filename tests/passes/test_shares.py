"""Shares and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from fastmux.passes.shares import Share, rows_of_words, same_labels
from fastmux.passes.tokens import Tokens


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_intervals_have_the_share_of_a_population_as_often_as_they_say(truth):
    draw, inside, above = np.random.default_rng(0), 0, 0
    for _ in range(400):
        share = Share.of(draw.random(500) < truth)
        low, high = share.interval()
        inside += low <= truth <= high
        above += truth >= share.surely()
    assert inside / 400 == pytest.approx(0.95, abs=0.035)
    assert above / 400 == pytest.approx(0.9, abs=0.045)


def test_words_of_a_row_that_go_wrong_together_count_as_one():
    rows = np.repeat(np.arange(200), 10)
    together = Share.of(np.repeat(np.arange(200) % 10 > 0, 10).astype(float), rows)
    apart = Share.of((np.random.default_rng(0).random(2000) > 0.1).astype(float), rows)
    assert together.count == apart.count == 2000
    assert together.effective == pytest.approx(200)
    assert apart.effective > 1500
    assert together.margin > 2.5 * apart.margin


def test_the_ends_are_whole():
    assert Share.of(np.ones(100)).interval()[1] == 1.0
    assert Share.of(np.zeros(100)).interval()[0] == 0.0
    assert Share.of(np.ones(50), np.repeat(np.arange(10), 5)).effective == 10


def test_only_the_first_token_of_a_word_counts():
    tokens = Tokens(np.arange(7, dtype=np.int32), np.array([3, 4]), words=[np.array([1, -1]), np.array([1, 2])])
    said = np.eye(2)[[0, 1, 0, 0, 1, 1, 1]]
    wanted = np.eye(2)[[1, 1, 1, 1, 1, 0, 1]]  # apart at 0, 2, 3 and 5; words begin at 1, 4 and 5
    assert same_labels(said, wanted, "single_label_classification", tokens).tolist() == [True, True, False]
    assert rows_of_words(tokens).tolist() == [0, 1, 1]
