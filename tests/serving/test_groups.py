"""Which rows share a group, and a pass: full groups at once, others when they are due, the oldest always first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from fastmux.labelling.memory_rows import Tokenised
from fastmux.passes.plan import Layout
from fastmux.passes.tokens import Tokens
from fastmux.serving.groups import Waiting, choose_groups


def engine(slots=1, batch_tokens=1000, sequences=1, prefix=0, least=1):
    """What `choose_groups` asks of an engine."""
    layout = Layout(slots, sequences, prefix, least)
    return SimpleNamespace(
        runtime=SimpleNamespace(num_instances=slots), batch_tokens=batch_tokens, layout=layout, pass_tokens=16
    )


@pytest.fixture
def waiting():
    """Rows of some lengths, that arrived a second after one another."""
    loop = asyncio.new_event_loop()

    def of(lengths, tenants=None, copies=None):
        rows = []
        for place, length in enumerate(lengths):
            row = Tokenised(Tokens(np.zeros(length, np.int32), np.array([length])), "text")
            tenant, own = (tenants or "a" * len(lengths))[place], (copies or [1] * len(lengths))[place]
            rows.append(Waiting(row, tenant, own, False, float(place), loop.create_future()))
        return rows

    yield of
    loop.close()


def lengths(groups):
    return [[row.row.length for row in group.rows] for group in groups]


def test_full_groups_go_at_once_and_others_wait(waiting):
    rows = waiting([3, 9, 4, 8, 5])
    assert lengths(choose_groups(rows, -1.0, engine(2))) == [[9, 8], [5, 4]]
    assert choose_groups(rows[:1], -1.0, engine(2)) == []
    assert lengths(choose_groups(rows[:1], 0.0, engine(2))) == [[3]]
    assert choose_groups([], 0.0, engine(2)) == []


def test_a_group_that_is_due_goes_with_full_ones(waiting):
    assert lengths(choose_groups(waiting([3, 9, 4]), 0.0, engine(2))) == [[9, 4], [3]]
    assert lengths(choose_groups(waiting([9, 4, 3]), 1.0, engine(2))) == [[9, 4]]


def test_a_plain_model_waits_for_nobody(waiting):
    assert lengths(choose_groups(waiting([3, 9]), -1.0, engine())) == [[9], [3]]


def test_a_pass_holds_no_more_than_its_budget_and_always_the_oldest(waiting):
    assert lengths(choose_groups(waiting([3, 9, 9, 9, 3]), -1.0, engine(1, 18))) == [[3], [3]]
    assert lengths(choose_groups(waiting([9, 3, 9, 9, 3]), -1.0, engine(1, 18))) == [[9], [9]]
    assert lengths(choose_groups(waiting([9, 3, 9, 9, 3]), -1.0, engine(1, 18, prefix=5))) == [[9]]
    assert lengths(choose_groups(waiting([40, 3]), -1.0, engine(1, 18))) == [[40]]  # longer than the budget: alone
    assert lengths(choose_groups(waiting([3, 9, 3]), -1.0, engine(1, 18, least=9))) == [[9], [3]]  # padded to 9


def test_rows_joined_in_deeper_layers_alone_take_a_sequence_each(waiting):
    rows = waiting([9] * 8)
    assert lengths(choose_groups(rows, -1.0, engine(2, 36))) == [[9, 9]] * 4
    assert lengths(choose_groups(rows, -1.0, engine(2, 36, sequences=2))) == [[9, 9]] * 2


def test_tenants_share_a_pass_but_no_group(waiting):
    rows = waiting([3, 9, 4, 8, 5, 7], "ababac")
    groups = choose_groups(rows, 9.0, engine(4))
    assert sorted(lengths(groups)) == [[5, 4, 3], [7], [9, 8]]
    assert all(len({row.tenant for row in group.rows}) == 1 for group in groups)


def test_copies(waiting):
    groups = choose_groups(waiting([3, 9, 4, 8, 5], copies=[4, 1, 2, 2, 4]), -1.0, engine(4))
    assert sorted((group.rows[0].copies, group.room, *lengths([group])[0]) for group in groups) == [
        (2, 2, 8, 4),
        (4, 1, 3),
        (4, 1, 5),
    ]


def test_no_row_waits_for_ever(waiting):
    """Whatever comes, every pass takes the oldest row."""
    rng = np.random.default_rng(0)
    rows = waiting(rng.integers(1, 60, 200).tolist(), "".join(rng.choice(list("abc"), 200)))
    while rows:
        groups = choose_groups(rows, rows[-1].arrived, engine(4, 64))
        gone = [row for group in groups for row in group.rows]
        assert rows[0] in gone
        assert sum(1 for _ in groups) == 1 or len(groups) * max(map(max, lengths(groups))) <= 64
        rows = [row for row in rows if row not in gone]
