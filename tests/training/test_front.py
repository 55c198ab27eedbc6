"""The front: a run on a tiny encoder and tiny files, and what is computed from its figures."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from known import Known
from safetensors.torch import load_file
from thoroughness import on_request
from tiny_tasks import WORDS, write_tasks
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizerFast,
    TrainingArguments,
)

from fastmux.distillation.teacher import TeacherOutputs
from fastmux.distillation.trainer import states_and_logits
from fastmux.passes.engine import Engine
from fastmux.testing import assert_agrees
from fastmux.training import front
from fastmux.training.fronts.candidates import Candidate, read_candidates
from fastmux.training.fronts.masked import learn_masked_words
from fastmux.training.fronts.measure import Contestant, Measurement, Point
from fastmux.training.fronts.verdict import margin, on_front, sentence
from fastmux.training.metrics import accuracy
from fastmux.training.run_result import Score
from fastmux.training.starts import start_head

CANDIDATES = """
copy:         {row_layers: 3, learn: copied, int8: true}
cut:          {cascade: true}
labels:       {learn: labels}
narrow:       {hidden_size: 16}
n2:           {num_instances: 2, joined_layers: [1, 2], cascade: true}
n3:           {num_instances: 3, joined_layers: [1, 2], vectors: learned, start: n2, state_weight: 0}
n4-positions: {num_instances: 4, join: positions, joined_layers: [1]}
masked:       {num_instances: 2, joined_layers: [1], masked_epochs: 1}
whole:        {num_instances: 2, demultiplexer: unbind}
whole-3:      {num_instances: 3, demultiplexer: unbind, vectors: learned, start: whole}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_tasks(tmp_path_factory.mktemp("front"))
    (folder / "candidates.yaml").write_text(CANDIDATES)
    return folder


def arguments(files, task: str, output, *more: str) -> list[str]:
    given = {"task": task, "data_dir": files, "encoder": files / "encoder", "candidates": files / "candidates.yaml"}
    given |= {"output_dir": output, "groupings": 2, "max_rate_rows": 16, "per_device_train_batch_size": 32}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.mark.parametrize("task", [pytest.param("sst2", marks=on_request), "conll2003"])
def test_a_front_has_every_candidate_and_is_measured_anew(task, files, tmp_path):
    out = tmp_path / "out"
    result = front.main(arguments(files, task, out))
    entries = {entry["name"]: entry for entry in result["entries"]}
    alone = [
        "original",
        "original, int8",
        "copy",
        "copy, int8",
        "cut",
        "labels",
        "narrow",
        "n2",
        "n3",
        "n4-positions",
        "masked",
        "whole",
        "whole-3",
    ]
    assert set(alone) <= set(entries) <= {*alone, "cut + original", "n2 + original"}
    assert entries["copy"]["score"] == entries["original"]["score"] and entries["copy"]["agreement"] == 1.0
    assert entries["original"]["speed_up"] == 1.0
    multiplexed = {name for name, entry in entries.items() if entry["multiplexed"]}
    assert multiplexed - {"n2 + original"} == {"n2", "n3", "n4-positions", "masked", "whole", "whole-3"}
    assert len(entries["n2"]["score"]["values"]) == 2
    assert entries["narrow"]["parameters"] < entries["cut"]["parameters"] < entries["original"]["parameters"]
    written = json.loads((out / "front.json").read_text())
    assert written["sentence"] == result["sentence"] and (out / "front.png").stat().st_size > 0
    weights = {path: path.stat().st_mtime_ns for path in out.glob("*/model/model.safetensors")}
    assert len(weights) == 10
    again = front.main(arguments(files, task, out))
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/model/model.safetensors")} == weights
    assert [e["score"] for e in again["entries"]] == [e["score"] for e in result["entries"]]
    with pytest.raises(ValueError, match="holds work of other settings: seed was 0, is 1"):
        front.main(arguments(files, task, out, "--seed", "1"))


