"""Memory is counted tensor by tensor, as the allocator counts it."""

from __future__ import annotations

import json

import pytest
import torch
from thoroughness import on_request
from torch import nn

from bench import memory, timing
from fastmux.training.recipe import read_recipe


def test_a_hand_computed_step():
    """exp(x W^T), summed: every tensor of forward and backward is known."""
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(128, 64)
    out, scalar = 4 * 128 * 32, 4

    def work():
        layer(x).exp().sum().backward()

    # The exponentials and the gradient of their arguments, the loss and its gradient. The weight's gradient is smaller
    # than the exponentials, and is made when these are gone.
    assert timing.peak_bytes(work) == 2 * out + 2 * scalar


def test_the_default_of_memory_is_that_of_the_task_stdlib():
    args, recipe = memory.parse_args([]), read_recipe("stdlib")
    sizes = (args.config.num_hidden_layers, args.config.hidden_size, args.config.num_attention_heads)
    assert sizes == (recipe.num_layers, recipe.hidden_size, recipe.num_heads)
    assert args.config.intermediate_size == recipe.intermediate_size and args.vocab_size == recipe.vocab_size
    assert (args.length, args.dropout) == (recipe.max_length, recipe.dropout)
    assert args.groups == [recipe.task_rows // recipe.num_instances]


@on_request
def test_memory_runs(tmp_path, run_script):
    options = [
        "--num_instances",
        "3",
        "--length",
        "8",
        "--groups",
        "2",
        "--output",
        str(tmp_path / "memory.json"),
        "--device",
        "cpu",
    ]
    printed = run_script("memory.py", *options)
    plain, index, unbind, longer = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [r["model"] for r in (plain, index, unbind, longer)] == ["plain", "index", "unbind", "plain"]
    assert (plain["rows"], index["rows"], longer["length"]) == (2, 6, 12)
    for row in (plain, index, unbind, longer):
        # parameters and both moments are there all the time
        assert row["peak_bytes"] >= 3 * row["parameter_bytes"]
        assert row["ratio_to_plain"] == pytest.approx(row["peak_bytes"] / plain["peak_bytes"])
        assert f"{row['ratio_to_plain']:.3f}" in printed
    assert longer["peak_bytes"] > plain["peak_bytes"] and index["peak_bytes"] > unbind["peak_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--groups", "0"], "0, expected an integer of at least 1"),
        (["--hidden_size", "50"], "--hidden_size 50 is no multiple of --num_attention_heads 4"),
    ],
)
def test_bad_options(options, message, refusal):
    assert message in refusal(memory.parse_args, options)
