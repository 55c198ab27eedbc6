"""What the models say reaches the rows that it is about: held to the models themselves, called on each row."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from labelling.reading import read_jsonl
from transformers import BertForSequenceClassification

import fastmux

pytestmark = pytest.mark.numbers


def alone(model, tokenizer, texts, **options):
    """Logits of every row by itself."""
    return [model(**tokenizer(text, return_tensors="pt", **options)).logits[0].detach() for text in texts]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_encoder_labels_each_row_as_it_would_alone(label, models, tokenizer, texts, workers):
    found = label(models["plain"], texts, num_workers=workers)
    expected = torch.stack(alone(models["plain"], tokenizer, texts)).softmax(-1)
    assert found.dataset["text"] == texts and not found.rejects
    names = [f"LABEL_{index}" for index in expected.argmax(-1)]
    assert list(found.dataset["label"]) == names and len(set(names)) > 1
    torch.testing.assert_close(torch.tensor(found.dataset["score"]), expected.amax(-1), rtol=0, atol=2e-5)
    report = found.report
    assert (report.rows, report.labelled, report.rejected) == (60, 60, 0)
    assert report.times.model > 0 and report.rows_per_second > 0 and len(report.lines()) >= 3


@pytest.mark.parametrize("copies", [1, 2, 4])
@pytest.mark.parametrize("name", ["tmux", "index", "joined"])
def test_groups_are_filled_with_rows_of_like_length(label, models, tokenizer, texts, name, copies):
    model = models[name]
    n = model.config.num_instances
    if copies > n:
        with pytest.raises(ValueError, match=f"copies is {copies}, expected an integer from 1 to num_instances = {n}"):
            label(model, texts, copies=copies)
        return
    found = label(model, texts, rows_per_shard=1000, copies=copies, all_scores=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    expected = model.predict(**{k: batch[k] for k in ("input_ids", "attention_mask")}, copies=copies, grouping="length")
    scores = torch.tensor([[row[f"LABEL_{i}"] for i in range(3)] for row in found.dataset["scores"]])
    torch.testing.assert_close(scores, expected.softmax(-1), rtol=0, atol=2e-5)


def test_with_all_copies_a_row_knows_no_other(label, models, tokenizer, texts):
    found = label(models["tmux"], texts, copies=4)
    again = label(models["tmux"], texts[::-1], copies=4)
    torch.testing.assert_close(
        torch.tensor(found.dataset["score"]), torch.tensor(again.dataset["score"][::-1]), rtol=0, atol=2e-5
    )


def test_pairs(label, models, tokenizer, texts):
    rows = [{"text": a, "second": b} for a, b in zip(texts[:20], texts[20:40], strict=True)]
    found = label(models["plain"], rows, pair_column="second")
    expected = [
        models["plain"](**tokenizer(row["text"], row["second"], return_tensors="pt")).logits[0].softmax(-1).max().item()
        for row in rows
    ]
    assert found.dataset["score"] == pytest.approx(expected, abs=2e-5)


def with_problem(config, problem, labels):
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config.problem_type, config.num_labels = problem, labels
    return BertForSequenceClassification(config).eval()


def test_several_labels_and_none(label, config, tokenizer, texts):
    model = with_problem(config, "multi_label_classification", 4)
    found = label(model, texts)
    for row, logits in zip(found.dataset, alone(model, tokenizer, texts), strict=True):
        chosen = (logits > 0).nonzero().flatten().tolist()
        assert row["labels"] == [f"LABEL_{index}" for index in chosen]
        assert row["scores"] == pytest.approx(logits.sigmoid()[chosen].tolist(), abs=2e-5)
    every = label(model, texts, all_scores=True).dataset["scores"][0]
    assert list(every) == [f"LABEL_{index}" for index in range(4)]


@pytest.mark.parametrize("labels", [1, 2])
def test_a_regression_has_a_score_alone(label, config, tokenizer, texts, labels):
    model = with_problem(config, "regression", labels)
    found = label(model, texts[:5])
    expected = [row.tolist() if labels > 1 else row.item() for row in alone(model, tokenizer, texts[:5])]
    assert found.dataset.column_names == ["text", "score"]
    for value, wanted in zip(found.dataset["score"], expected, strict=True):
        assert value == pytest.approx(wanted, abs=2e-5)


def test_words_get_the_tag_of_their_first_token(label, models, texts):
    rows = [{"tokens": text.split()} for text in texts]
    found = label(models["tagger"], rows)
    for row in found.dataset:
        ids = models["tagger"].config.label2id
        assert len(row["tags"]) == len(row["scores"]) == len(row["tokens"]) and set(row["tags"]) <= set(ids)
    same = label(models["tagger"], texts, is_split_into_words=True)
    assert list(same.dataset["tags"]) == list(found.dataset["tags"])


def test_tags_of_a_multiplexed_model(label, models, tokenizer, texts):
    found = label(models["tmux_tagger"], texts, rows_per_shard=1000, is_split_into_words=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    batch = {k: batch[k] for k in ("input_ids", "attention_mask")}
    logits = models["tmux_tagger"].predict(**batch, grouping="length").softmax(-1)
    for row, scores, text in zip(found.dataset, logits, texts, strict=True):
        words = scores[1 : len(text.split()) + 1]
        assert row["scores"] == pytest.approx(words.amax(-1).tolist(), abs=2e-5)
        assert row["tags"] == [f"LABEL_{index}" for index in words.argmax(-1)]


def test_words_that_the_tokenizer_finds_have_places(label, models):
    text = "w1,  w2!"
    row = label(models["tagger"], [text], all_scores=True).dataset[0]
    assert [text[a:b] for a, b in row["spans"]] == ["w1", ",", "w2", "!"]
    assert len(row["tags"]) == 4 and sum(row["scores"][0].values()) == pytest.approx(1, abs=1e-5)


def test_words_that_are_cut_or_have_no_token_have_no_tag(label, models):
    words = ["w1", "\u200b", *["w2"] * 40]
    row = label(models["tagger"], [{"tokens": words}], truncation=True).dataset[0]
    assert row["tags"][1] is None and row["scores"][1] is None and row["tags"][0] is not None
    assert row["tags"][29] is not None and row["tags"][31:] == [None] * 11


def test_unsure_rows_go_through_the_fallback(label, models, tokenizer, texts, folders, tmp_path):
    alone_scores = label(models["tmux"], texts, all_scores=True).dataset
    sure = sorted(max(scores.values()) for scores in alone_scores["scores"])
    bar = (sure[20] + sure[21]) / 2
    found = label(models["tmux"], texts, fallback=models["plain"], min_confidence=bar)
    assert found.report.fallback == 21
    plain = label(models["plain"], texts).dataset
    for row, scores, other in zip(found.dataset, alone_scores["scores"], plain, strict=True):
        expected = other["score"] if max(scores.values()) < bar else max(scores.values())
        assert row["score"] == pytest.approx(expected, abs=2e-5)
    tags = label(models["tmux_tagger"], texts, fallback=models["tagger"], min_confidence=1.0)
    assert tags.report.fallback == 60
    assert list(tags.dataset["tags"]) == list(label(models["tagger"], texts).dataset["tags"])


def test_longer_rows_are_cut_or_rejected(label, models, tokenizer):
    texts = ["w1", "w2 " * 50, "w3"]
    found = label(models["plain"], texts)
    assert found.rejects[0].reason == "has 52 tokens, the limit is 32 (truncation cuts it there)"
    assert found.rejects[0].number == 2 and found.dataset["text"] == texts
    assert [score is None for score in found.dataset["score"]] == [False, True, False]
    cut = label(models["plain"], texts, truncation=True)
    expected = alone(models["plain"], tokenizer, texts, truncation=True, max_length=32)
    assert cut.report.cut == 1 and not cut.rejects
    assert cut.dataset["score"] == pytest.approx([row.softmax(-1).max().item() for row in expected], abs=2e-5)
    with pytest.raises(ValueError, match="max_length is 33, but the model has room for 32 tokens"):
        label(models["plain"], texts, max_length=33)


def test_the_room_is_what_the_index_prefix_leaves(label, models):
    found = label(models["index"], ["w1 " * 26, "w1 " * 27])
    assert found.rejects[0].reason.startswith("has 29 tokens, the limit is 28")


def test_a_tokenizer_that_is_not_in_rust(label, models, tokenizer, texts):
    class Slow:
        def __init__(self):
            self.pad_token_id, self.model_max_length = 0, 32
            self.model_input_names = tokenizer.model_input_names

        def __call__(self, *args, **kwargs):
            kwargs.pop("verbose", None)
            return tokenizer(*args, **kwargs)

        def __len__(self):
            return len(tokenizer)

        def get_vocab(self):
            return tokenizer.get_vocab()

    rows = [*texts, "w2 " * 50]
    for truncation in (False, True):
        found = label(models["plain"], rows, tokenizer=Slow(), truncation=truncation)
        fast = label(models["plain"], rows, truncation=truncation)
        assert found.dataset.to_list() == fast.dataset.to_list() and found.report.cut == fast.report.cut
        assert found.rejects == fast.rejects
    with pytest.raises(ValueError, match="cannot say where words are"):
        label(models["tagger"], texts, tokenizer=Slow())


def test_another_precision(label, models, texts):
    exact = label(models["plain"], texts[:20]).dataset["score"]
    assert label(models["plain"], texts[:20], dtype="bfloat16").dataset["score"] == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("name", ["plain", "tmux", "joined", "tmux_tagger"])
def test_models_are_found_by_name(label, folders, models, rows_file, tmp_path, name):
    output = tmp_path / "out.jsonl"
    label(folders[name], rows_file, output)
    assert read_jsonl(output) == [
        json.loads(json.dumps(row)) for row in label(models[name], rows_file).dataset.to_list()
    ]


def test_nan_is_no_label(label, models, texts):
    model = copy.deepcopy(models["plain"])
    model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model returns NaN or infinity"):
        label(model, texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fallback": "plain"}, "fallback is given without min_confidence, and the model has no cascade.json"),
        ({"min_confidence": 0.5}, "min_confidence is given without fallback"),
        ({"min_confidence": 1.5}, "min_confidence is 1.5, expected a number from 0 to 1"),
        ({"fallback": "tagger", "min_confidence": 0.5}, "the fallback labels tokens and the model sequences"),
        ({"copies": 5}, "copies is 5, expected an integer from 1 to num_instances = 4"),
        ({"rows_per_shard": 0}, "rows_per_shard is 0, expected an integer of at least 1"),
        ({"num_workers": -1}, "num_workers is -1, expected an integer of at least 0"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of 'float32'"),
        ({"colum": "text"}, "predict has no option colum, expected one of column, "),
        ({"is_split_into_words": True}, "is_split_into_words is for models that label tokens"),
    ],
)
def test_options_out_of_range(label, models, texts, options, message):
    if "fallback" in options:
        options = options | {"fallback": models[options["fallback"]]}
    with pytest.raises(ValueError, match=message):
        label(models["tmux"], texts, **options)


def test_what_is_no_classifier(label, models, config, tokenizer, folders, texts, tmp_path):
    with pytest.raises(ValueError, match="model is a BertModel, expected a class that ends in ForSequence"):
        label(models["plain"].bert, texts)
    with pytest.raises(ValueError, match="tokenizer is None"):
        fastmux.predict(models["plain"], texts)
    encoder = tmp_path / "encoder"
    models["plain"].bert.save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    with pytest.raises(ValueError, match="is a BertModel, which gives no labels"):
        label(encoder, texts)
    other = copy.deepcopy(models["plain"])
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match=r"the fallback has the labels \['a', 'b', 'c'\], expected the model's"):
        label(models["tmux"], texts, fallback=other, min_confidence=0.5)


def damaged(folder, target, name, content=None):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    if content is None:
        (target / name).unlink()
    else:
        whole = (target / name).read_bytes()
        (target / name).write_bytes(content(whole))
    return target


@pytest.mark.parametrize("kind", ["plain", "tmux"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json"),
        ("config.json", lambda whole: whole[:20], "is not a valid JSON file"),
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", lambda whole: whole[:1000], "cannot be loaded"),
        ("model.safetensors", lambda whole: b"", "cannot be loaded"),
        ("tokenizer.json", lambda whole: whole[:50], "tokenizer .* cannot be loaded"),
        ("tokenizer.json", None, "tokenizer"),
    ],
)
def test_a_damaged_folder_is_one_message(label, folders, texts, tmp_path, kind, name, content, message):
    folder = damaged(folders[kind], tmp_path / "model", name, content)
    with pytest.raises(ValueError, match=message) as caught:
        label(folder, texts, tmp_path / "out.jsonl")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_lacks_the_head(label, models, folders, texts, tmp_path):
    folder = damaged(folders["plain"], tmp_path / "model", "model.safetensors")
    models["plain"].bert.save_pretrained(tmp_path / "bert")
    (folder / "model.safetensors").write_bytes((tmp_path / "bert/model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"lacks .* tensors, e\.g\. .*classifier\.bias"):
        label(folder, texts)
