"""The loss and the measure are the task's: one label, several, numbers, tags; padding on either side; what is said."""

import copy
import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

from fastmux.cli.main import main
from fastmux.converting.convert import convert
from fastmux.distillation.agreement import Agreement, measure_agreement
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.teacher import compute_teacher_outputs
from fastmux.distillation.texts import tokenize
from fastmux.distillation.trainer import TeacherCollator, distillation_loss
from fastmux.models.problems import PROBLEMS, problem_of
from fastmux.passes.timer import Rate

KINDS = {
    "single": {"num_labels": 3},
    "multi": {"num_labels": 4, "problem_type": "multi_label_classification"},
    "number": {"num_labels": 1},
    "numbers": {"num_labels": 3, "problem_type": "regression"},
    "tags": {"num_labels": 3},
}
QUICK = {"per_device_train_batch_size": 16, "disable_tqdm": True, "save_strategy": "no"}
COPY = ConversionSettings(num_instances=1, learning_rate=1e-9)


@pytest.fixture
def make(tiny_config):
    """The model of a kind of labels."""

    def made(kind, **options):
        torch.manual_seed(0)
        config = BertConfig(**{**tiny_config.to_dict(), "id2label": None, "label2id": None, **KINDS[kind], **options})
        head = BertForTokenClassification if kind == "tags" else BertForSequenceClassification
        return head(config).eval()

    return made


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Speed is not what is tested here."""
    rates = {name: Rate(rate, rate, rate) for name, rate in (("original", 100), ("converted", 250), ("forward", 50))}
    monkeypatch.setattr("fastmux.converting.convert.measure_speed", lambda *_, **__: rates)


def compared(student, original, tokenizer, texts, n=1):
    return measure_agreement(student, original, tokenizer, tokenize(texts[:48], tokenizer, 16), n, 0)


def shaken(model, amount):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.classifier.weight.add_(amount * torch.randn_like(other.classifier.weight))
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_agrees_and_another_model_does_not(kind, make, tokenizer, texts):
    model = make(kind)
    same = compared(copy.deepcopy(model), model, tokenizer, texts)
    other = compared(shaken(model, 0.3), model, tokenizer, texts)
    assert same.problem == problem_of(model)
    if "number" in kind:
        assert (same.labels, same.kl, same.r2) == (None, None, pytest.approx(1.0))
        assert other.r2 < 0.9
    else:
        assert same.r2 is None
        assert same.labels == 1.0 and same.kl == pytest.approx(0.0, abs=1e-9) and same.kl >= 0.0
        assert other.labels < 0.99 and other.kl > 0.01


def test_sets_are_the_same_where_all_labels_are(make, tokenizer, texts):
    """Labels by argmax would agree on all rows: the other model says of one more label that it holds."""
    model = make("multi")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for m in (model, other):
            m.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))  # one label of which both are surest
        other.classifier.bias[3] += 0.5
    rows = tokenizer(texts[:48], padding=True, return_tensors="pt")
    said, wanted = (m(**rows).logits for m in (other, model))
    expected = ((said > 0) == (wanted > 0)).all(-1).double().mean().item()
    assert (said.argmax(-1) == wanted.argmax(-1)).all() and expected < 1
    assert compared(other, model, tokenizer, texts).labels == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["single", "multi", "number", "numbers", "tags"])
def test_labels_alone_teach(kind, make, tokenizer, texts, tmp_path):
    settings = ConversionSettings(num_instances=2, state_weight=0.0, seed=1, learning_rate=2e-3)
    report = convert(
        make(kind),
        texts[:80],
        tmp_path / "out",
        tokenizer=tokenizer,
        settings=settings,
        **QUICK,
        max_steps=25,
        logging_steps=1,
    )
    losses = [line["loss"] for line in report.log if "loss" in line]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


@pytest.mark.parametrize("kind", ["single", "tags", "encoder"])
@pytest.mark.parametrize("names", [["input_ids", "token_type_ids", "attention_mask"], ["input_ids"]])
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(kind, names, make, tiny_config, tokenizer, texts, tmp_path):
    """An exact copy begins at no loss; so it does where the tokenizer says nothing of padding."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side, tokenizer.model_input_names = "left", names
    torch.manual_seed(0)
    model = BertModel(tiny_config).eval() if kind == "encoder" else make(kind)
    report = convert(
        model, texts, tmp_path / "out", tokenizer=tokenizer, settings=COPY, **QUICK, max_steps=1, logging_steps=1
    )
    assert report.log[0]["loss"] < 1e-5
    assert report.agreement.cosine == pytest.approx(1.0, abs=1e-5)
    assert report.agreement.labels in (None, 1.0)
    assert tokenizer.padding_side == "left"


