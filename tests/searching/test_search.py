"""A whole search on a tiny model: what it writes, what it refuses, what an interruption leaves."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest
import torch
from thoroughness import on_request
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    pipeline,
)

import fastmux
from fastmux import files
from fastmux.cli.main import main
from fastmux.searching import checks
from fastmux.searching.racer import Race
from fastmux.searching.search import search

QUICK = {"max_steps": 4}


def test_the_chosen_folder_predicts(original, tokenizer, texts, tmp_path, in_torch_alone, known_speeds):
    before = {name: t.clone() for name, t in original.state_dict().items()}
    labels = [torch.randint(3, (1,)).item() for _ in texts]
    found = search(original, texts, tmp_path / "out", labels=labels, tokenizer=tokenizer, speedup=1.5, **QUICK)
    assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items()), "the original was changed"
    assert not (tmp_path / "out" / ".search").exists()
    assert found.finished and found.sentence in (card := (tmp_path / "out" / "README.md").read_text())
    assert "![agreement over speed](search.png)" in card and (tmp_path / "out" / "search.png").stat().st_size > 1000
    written = json.loads((tmp_path / "out" / "search.json").read_text())
    assert written["chosen"]["name"] == found.chosen.name and written["rows"] == found.rows
    assert found.points[0].name == "original" and found.points[0].agreement.mean == 1.0
    assert found.points[0].score == pytest.approx(1 / 3, abs=0.2)
    assert {p.model for p in found.points} > {"original"} and any(p.cascade for p in found.points)
    assert len(found.table) <= 9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    batch = tokenizer(texts[:6], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (6, 3)
    assert pipeline("text-classification", str(tmp_path / "out"))(texts[0])[0].keys() == {"label", "score"}
    predicted = fastmux.predict(tmp_path / "out", texts[:6], num_workers=0, disable_tqdm=True).dataset
    assert predicted["label"] == [model.config.id2label[k] for k in model(**batch).logits.argmax(-1).tolist()]


def test_what_is_reported_is_what_the_folder_says_on_those_rows(
    original, tokenizer, texts, tmp_path, in_torch_alone, known_speeds
):
    """Agreement, computed again from the folder and the texts that the search kept apart."""
    from fastmux.labelling.classifier import Classifier
    from fastmux.searching.rows import SearchRows

    found = search(original, texts, tmp_path / "out", tokenizer=tokenizer, speedup=1.5, seed=3, **QUICK)
    rows = SearchRows.of(texts, None, Classifier(original, tokenizer, False), 128, 3)
    kept = [texts[row] for row in rows.reporting]
    alone = next(p for p in found.points if p.form == found.chosen.form and not p.cascade)
    said, wanted = (
        [one["label"] for one in fastmux.Labeller(model, tokenizer)(kept)] for model in (tmp_path / "out", original)
    )
    same = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(kept)
    assert alone.agreement.mean == pytest.approx(same, abs=1e-9)


def test_rows_of_doubt_go_to_the_original_without_a_number(
    saved, tokenizer, texts, tmp_path, in_torch_alone, known_speeds
):
    found = search(saved, texts, tmp_path / "out", speedup=1.5, **QUICK)
    assert found.chosen.cascade and "with your model behind it" in found.sentence
    assert f"`fastmux predict {tmp_path}/out ROWS --output LABELS --fallback {saved}`" in found.sentence
    given = {"fallback": saved, "num_workers": 0, "disable_tqdm": True}
    said = fastmux.predict(tmp_path / "out", texts, **given).dataset["label"]
    wanted = fastmux.predict(saved, texts, num_workers=0, disable_tqdm=True).dataset["label"]
    same = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(texts)
    low, high = found.chosen.agreement.interval()
    assert low - 0.05 < same < high + 0.05


def test_models_that_label_words(tagger, tokenizer, texts, tmp_path, in_torch_alone, known_speeds):
    found = search(tagger, texts, tmp_path / "out", tokenizer=tokenizer, speedup=1.5, **QUICK)
    assert found.floor is None and not any(p.cascade for p in found.points)
    assert found.chosen.agreement.count > 3 * found.rows["reporting"]  # the words of all rows
    assert "of the words the same label" in found.sentence
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "out").config.num_labels == 3
    with pytest.raises(ValueError, match="labels is given, but the model labels words"):
        search(tagger, texts, tmp_path / "other", tokenizer=tokenizer, labels=[0] * len(texts), **QUICK)


@on_request
def test_rows_with_several_labels(config, tokenizer, texts, tmp_path, in_torch_alone, known_speeds):
    torch.manual_seed(0)
    several = BertForSequenceClassification(
        BertConfig(**config.to_dict() | {"problem_type": "multi_label_classification"})
    ).eval()
    labels = [[k % 2, k % 3 == 0, 1] for k in range(len(texts))]
    found = search(several, texts, tmp_path / "out", tokenizer=tokenizer, labels=labels, speedup=1.5, **QUICK)
    assert 0 < found.points[0].score < 1 and found.floor.agreement.count == found.rows["reporting"]


def test_what_can_run_in_8_bits_is_measured_and_run_so(tokenizer, texts, tmp_path):
    """And `AutoModel` loads the same folder."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    wide = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, num_labels=3, **sizes)
    )
    found = search(wide, texts, tmp_path / "out", tokenizer=tokenizer, agreement=0.6, **QUICK)
    exported = [p for p in found.points if p.runtime == "ONNX Runtime"]
    if not exported:
        pytest.skip(f"this processor has no 8 bits: {found.left_out}")
    assert exported[0].name == "original, 8 bits" and exported[0].agreement.mean > 0.6
    if found.chosen.runtime == "ONNX Runtime":
        assert found.sentence.startswith("Your model itself, in 8 bits, is the answer")
        assert (tmp_path / "out" / "model.onnx").is_file()
    assert fastmux.Labeller(tmp_path / "out")(texts[:1])[0]["label"] in wide.config.id2label.values()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 3


