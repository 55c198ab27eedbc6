"""Which rows share a pass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastmux.labelling.plan import length_batches


def padded(lengths, batches, multiple):
    """Positions that the encoder takes, a group of ``multiple`` rows a sequence."""
    return sum(-(-len(rows) // multiple) * lengths[rows].max() for rows in batches)


@pytest.mark.parametrize("multiple", [1, 4, 40])
@pytest.mark.parametrize("budget", [64, 1024])
def test_every_row_once_in_full_groups_and_within_the_budget(multiple, budget):
    lengths = np.random.default_rng(0).integers(0, 60, 3001)
    batches = length_batches(lengths, budget, multiple, shared=multiple)
    assert sorted(np.concatenate(batches)) == list(range(3001))
    assert all(len(rows) % multiple == 0 for rows in batches[:-1])
    for rows in batches:
        assert len(rows) <= multiple or len(rows) // multiple * lengths[rows].max() <= budget
    ends = [(lengths[rows].max(), lengths[rows].min()) for rows in batches]
    assert all(low >= high for (_, low), (high, _) in itertools.pairwise(ends)), "the longest first"


def test_large_groups_are_not_padded_to_the_longest_row_of_a_third_of_all_rows():
    lengths = np.random.default_rng(0).geometric(0.08, 8192) + 3
    batches = length_batches(lengths, 1024, 40, shared=40)
    assert padded(lengths, batches, 40) < 1.2 * lengths.sum() / 40
    # Passes are not made small for it.
    sizes = [-(-len(rows) // 40) * lengths[rows].max() for rows in batches[:-1]]
    assert np.mean([size >= 150 for size in sizes]) > 0.9


def test_rows_of_one_length_fill_the_budget():
    assert [len(rows) for rows in length_batches(np.full(1000, 10), 1024, 2, shared=2)] == [204] * 4 + [184]
    # Rows that are joined in the deeper layers alone take a sequence each in the others.
    assert [len(rows) for rows in length_batches(np.full(300, 10), 1024, 2)] == [102, 102, 96]
    assert [len(rows) for rows in length_batches(np.full(100, 10), 150, prefix=5)] == [10] * 10
