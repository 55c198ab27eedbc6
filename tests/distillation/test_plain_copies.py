"""Beside a conversion that joins, plain copies of its speed are trained for a few of its steps."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from thoroughness import on_request
from transformers import BertForSequenceClassification, BertForTokenClassification, BertModel

from fastmux.cli.main import main
from fastmux.converting import convert as module
from fastmux.converting.convert import convert
from fastmux.converting.kept import in_words, kept_by_row
from fastmux.converting.plain_copies import PlainCopy, options_of
from fastmux.converting.verdict import advice, beside_plain
from fastmux.distillation.agreement import measure_agreement
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.speed import engine_of, tokens_of
from fastmux.distillation.texts import read_texts, tokenize
from fastmux.distillation.trainer import DistillationTrainer
from fastmux.models.joined import JoinedForSequenceClassification
from fastmux.models.problems import problem_of
from fastmux.passes.timer import Rate

FEW = {"per_device_train_batch_size": 8, "disable_tqdm": True, "max_steps": 100}
NARROW = "all layers, half of the neurons"
BETTER = PlainCopy("3 of 6 layers", "--num_instances 1 --joined_layers 2", 30, 2.1, 0.96, 0.93, 4.0, 0.958, 0.3)


@pytest.fixture(autouse=True)
def as_fast(monkeypatch):
    """Speeds are given: those of plain copies beside the conversion's, which is 2. Called, it gives other ones."""

    def given(speeds):
        def rates(calls, rows, **_):
            return {name: Rate(*[{"": 2.0, **speeds}.get(name, 1.0)] * 3) for name in calls}

        monkeypatch.setattr("fastmux.converting.plain_copies.rates", rates)

    given({"3 of 4 layers": 1.4, "2 of 4 layers": 2.2, "1 of 4 layers": 4.0, NARROW: 2.1})

    def measure_speed(converted, original, tokenizer, rows, on_turn, others):
        speeds = {"original": 1.0, "converted": 2.0, "forward": 0.5, **dict.fromkeys(others, 2.2)}
        return {name: Rate(*[100 * speed] * 3) for name, speed in speeds.items()}

    monkeypatch.setattr(module, "measure_speed", measure_speed)
    return given


@pytest.mark.parametrize("join", ["rows", "positions"])
def test_the_conversion_is_the_one_that_it_is_without_an_estimate(join, original, tokenizer, texts, tmp_path):
    settings = ConversionSettings(join=join)
    weights = []
    for estimate in (True, False):
        out = tmp_path / str(estimate)
        given = {"tokenizer": tokenizer, "settings": settings, "estimate": estimate, **FEW}
        report = convert(original, texts, out, **given)
        weights.append(JoinedForSequenceClassification.from_pretrained(out).state_dict())
        assert bool(report.plain) == estimate
        assert not (out / ".conversion").exists()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_what_is_written_and_said(original, tokenizer, texts, tmp_path, capsys):
    report = convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **{**FEW, "max_steps": 200})
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert [one["words"] for one in written["plain"]] == [NARROW, "2 of 4 layers"]
    assert {one["steps"] for one in written["plain"]} == {20}, "a tenth of the steps each"
    assert written["sentence"] == report.sentence and report.sentence in card
    assert report.sentence.startswith("It is 2.0 x as fast as your model through the same engine (4.0 x Hugging Face's")
    low, high = report.agreement.interval
    assert low < report.agreement.labels < high and f"{100 * low:.1f}".removesuffix(".0") in report.sentence
    for one in report.plain:
        said = beside_plain(one, written["agreement"]["problem"], report.speed_up)
        assert said in report.advice and said in card
    assert any(line.startswith("The steps after the first 20 brought it from") for line in report.advice)


def test_nothing_is_estimated_where_nothing_is_joined_or_steps_are_few(original, tokenizer, texts, tmp_path):
    plain = ConversionSettings(num_instances=1, joined_layers=(2,))
    assert not convert(original, texts, tmp_path / "plain", tokenizer=tokenizer, settings=plain, **FEW).plain
    assert not convert(original, texts, tmp_path / "few", tokenizer=tokenizer, **{**FEW, "max_steps": 99}).plain


_KILLED = """
import sys
from fastmux.converting import plain_copies
from fastmux.passes.timer import Rate
from transformers import TrainerCallback
from fastmux.converting.convert import convert
from fastmux.distillation.distil import DistillationTrainer
from fastmux.distillation.texts import read_texts

class Told(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", args.output_dir.rpartition("/")[2], state.global_step, flush=True)

train = DistillationTrainer.train
def told(self, **kwargs):
    self.add_callback(Told())
    return train(self, **kwargs)
DistillationTrainer.train = told
speeds = {"": 2.0, "2 of 4 layers": 2.2}
plain_copies.rates = lambda calls, rows, **_: {name: Rate(*[speeds.get(name, 1.0)] * 3) for name in calls}
convert(sys.argv[1], read_texts([sys.argv[2]]), sys.argv[3], max_steps=100, per_device_train_batch_size=8, seed=0)
"""


