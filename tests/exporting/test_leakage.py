"""An answer of an exported model depends on its row, or its group, and on nothing else of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmux.labelling.exported import RUNTIMES
from fastmux.passes.tokens import Tokens

_LONGEST = 16


def drawn(draw, rows, longest):
    return [draw.integers(5, 45, draw.integers(1, longest + 1)).tolist() for _ in range(rows)]


def answered(runtime, rows, width):
    """The logits of rows in one pass, of tokens without those of the padding."""
    tokens = Tokens.of_rows(rows)
    logits = runtime.start(tokens.padded(np.arange(len(rows)), width, 0))()
    return [logits[row, : len(ids)] if runtime.per_token else logits[row] for row, ids in enumerate(rows)]


KINDS = {"onnxruntime": ("plain", "tagger", "rows", "positions", "unbind"), "ctranslate2": ("plain", "tagger")}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds])
def test_companions_order_and_padding_change_no_bit(name, kind, precision, exported):
    runtime = RUNTIMES[name](exported(kind, precision, name))
    size = runtime.num_instances
    rounds = (name, precision) == ("ctranslate2", "float32")

    @settings(deadline=None, max_examples=40, database=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9))
    def hold(seed, others, more, padding):
        draw = np.random.default_rng(seed)
        group = drawn(draw, size, _LONGEST)
        width = max(runtime.layout.least, *map(len, group))

        def beside(count, width):
            rows, place = drawn(draw, size * count, width), size * int(draw.integers(count + 1))
            return answered(runtime, rows[:place] + group + rows[place:], width)[place : place + size]

        first = beside(others, width)
        for found in (beside(others, width), beside(more, width), beside(more, width + padding)):
            for one, other in zip(first, found, strict=True):
                # In float32, CTranslate2 multiplies small passes in another order: it drops all padding.
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 if rounds else 0)
        # A pass of one group multiplies vectors, not matrices, which rounds in another order.
        for one, other in zip(first, answered(runtime, group, width), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-2 if precision == "int8" else 1e-4)

    hold()