def test_a_batch_is_padded_behind_its_tokens_with_what_the_original_says_beside(make, tokenizer, texts, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    model = make("tags")
    rows = tokenize(texts[:8], tokenizer, 16)
    teacher = compute_teacher_outputs(model, tokenizer, rows, tmp_path / "t", fingerprint="a", first_only=False)
    features = [{**rows[i], "row": i} for i in range(8)]
    batch = TeacherCollator(tokenizer, teacher)(features)
    wanted = batch.pop("teacher_states"), batch.pop("teacher_logits")
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"].all()
    said = model(**batch, output_hidden_states=True)
    loss = distillation_loss(
        said.hidden_states[-1],
        wanted[0],
        said.logits,
        wanted[1],
        batch["attention_mask"],
        problem=PROBLEMS["token_classification"],
        state_variance=1.0,
    )
    assert loss < 1e-5


SAID = {
    "single": ["same labels", "KL divergence, nats"],
    "multi": ["same sets of labels", "KL divergence of the labels' sigmoids"],
    "number": ["R²"],
    "tags": ["same labels of tokens", "KL divergence, nats"],
}


@pytest.mark.parametrize("kind", SAID)
def test_what_is_said_has_the_kinds_words(kind, make, tokenizer, texts, tmp_path, capsys):
    make(kind).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(texts[:64]))
    where = [str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "out")]
    main(["convert", *where, "--num_instances", "1", "--max_steps", "1", "--learning_rate", "1e-9"])
    printed = capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    for words in SAID[kind]:
        assert words in printed and words in card
    for text in (printed, card):
        assert "±" not in text and "-0.0000" not in text  # one grouping; a copy's divergence is none
        assert ("KL" in text) == (kind != "number") and ("labels" in text.split("| on")[-1]) == (kind != "number")
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())["agreement"]
    assert written["problem"] == problem_of(make(kind))
    assert (written["r2"] is None) == (kind != "number") and written["labels_std"] is None


@pytest.mark.parametrize(("join", "groupings"), [("rows", 3), ("positions", 1)])
def test_a_spread_is_said_where_there_are_several_groupings(join, groupings, make, tokenizer, texts, tmp_path):
    settings = ConversionSettings(join=join)
    report = convert(
        make("single"), texts, tmp_path / "o", tokenizer=tokenizer, settings=settings, **QUICK, max_steps=1
    )
    assert report.agreement.groupings == groupings
    assert ("±" in report.agreement.figures()["same labels"]) == (groupings > 1)


def test_figures_are_named_by_what_they_are():
    names = ("problem", "labels", "labels_std", "kl", "r2", "r2_std", "vectors", "similarities", "neighbours")
    none = dict.fromkeys(names)
    assert Agreement(**none, cosine=0.5, groupings=1, rows=4).figures() == {"cosine of states": "0.5000"}
    several = {**none, "problem": "multi_label_classification", "labels": 0.66, "labels_std": 0.01, "kl": 0.2}
    assert Agreement(**several, cosine=1.0, groupings=3, rows=4).figures() == {
        "same sets of labels": "0.6600 ± 0.0100",
        "KL divergence of the labels' sigmoids, nats a row": "0.2000",
        "cosine of states": "1.0000",
    }
    embeds = {**none, "problem": "embedding", "vectors": 0.9, "similarities": 0.8, "neighbours": 0.7}
    assert list(Agreement(**embeds, cosine=1.0, groupings=1, rows=4).figures()) == [
        "cosine of vectors",
        "rank correlation of similarities",
        "same nearest neighbours",
        "cosine of states",
    ]


# Refused before any work


def test_nothing_to_learn_from_is_refused(tiny_config, make, tokenizer, texts, tmp_path):
    nothing = ConversionSettings(state_weight=0.0)
    with pytest.raises(ValueError, match=r"state_weight is 0.0, expected a number above 0: the model has no head"):
        convert(BertModel(tiny_config), texts, tmp_path / "out", tokenizer=tokenizer, settings=nothing)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_padding_is_refused(make, tokenizer, texts, tmp_path):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    with pytest.raises(ValueError, match="the tokenizer has no pad token"):
        convert(make("single"), texts, tmp_path / "out", tokenizer=bare)
    assert not (tmp_path / "out").exists()


def test_one_of_several_processes_is_refused(make, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"a launcher started 2 \(WORLD_SIZE=2\); start it without torchrun"):
        convert(make("single"), texts, tmp_path / "out", tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()