@pytest.mark.parametrize(
    ("asked", "runtimes"),
    [({"runtime": "torch"}, {"PyTorch"}), ({"precision": "float32"}, {"PyTorch", "ONNX Runtime"})],
    ids=["torch", "float32"],
)
def test_what_was_not_asked_for_is_not_measured(asked, runtimes, tokenizer, texts, tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    wide = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, num_labels=3, **sizes)
    )
    found = search(wide, texts, tmp_path / "out", tokenizer=tokenizer, agreement=0.6, **asked, **QUICK)
    assert {p.runtime for p in found.points} == runtimes and {p.precision for p in found.points} == {"float32"}
    assert found.left_out["original, int8"] == "another runtime or precision is asked for"


def test_a_runtime_that_cannot_run_here_is_refused(original, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "why_not_exported", lambda device, precision: "onnx is not installed")
    for asked in ({"runtime": "onnxruntime"}, {"precision": "int8"}):
        (name,) = asked
        with pytest.raises(ValueError, match=f"{name} is '{asked[name]}', but onnx is not installed"):
            search(original, texts, tmp_path / "out", tokenizer=tokenizer, **asked)
    assert not (tmp_path / "out").exists()


@on_request
def test_in_one_runtime_candidates_are_measured_there_alone(original, tokenizer, texts, tmp_path, known_speeds):
    pytest.importorskip("onnxscript")
    asked = {"runtime": "onnxruntime", "precision": "float32", "agreement": 0.6}
    found = search(original, texts, tmp_path / "out", tokenizer=tokenizer, **asked, **QUICK)
    assert {p.runtime for p in found.points if p.model != "original"} == {"ONNX Runtime"}


