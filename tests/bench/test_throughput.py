"""Throughput is measured beside the limit that arithmetic sets, from the command line."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from thoroughness import on_request
from transformers import BertConfig

from bench import throughput
from bench.runner import fastest
from bench.throughput import encoder_flops, limit

BASE = BertConfig()  # 12 layers, d = 768, f = 3072


class TestLimits:
    def test_flops_of_the_encoder_by_hand(self):
        # four 768 x 768 projections, two 768 x 3072, and 128 scores and weights of 768, two operations a multiply-add
        by_hand = 12 * 2 * (4 * 768 * 768 + 2 * 768 * 3072 + 2 * 128 * 768)
        assert encoder_flops(BASE, 128) == by_hand == 174_587_904

    @pytest.mark.parametrize("task", ["sequence", "token"])
    @pytest.mark.parametrize(("n", "expected"), [(1, 128 / 130), (2, 256 / 131), (10, 1280 / 139), (40, 5120 / 169)])
    def test_index_pays_for_its_prefix(self, task, n, expected):
        assert limit(task, "index", n, 128, BASE) == pytest.approx(expected)

    def test_unbind_pays_for_its_linear_layer_on_tokens_only(self):
        assert limit("sequence", "unbind", 40, 128, BASE) == 40
        assert limit("token", "key", 40, 128, BASE) == 40
        # 174,587,904 of the encoder and 40 * 1,179,648 of the linear layer for a position of 40 instances
        assert limit("token", "unbind", 40, 128, BASE) == pytest.approx(40 * 174_587_904 / 221_773_824)


@on_request
def test_throughput_runs(tmp_path, run_script):
    options = ["--num_instances", "1", "3", "--length", "8", "--batch_sizes", "2", "4", "--group_counts", "2"]
    printed = run_script("throughput.py", *options, "--repeats", "2", "--output", str(tmp_path / "throughput.json"))
    result = json.loads((tmp_path / "throughput.json").read_text())
    rows = throughput.best_groups(result["rows"])
    assert [r["num_instances"] for r in result["rows"]] == [1] * 4 + [3] * 4, "not N by N"
    assert [(r["task"], r["demultiplexer"], r["num_instances"]) for r in rows] == [
        (task, name, n) for task in ("sequence", "token") for name in ("index", "unbind") for n in (1, 3)
    ]
    for row in rows:
        assert row["instances_per_second"] > 0 and row["plain_batch_size"] in (2, 4) and row["groups"] == 2
        assert row["fraction_of_limit"] == pytest.approx(row["ratio"] / row["limit"])
        assert row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1]
    assert rows[1]["limit"] == pytest.approx(3 * 8 / 12)
    assert result["machine"]["torch"] == torch.__version__ and result["encoder"]["hidden_size"] == 16
    assert [f.name for f in tmp_path.iterdir()] == ["throughput.json"]
    assert all(f"{row['limit']:.2f}" in printed for row in rows)


def test_every_group_has_a_row_beside_the_compiled_encoder(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    options = ["--preset", "tiny", "--tasks", "sequence", "--demultiplexers", "unbind", "--num_instances", "2", "3"]
    sizes = ["--length", "8", "--batch_sizes", "2", "--group_counts", "1", "2", "--repeats", "1", "--device", "cpu"]
    how = ["--every_group", "--compiled_plain", "--disable_tqdm", "--output", str(tmp_path / "throughput.json")]
    rows = throughput.main([*options, *sizes, *how])
    assert [(r["num_instances"], r["groups"]) for r in rows] == [(2, 1), (2, 2), (3, 1), (3, 2)] and len(compiled) == 1
    assert all(r["ratio_to_compiled_plain"] > 0 for r in rows)
    best = throughput.best_groups(rows)
    assert [r["num_instances"] for r in best] == [2, 3] and all(r["limit"] == r["num_instances"] for r in best)
    assert len(json.loads((tmp_path / "throughput.json").read_text())["rows"]) == 4
    assert throughput.main([*options, *sizes, *how, "--budget", "0"]) == []


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_a_training_step_moves_the_model(task, tmp_path, monkeypatch):
    made = []
    ready = throughput._ready
    monkeypatch.setattr(throughput, "_ready", lambda model, args: made.append(ready(model, args)) or made[-1])
    options = ["--preset", "tiny", "--tasks", task, "--demultiplexers", "unbind", "--num_instances", "2", "--training"]
    sizes = ["--length", "8", "--batch_sizes", "2", "--group_counts", "1", "--repeats", "1", "--device", "cpu"]
    starts = []
    monkeypatch.setattr(
        throughput,
        "fastest",
        lambda runners, *how: starts.append(copy.deepcopy(runners[0].model.state_dict())) or fastest(runners, *how),
    )
    rows = throughput.main([*options, *sizes, "--disable_tqdm", "--output", str(tmp_path / "throughput.json")])
    assert [(r["task"], r["demultiplexer"], r["num_instances"]) for r in rows] == [(task, "unbind", 2)]
    assert rows[0]["ratio"] > 0
    assert json.loads((tmp_path / "throughput.json").read_text())["options"]["training"] is True
    assert len(made) == 2 and all(model.training for model in made)
    for model, start in zip(made, starts, strict=True):
        assert any(not torch.equal(tensor, start[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--training", "--execution", "graphed"], "captures forward passes; give eager or compiled with --training"),
        (["--num_instances", "0"], "0, expected an integer of at least 1"),
        (["--num_attention_heads", "5"], "no multiple of --num_attention_heads 5"),
        (["--clock", "cpu", "--num_threads", "2"], "--clock cpu is for one thread"),
        (["--execution", "graphed", "--device", "cpu"], "--execution graphed needs a GPU"),
    ],
)
def test_bad_options(options, message, refusal):
    assert message in refusal(throughput.parse_args, options)


def test_nothing_is_masked_on_either_side(tmp_path, monkeypatch):
    """A captured pass cannot look whether a mask has zeros, and a plain encoder would run masked attention."""
    attended, attention = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*tensors, attn_mask=None, **options):
        attended.append(attn_mask)
        return attention(*tensors, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    options = ["--preset", "tiny", "--num_instances", "2", "--length", "8", "--batch_sizes", "2", "--group_counts", "1"]
    throughput.main(
        [*options, "--repeats", "1", "--disable_tqdm", "--device", "cpu", "--output", str(tmp_path / "throughput.json")]
    )
    assert len(attended) > 10 and all(mask is None for mask in attended)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_sides_run_the_attention_that_was_asked_for(attention, tmp_path, monkeypatch):
    made, ready = [], throughput._ready
    monkeypatch.setattr(throughput, "_ready", lambda model, args: made.append(model) or ready(model, args))
    options = ["--preset", "tiny", "--num_instances", "2", "--length", "8", "--batch_sizes", "2", "--group_counts", "1"]
    where = ["--repeats", "1", "--disable_tqdm", "--device", "cpu", "--output", str(tmp_path / "throughput.json")]
    throughput.main([*options, *where, "--attn_implementation", attention])
    encoders = [model.tmux.backbone if hasattr(model, "tmux") else model.base_model for model in made]
    assert len(encoders) == 6 and {encoder.config._attn_implementation for encoder in encoders} == {attention}