@pytest.mark.parametrize("where", ["step 0 9", pytest.param("step .conversion 35", marks=on_request)])
def test_a_killed_conversion_goes_on_with_its_estimate(
    where, original, tokenizer, texts, tmp_path, as_fast, monkeypatch
):
    original.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    (tmp_path / "text.txt").write_text("\n".join(texts))
    given = [str(tmp_path / "original"), str(tmp_path / "text.txt"), str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, *given], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if line.startswith(where):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    steps = []

    def counted(self, **kwargs):
        found = train(self, **kwargs)
        steps.append((self.args.output_dir.rpartition("/")[2], self.state.global_step))
        return found

    train = DistillationTrainer.train
    monkeypatch.setattr(DistillationTrainer, "train", counted)
    texts = read_texts([given[1]])
    as_fast({"2 of 4 layers": 2.2})
    options = {"max_steps": 100, "per_device_train_batch_size": 8, "seed": 0}
    killed = convert(given[0], texts, given[2], **options)
    assert steps == [*([("0", 20)] if where.startswith("step 0") else []), (".conversion", 100)]
    whole = convert(given[0], texts, tmp_path / "whole", **options)
    assert killed.plain == whole.plain and len(whole.plain) == 1


def test_the_command_that_it_names_makes_that_copy(original, tokenizer, texts, tmp_path, capsys):
    original.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    (tmp_path / "text.txt").write_text("\n".join(texts))
    given = ["convert", str(tmp_path / "original"), "--text", str(tmp_path / "text.txt"), "--max_steps", "1"]
    for settings, layers in (
        (ConversionSettings(num_instances=1, joined_layers=()), 2),
        (ConversionSettings(num_instances=1, row_layers=0, joined_layers=(), ffn_width=0.5), 1),
    ):
        out = tmp_path / str(layers)
        main([*given, *options_of(settings).split(), "--output_dir", str(out)])
        config = BertForSequenceClassification.from_pretrained(out).config
        assert (config.num_hidden_layers, config.intermediate_size) == (layers, 64 if layers == 2 else 32)


@pytest.mark.parametrize("kind", ["single", "multi", "number", "tags", "states"])
def test_the_mean_over_rows_is_the_figure(kind, tiny_config, tokenizer, texts):
    options = {"multi": {"problem_type": "multi_label_classification"}, "number": {"problem_type": "regression"}}
    for name, value in options.get(kind, {}).items():
        setattr(tiny_config, name, value)
    made = {"tags": BertForTokenClassification, "states": BertModel}.get(kind, BertForSequenceClassification)
    torch.manual_seed(0)
    original, other = made(tiny_config).eval(), made(tiny_config).eval()
    rows = tokenize([text for text in texts if len(text.split()) == 8], tokenizer, 16)
    problem = None if kind == "states" else problem_of(original)
    tokens = tokens_of(rows)
    said, wanted = (engine_of(model, tokenizer).run(tokens).logits for model in (other, original))
    kept = kept_by_row(said, wanted, problem, tokens.lengths)
    found = measure_agreement(other, original, tokenizer, rows, 1, 0)
    figure = {"number": found.r2, "states": found.cosine}.get(kind, found.labels)
    assert kept.shape == (len(rows),)
    assert kept.mean() == pytest.approx(figure, abs=1e-5)
    assert "%" in in_words(kept.mean(), problem) or kind == "states"


MAKES = (
    ": `fastmux convert MODEL --text FILE --num_instances 1 --joined_layers 2 --output_dir DIR` makes it, and fastmux "
    "search tries more."
)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, " kept 96 % of the labels after 30 steps, as much as this one after all (95.8 %)" + MAKES),
        (
            {"apart_at_end": 3.0},
            " kept 96 % of the labels after 30 steps, more than this one after all (95.8 %)" + MAKES,
        ),
        (
            {"apart_at_end": -3.0},
            " kept more after the same 30 steps: 96 % of the labels, this one 93 %; the lead shrinks with "
            "further steps.",
        ),
        (
            {"apart_at_end": -3.0, "apart": 0.0},
            " kept about as much after the same 30 steps: 96 % of the labels, this one 93 %.",
        ),
        (
            {"apart_at_end": -3.0, "apart": -3.0},
            " kept less after the same 30 steps: 96 % of the labels, this one 93 %.",
        ),
    ],
)
def test_a_command_is_named_where_a_plain_copy_keeps_as_much_after_few_steps(changed, said):
    plain = dataclasses.replace(BETTER, **changed)
    words = "A plain copy (3 of 6 layers; 2.1 x as fast as your model)"
    assert beside_plain(plain, "single_label_classification", 2.0) == words + said
    slower = beside_plain(plain, "single_label_classification", 2.5)
    assert slower == words + " is slower; it kept 96 % of the labels after the same 30 steps, this one 93 %."


def test_what_is_known_while_it_trains_is_said():
    plain = dataclasses.replace(BETTER, speed_up=None, at_end=None, apart_at_end=None)
    assert beside_plain(plain, None) == (
        "A plain copy (3 of 6 layers; as fast as this one) kept a cosine of 0.960 of the states after the same 30 "
        "steps, this one 0.930" + MAKES
    )


def test_what_more_steps_gave_is_said():
    said = advice(2.0, [], [BETTER], "token_classification")
    assert said[1:] == ["The steps after the first 30 brought it from 93 % of the labels of tokens to 95.8 %."]