@pytest.mark.parametrize(
    "given, message",
    [
        (["--encoder", "nowhere"], "--encoder 'nowhere' cannot be loaded"),
        (["--groupings", "0"], "--groupings is 0, expected an integer of at least 1"),
        (["--learning_rate", "0"], r"--learning_rate is 0\.0, expected a number above 0"),
        (
            ["--target_agreement", "0.9", "1.5"],
            r"--target_agreement is \[0\.9, 1\.5\], expected a number above 0, up to 1",
        ),
        (["--split", "test"], "--split 'test': sst2 has validation"),
        (
            ["--candidates", "none"],
            "'none' is neither one of curves, embedding, embedding_12, embedding_narrow, levers, pairs, papers, "
            "papers_12, sequence, structures, token, winners, winners_long, winners_words nor a "
            "file",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(given, message, files, tmp_path):
    with pytest.raises(ValueError, match=message):
        front.main(arguments(files, "sst2", tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


def test_a_task_without_candidates_is_not_offered(files, tmp_path, capsys):
    with pytest.raises(SystemExit):
        front.main(arguments(files, "stdlib", tmp_path / "out"))
    said = capsys.readouterr().err
    assert (
        "invalid choice: 'stdlib'" in said
        and "'qnli'" in said
        and "'research_articles'" in said
        and "'conll2003'" in said
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(files, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        front.main(arguments(files, "sst2", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: {row_layer: 1}", "there is no 'row_layer' in a candidate; the closest is 'row_layers'"),
        ("a: {joined_layers: [3]}", "a: the encoder has 4 layers"),
        ("a: {learn: nothing}", "a: learn is 'nothing', expected one of 'distilled'"),
        ("a: {masked_epochs: 1, learn: labels}", "masked_epochs is 1.0, expected 0, as learn is 'labels'"),
        ("a: {num_instances: 2, learn: labels}", "are for plain encoders"),
        ("a: {demultiplexer: unbind}", "demultiplexer is 'unbind', expected none, as num_instances is 1"),
        ("a: {num_instances: 2, demultiplexer: none}", "demultiplexer is 'none', expected one of 'index'"),
        (
            "a: {num_instances: 2, demultiplexer: key, join: rows, row_layers: 2}",
            "row_layers is for joined layers, but",
        ),
        ("a: {vectors: unit}", "vectors is 'unit', expected one of 'signs'"),
        ("a: {start: b}", "start is 'b', expected a candidate that comes before"),
        ("original: {}", "is the name of the original"),
        ("a: {folder: ./nowhere}", "a: folder './nowhere' cannot be loaded: there is no such folder"),
        ("[1, 2]", "must have lines 'key: value'"),
        ("a: 3", "a must be of type dict, got 3"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_candidate_is_refused(text, message, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_candidates(str(tmp_path / "own.yaml"), layers=4)


def test_training_in_bfloat16_is_not_training_in_float32(files, tmp_path):
    (tmp_path / "own.yaml").write_text("n2: {num_instances: 2, join: positions, joined_layers: [1]}\n")
    weights = {}
    for name, more in (("float32", []), ("bfloat16", ["--bf16"])):
        given = arguments(files, "sst2", tmp_path / name, "--candidates", str(tmp_path / "own.yaml"), *more)
        front.main(given)
        weights[name] = {
            model: load_file(tmp_path / name / model / "model" / "model.safetensors") for model in ("original", "n2")
        }
    for model, whole in weights["float32"].items():
        half = weights["bfloat16"][model]
        assert all(tensor.dtype == whole[key].dtype for key, tensor in half.items())
        apart = [(tensor - whole[key]).abs().max() for key, tensor in half.items()]
        assert 0 < max(apart) < 0.05, model


@pytest.mark.parametrize("name", ["sequence", "pairs", "papers", "token", "winners", "winners_words", "winners_long"])
def test_the_files_that_come_along_suit_six_layers(name):
    check_file(name, layers=6)


def test_the_file_that_comes_along_suits_twelve_layers():
    check_file("papers_12", layers=12)


def check_file(name, layers):
    found = read_candidates(name, layers)
    assert any(candidate.multiplexed for candidate in found) and not all(candidate.multiplexed for candidate in found)


def test_a_t_mux_says_the_states_that_its_head_reads():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=20, num_labels=3, **sizes)
    inputs = {
        "input_ids": torch.randint(1, 20, (7, 6)),
        "attention_mask": torch.arange(6) < torch.arange(1, 8)[:, None],
    }
    candidate = Candidate("a", num_instances=3, demultiplexer="index", vectors="gaussian")
    for kind, source in (("sequence", BertForSequenceClassification), ("token", BertForTokenClassification)):
        model = candidate.make(source(config), kind).eval()
        states, logits = states_and_logits(model, inputs)
        assert states.shape == ((7, 1, 32) if kind == "sequence" else (7, 6, 32))
        assert_agrees(logits, model(**inputs).logits)
        assert_agrees(model.classifier(states).flatten(0, -2), logits.flatten(0, -2))


def test_a_head_starts_as_what_the_original_says_of_its_states():
    torch.manual_seed(0)
    states, head, new = torch.randn(500, 16) + 1, torch.nn.Linear(16, 3), torch.nn.Linear(16, 3)
    said = head(states).detach().numpy()
    start_head(new, TeacherOutputs(np.arange(501), states.numpy().astype(np.float16), said, per_token=False))
    assert (new.weight - head.weight).abs().max() < 0.01 and (new.bias - head.bias).abs().max() < 0.02


def point(name: str, score: float, rate: float, multiplexed: bool = False) -> Point:
    speeds = dict.fromkeys(("rows_per_second", "speed_up", "speed_up_forward"), rate)
    return Point(name=name, multiplexed=multiplexed, score=Score.of([score]), agreement=1.0, parameters=1, **speeds)


def test_the_front_is_what_no_other_beats():
    entries = [point("original", 0.9, 1.0), point("cut", 0.8, 3.0), point("worse", 0.7, 2.0)]
    assert [on_front(e, entries) for e in entries] == [True, True, False]
    between = point("mux", 0.85, 2.0, multiplexed=True)
    won, rival = margin(between, entries)
    assert won == pytest.approx(0.05) and rival.name == "cut"
    assert sentence([*entries, between]) == (
        "Beyond the front of the plain models: mux (0.8500 at 2.00 x), 5.0 points above cut (0.8000 at 3.00 x)."
    )
    assert "faster than every plain model" in sentence([*entries, point("mux", 0.5, 9.0, multiplexed=True)])
    behind = sentence([*entries, point("mux", 0.79, 2.5, multiplexed=True)])
    assert behind == (
        "No T-MUX is beyond the front of the plain models: the nearest, mux (0.7900 at 2.50 x), is 1.0 points behind "
        "cut (0.8000 at 3.00 x), which is as fast or faster."
    )


def known_answers(rows: int = 40) -> tuple[Measurement, Contestant, Contestant, np.ndarray]:
    """An original, and a model that is unsure, and wrong, of each eighth row."""
    truth = np.tile(np.array([[3.0, 0.0], [0.0, 3.0]], np.float32), (rows // 2, 1))
    unsure = np.arange(rows) % 8 == 0
    said = np.where(unsure[:, None], truth[:, ::-1] * 0.1, truth)
    data = Dataset.from_dict({"input_ids": [[i] for i in range(rows)], "labels": truth.argmax(-1).tolist()})

    options = SimpleNamespace(groupings=1, max_rate_rows=10, target_agreement=[0.99], seed=0, clock="wall")
    measure = Measurement(data, accuracy, "accuracy", options)
    original, model = (Contestant([Engine(Known(logits), 64)], 1, cascade=logits is said) for logits in (truth, said))
    return measure, original, model, unsure


def test_a_cascade_is_judged_on_rows_that_did_not_choose_its_threshold():
    """Where the model is unsure it is wrong: sending those rows on gives the original's labels, and its score."""
    measure, original, model, unsure = known_answers()
    timed = []
    found = {p.name: p for p in measure({"original": original, "m": model}, timed.append)}
    assert found["m"].score.mean == found["m"].agreement == pytest.approx(1 - unsure.mean())
    assert found["m + original"].score.mean == found["m + original"].agreement == 1.0
    assert found["m + original"].fallback == pytest.approx(unsure.mean())
    for first, second in measure.halves:
        assert not set(first) & set(second) and len(first) + len(second) == len(unsure)
    # Speed is beside the original through the same engine, and beside a forward without it, on the same rows.
    assert found["original"].speed_up == 1.0 and found["m"].speed_up_forward > 0
    assert {len(tokens.lengths) for tokens in timed} == {10}


def test_a_model_in_8_bits_has_the_original_in_8_bits_behind_it_at_each_target():
    """That original is wrong, too, in one row of eight of which the model is sure."""
    measure, original, model, unsure = known_answers()
    measure.options.target_agreement = [0.9, 0.99]
    small = original.engines[0].run(measure.tokens).logits.copy()
    small[1::8] = small[1::8, ::-1]
    behind = Contestant([Engine(Known(small), 64)], precision="int8")
    eight = replace(model, precision="int8")
    given = {"original": original, "original, int8": behind, "m": model, "m, int8": eight}
    found = {p.name: p for p in measure(given, lambda tokens: None)}
    assert {name for name in found if "+" in name} == {
        "m + original (0.9)",
        "m + original (0.99)",
        "m, int8 + original, int8 (0.9)",
        "m, int8 + original, int8 (0.99)",
    }
    assert found["m, int8 + original, int8 (0.99)"].precision == "int8"
    assert found["m, int8 + original, int8 (0.99)"].score.mean == 1.0
    apart = measure.less("m", "original")
    assert apart.mean == pytest.approx(-unsure.mean()) and apart.low < apart.mean < apart.high <= 0


def test_masked_words_teach_the_encoder_and_nothing_else(files, tmp_path):
    config = BertConfig.from_pretrained(files / "encoder")
    student = Candidate("a", num_instances=2, joined_layers=(1,)).make(
        BertForSequenceClassification(config), "sequence"
    )
    before = copy.deepcopy(student)
    tokenizer = BertTokenizerFast.from_pretrained(files / "encoder")
    rows = Dataset.from_dict({"input_ids": [tokenizer(" ".join(WORDS[i : i + 5]))["input_ids"] for i in range(24)]})
    learn_masked_words(student, tokenizer, rows, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    layers = {name for name, _ in student.named_parameters() if ".encoder." in name}
    assert layers <= changed and not any("classifier" in name for name in changed)
    assert torch.equal(student.model.base_model.encoder.signs, before.model.base_model.encoder.signs)
    assert student(input_ids=torch.ones(4, 6, dtype=torch.long)).logits.shape == (4, 2)
    assert student.model.base_model.encoder.first_only


def test_a_candidate_is_made_of_the_layers_that_it_names():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    source = BertForSequenceClassification(BertConfig(vocab_size=20, **sizes))
    made = Candidate("a", joined_layers=(2,)).make(source, "sequence")
    kept = [layer.output.dense.weight for layer in made.model.bert.encoder.layer]
    expected = [source.bert.encoder.layer[i].output.dense.weight for i in (0, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    assert np.isclose(Candidate("b", hidden_size=16).make(source, "sequence").config.hidden_size, 16)
