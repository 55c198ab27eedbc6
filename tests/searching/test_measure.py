"""What stands behind a model: of two forms in 8 bits, the original in 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from known import Known

from fastmux.passes.cascade import agrees, confidence
from fastmux.passes.engine import Engine
from fastmux.passes.tokens import Tokens
from fastmux.searching.forms import Form
from fastmux.searching.measure import Measure, Part
from fastmux.searching.need import Need

ROWS, ONE_LABEL = 2000, "single_label_classification"


@pytest.fixture
def forms():
    """An original; itself in 8 bits, which errs in 5 of 100 rows; and a model that errs where it is unsure."""
    draw = np.random.default_rng(0)
    truth = np.where(draw.random((ROWS, 1)) < 0.5, [[3.0, 0.0]], [[0.0, 3.0]]).astype(np.float32)
    small = np.where(draw.random((ROWS, 1)) < 0.05, truth[:, ::-1], truth)
    unsure = draw.random((ROWS, 1)) < 0.1
    said = np.where(unsure, truth[:, ::-1] * 0.1, truth)
    kinds = {"original": ("original", "float32", truth), "original, 8 bits": ("original", "int8", small)}
    kinds |= {"cut-2": ("cut-2", "float32", said), "cut-2, 8 bits": ("cut-2", "int8", said)}
    return {
        name: Form(model, "", Engine(Known(logits), 64), "PyTorch" if kind == "float32" else "ONNX Runtime", kind)
        for name, (model, kind, logits) in kinds.items()
    }


@pytest.mark.parametrize(("agreement", "behind"), [(0.98, "original, 8 bits"), (0.998, "original")])
def test_the_original_in_8_bits_stands_behind_8_bits_where_it_is_near_enough(agreement, behind, forms, known_speeds):
    tokens = Tokens.of_rows([[row] for row in range(ROWS)])
    truth = forms["original"].engine.runtime.logits
    halves = np.arange(0, ROWS, 2), np.arange(1, ROWS, 2)
    choosing, reporting = (Part(tokens.select(half), truth[half], ONE_LABEL) for half in halves)
    timed = reporting.tokens.select(np.arange(10))
    measure = Measure(choosing, reporting, timed, lambda tokens: None, "cpu", seed=0)
    found = {p.name: p for p in measure(forms, Need(None, agreement))}
    both = [p for p in found.values() if p.cascade]
    assert {p.form: p.behind for p in both} == {"cut-2": "original", "cut-2, 8 bits": behind}
    for point in both:
        fast, second = (forms[name].engine.runtime.logits[halves[1]] for name in (point.form, point.behind))
        on = confidence(fast, ONE_LABEL) < point.min_confidence
        same = agrees(np.where(on[:, None], second, fast), truth[halves[1]], ONE_LABEL)
        assert point.agreement.mean == pytest.approx(same.mean()) and point.went_on == pytest.approx(on.mean())
