"""Rows through a model that is no model of torch: every row's own logits, however rows share passes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmux.passes.engine import Engine
from fastmux.passes.plan import Layout
from fastmux.passes.tokens import Tokens


class Sums:
    """Answers with the sum of a row's ids, or of a token's, whatever stands beside it."""

    num_labels, problem_type, pad_token_id, weights = 2, "single_label_classification", 999, 0

    def __init__(self, num_instances=1, per_token=False, factor=1.0, **layout):
        self.num_instances, self.per_token, self.factor = num_instances, per_token, factor
        self.layout = Layout(num_instances, **layout)
        self.widths, self.begun, self.waited, self.most_ahead, self.is_ready = [], 0, 0, 0, False

    def start(self, inputs):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert not self.layout.packed or mask.all() or self.captures(len(ids) // self.num_instances, ids.shape[1])
        assert len(ids) % self.num_instances == 0 and (ids[mask == 0] == self.pad_token_id).all()
        self.widths.append(ids.shape[1])
        return self._begun(ids * mask if self.per_token else (ids * mask).sum(1))

    def captures(self, groups, length):
        return self.layout.packed and groups * length <= 12

    def start_packed(self, rows):
        assert self.layout.packed and len(rows.ids) == self.num_instances
        assert not self.captures(len(rows.sizes), rows.sizes.max())
        assert rows.ids.shape[1] == rows.lengths.max(1).sum()
        assert (np.delete(rows.ids, rows.places) == self.pad_token_id).all()
        ends = np.cumsum(rows.lengths.ravel())
        sums = [part.sum() for part in np.split(rows.ids.ravel()[rows.places], ends[:-1])]
        return self._begun(rows.ids if self.per_token else np.array(sums))

    def _begun(self, values):
        assert self.is_ready
        self.begun += 1
        self.most_ahead = max(self.most_ahead, self.begun - self.waited)
        values = self.factor * values

        def wait():
            self.waited += 1
            return np.stack([values, -values], -1).astype(np.float32)

        return wait

    @contextlib.contextmanager
    def ready(self):
        self.is_ready = True
        yield
        self.is_ready = False


def tokens_of(rows):
    return Tokens.of_rows(rows)


rows_of = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), max_size=60)


@given(rows_of, st.sampled_from([1, 3, 8]), st.integers(1, 60), st.booleans(), st.integers(1, 3), st.booleans())
def test_every_row_has_its_own_logits(rows, num_instances, budget, per_token, copies, packed):
    runtime = Sums(num_instances, per_token, packed=packed)
    engine, told = Engine(runtime, budget, min(copies, num_instances)), []
    found = engine.run(tokens_of(rows), on_rows=told.append)
    values = [value for row in rows for value in row] if per_token else [sum(row) for row in rows]
    assert found.logits.tolist() == [[value, -value] for value in values]
    assert sum(told) == len(rows) and not len(found.went_on)
    assert runtime.most_ahead <= 5 and runtime.waited == runtime.begun and not runtime.is_ready


@given(rows_of, st.booleans(), st.booleans())
def test_rows_of_doubt_have_the_fallbacks_logits(rows, per_token, packed):
    behind, told = Engine(Sums(per_token=per_token, factor=100.0, packed=not packed), 30), []
    engine = Engine(Sums(4, per_token, packed=packed), 30, fallback=behind, min_confidence=1 / (1 + np.exp(-2 * 4)))
    found = engine.run(tokens_of(rows), on_rows=told.append)
    doubtful = [row for row, ids in enumerate(rows) if (min(ids) if per_token else sum(ids)) < 4]
    assert found.went_on.tolist() == doubtful and sum(told) == len(rows)
    factors = [100.0 if row in doubtful else 1.0 for row in range(len(rows))]
    if per_token:
        expected = [factor * value for factor, ids in zip(factors, rows, strict=True) for value in ids]
    else:
        expected = [factor * sum(ids) for factor, ids in zip(factors, rows, strict=True)]
    assert found.logits[:, 0].tolist() == expected


def test_a_threshold_is_that_of_the_whole_cascade():
    rows = [[value] for value in range(1, 9)]
    behind = Engine(Sums(factor=-1.0), 30)  # says the opposite of every row
    engine = Engine(Sums(2), 30, fallback=behind, min_confidence=0.0)
    found = engine.calibrate(tokens_of(rows), 0.5)
    assert (found.agreement, found.fallback, found.rows) == (0.5, 0.5, 8)
    went_on = Engine(Sums(2), 30, fallback=behind, min_confidence=found.min_confidence).run(tokens_of(rows)).went_on
    assert went_on.tolist() == [0, 1, 2, 3]


def test_a_model_that_wants_a_width_has_it():
    runtime = Sums(2, least=7)
    Engine(runtime, 100).run(tokens_of([[1], [2, 3], [4] * 9]))
    assert sorted(runtime.widths) == [7, 9] or runtime.widths == [9]


def test_nan_is_refused():
    with pytest.raises(ValueError, match="the model returns NaN or infinity"):
        Engine(Sums(factor=float("nan")), 100).run(tokens_of([[1]]))


def test_half_a_cascade_is_refused():
    with pytest.raises(ValueError, match="fallback and min_confidence go together"):
        Engine(Sums(), 100, min_confidence=0.5)
