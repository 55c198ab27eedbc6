"""A trained model becomes a faster one that says the same."""

import copy
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2Model,
    TrainerCallback,
)

from fastmux.cli.main import main
from fastmux.converting import convert as module
from fastmux.converting.convert import convert
from fastmux.converting.verdict import advice
from fastmux.distillation import attention
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.texts import read_texts
from fastmux.distillation.trainer import DistillationTrainer

QUICK = {"max_steps": 3, "per_device_train_batch_size": 16, "disable_tqdm": True}


@pytest.fixture
def saved(original, tokenizer, tmp_path):
    original.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    return tmp_path / "original"


@pytest.mark.parametrize("join", ["rows", "positions", "pooled", "feed_forward"])
@pytest.mark.parametrize(
    ("made_from", "auto"),
    [
        (None, AutoModelForSequenceClassification),
        (BertForTokenClassification, AutoModelForTokenClassification),
        (BertModel, AutoModel),
    ],
)
def test_the_saved_model_is_the_one_that_was_measured(
    join, made_from, auto, original, tiny_config, tokenizer, texts, tmp_path
):
    if (join, made_from) == ("pooled", BertForTokenClassification):
        pytest.skip("taggers are not pooled")
    torch.manual_seed(0)
    model = original if made_from is None else made_from(tiny_config).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = convert(
        model, texts, tmp_path / "out", tokenizer=tokenizer, settings=ConversionSettings(join=join), **QUICK
    )
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()), "the original was changed"
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["steps"] == report.steps == 3
    rates = report.rows_per_second
    assert written["speed_up_forward"] == pytest.approx(rates["converted"] / rates["forward"])
    assert written["speed_up"] == pytest.approx(
        report.rows_per_second["converted"] / report.rows_per_second["original"]
    )
    assert (report.agreement.labels is None) == (made_from is BertModel)
    assert "same" in (card := (tmp_path / "out" / "README.md").read_text()) or "share a pass" in card
    assert not (tmp_path / "out" / ".conversion").exists()
    loaded = auto.from_pretrained(tmp_path / "out").eval()
    assert all(p.requires_grad for p in loaded.parameters())
    batch = tokenizer(texts[:6], padding=True, return_tensors="pt")
    assert loaded(**batch)[0].shape[0] == 6


@pytest.mark.parametrize("num_instances", [1, 2])
def test_a_narrow_copy(num_instances, saved, original, texts, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(texts))
    options = ["--num_instances", str(num_instances), "--ffn_width", "0.25", "--attention_width", "0.5"]
    out = tmp_path / "out"
    main(
        [
            "convert",
            str(saved),
            "--text",
            str(tmp_path / "text.txt"),
            "--output_dir",
            str(out),
            *options,
            "--max_steps",
            "3",
        ]
    )
    assert "same labels" in capsys.readouterr().out
    loaded = AutoModelForSequenceClassification.from_pretrained(out)
    assert loaded.config.backbone_config.intermediate_size == 16
    assert {layer.output.dense.in_features for layer in loaded.model.bert.encoder.layer} == {16}
    assert {layer.attention.self.query.out_features for layer in loaded.model.bert.encoder.layer} == {16}
    assert original.config.intermediate_size == 64
    assert "25% of each layer's neurons; 50% of each layer's heads" in (out / "README.md").read_text()


_WITHOUT = """
import sys
sys.modules["fastmux"] = None
from transformers import AutoModelForSequenceClassification
model, info = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"]
print(type(model).__name__, model.config.num_hidden_layers, model.config.intermediate_size)
"""