def test_an_interruption_leaves_the_best_so_far_whole_and_the_search_goes_on(
    original, tokenizer, texts, tmp_path, monkeypatch, in_torch_alone, known_speeds
):
    train, begun = Race._train, []

    def interrupted(self, standing, steps, bar):
        begun.append(standing.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        train(self, standing, steps, bar)

    monkeypatch.setattr(Race, "_train", interrupted)
    given = {"tokenizer": tokenizer, "speedup": 1.5, **QUICK}
    found = search(original, texts, tmp_path / "out", **given)
    assert not found.finished and "The search was interrupted" in found.sentence
    assert {p.model for p in found.points} <= {"original", *begun[:2]}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 3
    assert len(fastmux.Labeller(tmp_path / "out")(texts[:3])) == 3
    monkeypatch.setattr(Race, "_train", train)
    again = search(original, texts, tmp_path / "out", **given)
    assert again.finished and "interrupted" not in again.sentence and set(again.history) > set(begun[:2])
    assert not (tmp_path / "out" / ".search").exists()


def test_a_full_disk_stops_it_and_loses_nothing(
    original, tokenizer, texts, tmp_path, monkeypatch, in_torch_alone, known_speeds
):
    given = {"tokenizer": tokenizer, "speedup": 1.5, **QUICK}
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as disk:
        disk.setattr(files.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        with pytest.raises(OSError, match=r"the search keeps up to .* GiB there while it runs, and 0\.0 GiB are free"):
            search(original, texts, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    train = Race._train
    begun = []

    def full(self, standing, steps, bar):
        begun.append(standing.name)
        if len(begun) == 2:
            raise OSError(28, "No space left on device")
        train(self, standing, steps, bar)

    monkeypatch.setattr(Race, "_train", full)
    with pytest.raises(OSError, match="No space left"):
        search(original, texts, tmp_path / "out", **given)
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(ValueError, match=r"holds an unfinished search with other settings: seed was 0, is 1"):
        search(original, texts, tmp_path / "out", **given, seed=1)
    found = search(original, texts, tmp_path / "out", **given)
    assert found.finished and len(begun) == 2 + 4, "of three in the first round, one had been trained"


def test_bad_input_is_one_sentence_and_nothing_is_written(
    original, config, tokenizer, texts, tmp_path, in_torch_alone, known_speeds
):
    out = tmp_path / "out"
    number = BertForSequenceClassification(BertConfig(**config.to_dict() | {"num_labels": 1}))
    one_label = BertForSequenceClassification(config)
    with torch.no_grad():
        one_label.classifier.bias[1] = 1000.0
    joined = fastmux.JoinedForSequenceClassification.from_backbone(original, 2)
    cases = [
        ({"speedup": 4.0, "agreement": 0.98}, "speedup is 4, agreement is 0.98, expected one of them"),
        ({"speedup": 1.0}, "speedup is 1.0, expected a number above 1"),
        ({"agreement": 1.2}, r"agreement is 1\.2, expected a number from 0\.5 to 1"),
        ({"runtime": "ctranslate2"}, "runtime is 'ctranslate2', expected one of 'torch', 'onnxruntime'"),
        ({"runtime": "torch", "precision": "int8"}, "precision is 'int8', which torch does not run"),
        ({"minutes": 0.0}, r"minutes is 0\.0, expected a number above 0"),
        ({"model": BertModel(config)}, "model is a BertModel, expected a class that ends in"),
        ({"model": number}, "model is a regression"),
        ({"model": joined}, "model is multiplexed already"),
        ({"texts": texts[:10]}, "texts has 10 rows which leaves 2 to report on"),
        ({"labels": [0, 1]}, "labels has 2 values, expected one for each of the 600 texts"),
        ({"labels": ["LABEL_9"] * 600}, "labels: row 1 has 'LABEL_9', expected one of 'LABEL_0'"),
    ]
    for changed, message in cases:
        given = {"model": original, "texts": texts, "tokenizer": tokenizer, **changed}
        with pytest.raises(ValueError, match=message):
            search(given.pop("model"), given.pop("texts"), out, **given)
        assert not out.exists(), message
    with pytest.raises(ValueError, match="gives all 120 rows that are kept apart one label, 'LABEL_1': agreement with"):
        search(one_label, texts, out, tokenizer=tokenizer)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"minutes is 1e-06, too few for one candidate: .* give at least \d"):
        search(original, texts, out, tokenizer=tokenizer, minutes=1e-6)
    assert not out.exists(), "a search with more minutes would be refused"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        search(original, texts, out, tokenizer=tokenizer)
    assert [file.name for file in out.iterdir()] == ["thesis.tex"]


def test_the_command_prints_a_table_and_a_sentence(saved, texts, tmp_path, capsys, in_torch_alone, known_speeds):
    (tmp_path / "rows.csv").write_text("\n".join(["body,truth", *(f"{text},{k % 3}" for k, text in enumerate(texts))]))
    options = ["--column", "body", "--label_column", "truth", "--speedup", "1.5", "--max_steps", "4"]
    out = str(tmp_path / "out")
    main(["search", str(saved), "--text", str(tmp_path / "rows.csv"), "--output_dir", out, *options])
    said = capsys.readouterr().out
    assert "on 120 rows that nothing was trained or chosen on:" in said
    lines = [line for line in said.splitlines() if line.startswith(("\u2192 ", "* "))]
    assert lines and f"written: {out}" in said
    assert json.loads((tmp_path / "out" / "search.json").read_text())["sentence"] in said
    with pytest.raises(SystemExit) as error:
        main(["search", str(saved), "--text", str(tmp_path / "rows.csv"), "--output_dir", out, *options])
    assert "fastmux search: --output_dir" in str(error.value) and "is not empty" in str(error.value)


def test_needs_that_exclude_one_another_are_wrong_arguments(tmp_path, capsys):
    given = ["search", "my-model", "--text", "none.txt", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--speedup", "4", "--agreement", "0.98"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert said.startswith("fastmux search: --speedup is 4, --agreement is 0.98, expected one of them")
