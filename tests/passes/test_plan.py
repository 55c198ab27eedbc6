"""Which rows share a pass."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmux.passes.plan import PASS_TOKENS, PASS_TOKENS_GPU, Layout, plan_passes


def positions(lengths, batches, layout):
    """Positions that the encoder takes in all."""
    groups = (-(-len(rows) // layout.rows) for rows in batches)
    longest = (max(layout.least, lengths[rows].max()) + layout.prefix for rows in batches)
    return sum(count * layout.sequences * width for count, width in zip(groups, longest, strict=True))


def by_themselves(lengths, layout):
    """Positions of all groups, each padded to its own longest row."""
    return positions(
        lengths, np.split(order := np.argsort(-lengths), range(layout.rows, len(order), layout.rows)), layout
    )


layouts = st.builds(
    Layout, rows=st.sampled_from([1, 2, 7, 40]), prefix=st.sampled_from([0, 3]), least=st.integers(1, 9)
)


@given(st.lists(st.integers(0, 60), max_size=300), st.integers(1, 400), layouts, st.sampled_from([1, 16, 1024]))
def test_every_row_once_in_full_groups_and_within_the_budget(lengths, budget, layout, pass_tokens):
    lengths = np.array(lengths, np.int64)
    batches = plan_passes(lengths, budget, layout, pass_tokens)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(rows) % layout.rows == 0 for rows in batches[:-1])
    for rows in batches:
        assert len(rows) <= layout.rows or positions(lengths, [rows], layout) <= budget
    padded = np.maximum(lengths, layout.least)
    ends = [(padded[rows].max(), padded[rows].min()) for rows in batches]
    assert all(low >= high for (_, low), (high, _) in itertools.pairwise(ends)), "the longest first"


@given(st.lists(st.integers(0, 60), max_size=300), st.integers(1, 400), layouts, st.integers(1, 3))
def test_packed_groups_fill_passes_without_padding(lengths, budget, layout, sequences):
    lengths, layout = np.array(lengths, np.int64), replace(layout, packed=True, sequences=sequences)
    batches = plan_passes(lengths, budget, layout)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(rows) % layout.rows == 0 for rows in batches[:-1])
    groups = [np.split(rows, range(layout.rows, len(rows), layout.rows)) for rows in batches]
    taken = [[positions(lengths, [group], layout) for group in batch] for batch in groups]
    assert sum(map(sum, taken)) == (by_themselves(lengths, layout) if len(lengths) else 0)
    assert all(len(batch) == 1 or sum(batch) <= budget for batch in taken)
    assert all(sum(batch) + following[0] > budget for batch, following in itertools.pairwise(taken)), "full"
    longest = list(itertools.chain.from_iterable(taken))
    assert longest == sorted(longest, reverse=True)


def cheapest(groups, budget, pass_tokens):
    """The least cost of all ways to cut a list of groups into passes."""
    if not groups:
        return 0
    ways = []
    for count in range(1, len(groups) + 1):
        if count == 1 or count * groups[0] <= budget:
            ways.append(pass_tokens + count * groups[0] + cheapest(groups[count:], budget, pass_tokens))
    return min(ways)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 30))
def test_no_other_cuts_cost_less(lengths, budget):
    batches = plan_passes(np.array(lengths), budget, pass_tokens=1)
    cost = positions(np.array(lengths), batches, Layout()) + len(batches)
    assert cost == cheapest(sorted(lengths, reverse=True), budget, pass_tokens=1)


@pytest.mark.parametrize("deviation", [0.6, 0.8])
@pytest.mark.parametrize(("budget", "pass_tokens"), [(1024, PASS_TOKENS), (65536, PASS_TOKENS_GPU)])
@pytest.mark.parametrize(
    "layout", [Layout(), Layout(2), Layout(4), Layout(10), Layout(20), Layout(40), Layout(10, 1, 11), Layout(40, 1, 41)]
)
def test_little_of_a_pass_is_padding(layout, budget, pass_tokens, deviation):
    drawn = np.random.default_rng(0).lognormal(np.log(25) - deviation**2 / 2, deviation, 8192)
    lengths = np.clip(drawn.round(), 1, 512).astype(np.int64)
    batches = plan_passes(lengths, budget, layout, pass_tokens)
    assert by_themselves(lengths, layout) >= 0.95 * positions(lengths, batches, layout)


def test_rows_of_one_length_fill_the_budget():
    assert [len(rows) for rows in plan_passes(np.full(1000, 10), 1024, Layout(2))] == [204] * 4 + [184]
    # Rows that are joined in the deeper layers alone take a sequence each in the others.
    assert [len(rows) for rows in plan_passes(np.full(300, 10), 1024, Layout(2, 2))] == [102, 102, 96]
    assert [len(rows) for rows in plan_passes(np.full(100, 10), 150, Layout(prefix=5))] == [10] * 10
    assert [len(rows) for rows in plan_passes(np.full(100, 3), 150, Layout(least=15))] == [10] * 10


def test_a_gpu_gets_few_passes_where_padding_allows_it():
    lengths = np.full(4096, 20)
    lengths[:64] = 19
    assert len(plan_passes(lengths, 65536, pass_tokens=PASS_TOKENS_GPU)) == 2
    assert len(plan_passes(lengths, 65536, pass_tokens=1)) == 3