def test_where_nothing_is_joined_the_copy_needs_no_fastmux(original, tokenizer, texts, tmp_path):
    settings = ConversionSettings(num_instances=1, joined_layers=(2,), ffn_width=0.5)
    convert(original, texts, tmp_path / "out", tokenizer=tokenizer, settings=settings, **QUICK)
    run = [sys.executable, "-c", _WITHOUT, str(tmp_path / "out")]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert said == "BertForSequenceClassification 3 32\n"
    assert (
        f'transformers.BertForSequenceClassification.from_pretrained("{tmp_path}/out")'
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_it_learns_what_the_original_says(original, tokenizer, texts, tmp_path):
    """More steps, nearer to the original; and nothing is joined with N = 1, where all layers are kept."""
    settings = ConversionSettings(num_instances=2, join="rows", seed=1)
    few, many = (
        convert(
            original,
            texts,
            tmp_path / str(steps),
            tokenizer=tokenizer,
            settings=settings,
            **{**QUICK, "max_steps": steps, "learning_rate": 2e-3},
        )
        for steps in (1, 60)
    )
    assert many.agreement.kl < few.agreement.kl / 2
    assert many.agreement.cosine > few.agreement.cosine
    same = ConversionSettings(num_instances=1, learning_rate=1e-9)
    report = convert(original, texts, tmp_path / "same", tokenizer=tokenizer, settings=same, **QUICK)
    assert report.agreement.labels == 1.0
    assert report.agreement.kl < 1e-6


_KILLED = """
import sys
from transformers import TrainerCallback
from fastmux.distillation import distil as module
from fastmux.converting.convert import convert
from fastmux.distillation.texts import read_texts

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)

train = module.DistillationTrainer.train
def slow(self, **kwargs):
    self.add_callback(Slow())
    return train(self, **kwargs)
module.DistillationTrainer.train = slow
convert(sys.argv[1], read_texts([sys.argv[2]]), sys.argv[3], max_steps=12, save_steps=2, per_device_train_batch_size=16)
"""


def test_a_killed_conversion_goes_on(saved, texts, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n".join(texts))
    command = [sys.executable, "-c", _KILLED, str(saved), str(tmp_path / "text.txt"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith("step 5"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert not (tmp_path / "out" / "config.json").exists(), "half a conversion looks like a whole one"
    (tmp_path / "out" / ".conversion" / "checkpoint-9").mkdir()  # as if another kill had met its first write
    steps = []

    class Counting(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    def counted(self, **kwargs):
        self.add_callback(Counting())
        return train(self, **kwargs)

    train = DistillationTrainer.train
    monkeypatch.setattr(DistillationTrainer, "train", counted)
    options = {"max_steps": 12, "save_steps": 2, "per_device_train_batch_size": 16}
    convert(str(saved), read_texts([str(tmp_path / "text.txt")]), str(tmp_path / "out"), **options)
    assert 1 < steps[0] <= 5, "it began anew"
    assert steps[-1] == 12
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 3


def test_the_command_says_what_came_of_it(saved, texts, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(texts))
    options = ["--max_steps", "2", "--num_instances", "2", "--joined_layers", "2", "--bf16"]
    text, out = str(tmp_path / "text.txt"), str(tmp_path / "out")
    main(["convert", str(saved), "--text", text, "--output_dir", out, *options])
    out = capsys.readouterr().out
    for words in ("same labels", "KL divergence", "cosine of states", "rows a second", "written:"):
        assert words in out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["settings"]["trainer"]["bf16"] is True
    assert config["backbone_config"]["num_hidden_layers"] == 3  # one row by row, one joined, one at the end


def test_figures_are_of_float32_after_training_under_bfloat16(original, tokenizer, texts, tmp_path, monkeypatch):
    """As the saved model is."""
    seen, measure = set(), module.measure_agreement

    def watched(student, *given, **more):
        for layer in student.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_hook(lambda _layer, _given, out: seen.add(out.dtype))
        return measure(student, *given, **more)

    wide, widened = attention._float32, []

    def noted(value):
        widened.append(getattr(value, "dtype", None))
        return wide(value)

    monkeypatch.setattr(module, "measure_agreement", watched)
    monkeypatch.setattr(attention, "_float32", noted)
    convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK, bf16=True)
    assert seen == {torch.float32}
    assert torch.bfloat16 in widened  # attention in bfloat16 is slow on a CPU


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    out = capsys.readouterr().out
    assert "examples:" in out and "--num_instances" in out and "without labels" in " ".join(out.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["w1"]}, "texts has 1 rows, expected at least 20, better some thousands: 0 would be kept apart"),
        ({"texts": ["w1"] * 19}, "a share of 98 % would be known to within"),
        ({"texts": ["\u0444\u0438\u043b\u044c\u043c"] * 40}, "100% tokens that the tokenizer does not know"),
        ({"texts": "reviews.txt"}, "texts is 'reviews.txt', expected a list of texts"),
        ({"tokenizer": None}, "tokenizer is None"),
        (
            {"texts": ["w1"] * 39 + ["w1 " * 60]},
            "max_length is 128, but the model has room for 32 tokens, and a row has",
        ),
        ({"settings": ConversionSettings(joined_layers=(9,))}, r"joined_layers is \(9,\)"),
        ({"model": "nowhere/to-be-found"}, "model 'nowhere/to-be-found' cannot be loaded"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, message, original, tokenizer, texts, tmp_path):
    given = {"model": original, "texts": texts, "tokenizer": tokenizer, "settings": None, **change}
    with pytest.raises(ValueError, match=message):
        convert(given.pop("model"), given.pop("texts"), tmp_path / "out", **given, **QUICK)
    assert not (tmp_path / "out").exists()


def test_models_that_are_no_encoders_are_refused(tokenizer, tiny_config, texts, tmp_path):
    decoder = GPT2Model(GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=2))
    with pytest.raises(ValueError, match="'gpt2'"):
        convert(decoder, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    with pytest.raises(ValueError, match="model is a BertForMaskedLM"):
        convert(BertForMaskedLM(tiny_config), texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)


def test_a_tokenizer_of_another_vocabulary_is_refused(original, tokenizer, texts, tmp_path):
    original.resize_token_embeddings(len(tokenizer) - 5)
    with pytest.raises(ValueError, match="tokenizer has 45 entries, the model's vocabulary 40"):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)


def test_a_folder_without_a_tokenizer_is_refused(original, texts, tmp_path):
    original.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare' has no tokenizer beside it"):
        convert(tmp_path / "bare", texts, tmp_path / "out", **QUICK)


def test_a_folder_that_holds_something_else_is_left_alone(original, tokenizer, texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_unfinished_conversion_with_other_settings_is_refused(original, tokenizer, texts, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastmux.distillation.distil.DistillationTrainer.train", full)
    with pytest.raises(OSError):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    monkeypatch.undo()
    other = ConversionSettings(num_instances=4)
    with pytest.raises(ValueError, match="num_instances was 2, is 4"):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, settings=other, **QUICK)
    convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)  # as it was begun


def test_nan_in_the_original_is_found_before_training(original, tokenizer, texts, tmp_path):
    with torch.no_grad():
        original.bert.encoder.layer[0].output.dense.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("speed_up", "losses", "said"),
    [
        (0.9, [], ["It is slower than the original"]),
        (1.05, [], ["It is hardly faster than the original"]),
        (2.0, [1.0, 0.9], []),
        (2.0, [1.0, 0.8, 0.4, 0.2], ["more steps should help"]),
        (2.0, [1.0, 0.5, 0.49, 0.49], ["more steps would change little"]),
        (2.0, [1.0, 0.5, 0.6, 0.7], ["The loss fell by 0 % in the second half"]),
    ],
)
def test_it_says_what_the_figures_mean(speed_up, losses, said):
    found = advice(speed_up, [*({"loss": loss} for loss in losses), {"train_runtime": 1.0}])
    assert len(found) == len(said) and all(words in line for words, line in zip(said, found, strict=True))


def test_a_tokenizer_that_pads_with_another_token_than_the_config_says(original, tokenizer, texts, tmp_path):
    """As e5's, whose config keeps BERT's 0: the Trainer then sets the config's."""
    original = copy.deepcopy(original)
    original.config.pad_token_id = tokenizer.unk_token_id
    convert(original, texts, tmp_path / "out", tokenizer=tokenizer, **QUICK)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.pad_token_id == loaded.config.backbone_config.pad_token_id == tokenizer.pad_token_id
