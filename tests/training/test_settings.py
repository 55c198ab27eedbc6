"""Settings that know which values they allow; tables for the terminal; how plain forwards are batched."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from fastmux.distillation.speed import engine_of, plain_forward
from fastmux.passes.tokens import Tokens
from fastmux.settings import check_fields, integer, number, one_of
from fastmux.training.arguments import RunOptions
from fastmux.training.formatting import for_terminal, markdown
from fastmux.training.front import FrontOptions
from fastmux.training.recipe import Recipe
from fastmux.training.settings import build, check, documented


@dataclass(frozen=True)
class Sizes:
    """Sizes.

    Attributes:
        width: A width.
        share: A share.
        shape: A shape.
    """

    width: int = integer(4, 1, 8)
    share: float | None = number(None, 0, 1, below=True)
    shape: str = one_of("round", ("round", "flat"))

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "here: width is 0, expected an integer from 1 to 8"),
        ({"share": 1}, r"here: share is 1\.0, expected a number from 0 to below 1"),
        ({"shape": "oval"}, "here: shape is 'oval', expected one of 'round', 'flat'"),
        ({"width": 2.5}, "here: width must be of type int, got 2.5"),
        ({"share": "much"}, "here: share must be of type float, got 'much'"),
        ({"with": 3}, "here: there is no 'with' in a size; the closest is 'width'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        build(Sizes, values, "here", "size")


def test_values_of_yaml_become_those_that_are_asked_for():
    assert build(Sizes, {"share": "5e-1"}, "here", "size") == Sizes(share=0.5)
    assert build(Sizes, {}, "here", "size", width=7).width == 7


def test_help_is_what_the_docstring_says():
    @documented(units=["metres", "feet"])
    @dataclass
    class Told:
        """Told.

        Attributes:
            width, height: How wide, in
                {units}.
            shape: A shape.
        """

        width: int = integer(4, 1, 8)
        height: int | None = integer(None, 1)
        shape: str = one_of("round", ("round", "flat"))

    width, height, shape = fields(Told)
    assert width.metadata == height.metadata == {"help": "How wide, in metres, feet."}
    assert shape.metadata["choices"] == ["round", "flat"]
    check(Told())
    with pytest.raises(ValueError, match="--width is 9, expected an integer from 1 to 8"):
        check(Told(width=9), "--")
    for kind in (RunOptions, Recipe, FrontOptions):
        assert all(len(field.metadata["help"]) > 10 and "{" not in field.metadata["help"] for field in fields(kind))

    @dataclass
    class Silent:
        """Attributes:
        one: What it is.
        """

        two: int = 2

    with pytest.raises(KeyError, match="two"):
        documented()(Silent)


def test_a_table_is_aligned_in_a_terminal():
    table = markdown(["", "score"], [["plain", "0.5"], ["", "0.25 ± 0.1"]])
    assert for_terminal(table).splitlines() == [
        "            score",
        "-----  ----------",
        "plain         0.5",
        "       0.25 ± 0.1",
    ]
    assert for_terminal("A sentence.") == "A sentence."


def test_speed_without_the_engine_is_that_of_batches_in_file_order(monkeypatch):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **sizes)).eval()
    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})
    lengths = np.random.default_rng(0).integers(2, 9, 70)
    tokens = Tokens(np.random.default_rng(1).integers(5, 30, lengths.sum()).astype(np.int32), lengths)
    shapes, logits = [], []
    forward = model.forward

    def seen(*args, **given):
        shapes.append(tuple(given["input_ids"].shape))
        said = forward(*args, **given)
        logits.append(said.logits)
        return said

    monkeypatch.setattr(model, "forward", seen)
    plain_forward(model, tokenizer, tokens)
    assert shapes == [(len(part), part.max()) for part in (lengths[:32], lengths[32:64], lengths[64:])]
    monkeypatch.undo()
    engine = engine_of(model, tokenizer)
    plan = engine.shuffled_plan(lengths, 3)
    assert sorted(np.concatenate(plan)) == list(range(70))
    np.testing.assert_allclose(engine.run(tokens, plan).logits, torch.cat(logits).numpy(), atol=1e-5)
