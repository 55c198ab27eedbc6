"""`training/train.py` from end to end, at the smallest size that goes through every stage.

Longer than other files: the runs that its tests look at are trained once, here.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastmux
from fastmux.distillation.distil import last_checkpoint
from fastmux.files import replacing, write_json
from fastmux.training.arguments import make_parser, parse
from fastmux.training.copies import main as measure_copies
from fastmux.training.models import ModelFactory
from fastmux.training.recipe import RECIPES, Recipe, read_recipe
from fastmux.training.tasks import TASKS
from fastmux.training.tasks.stdlib import stdlib_root
from fastmux.training.tokenization import train_tokenizer
from fastmux.training.train import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--hidden_size",
    "32",
    "--num_heads",
    "2",
    "--num_layers",
    "1",
    "--intermediate_size",
    "64",
    "--max_length",
    "16",
    "--vocab_size",
    "400",
    "--task_rows",
    "16",
    "--retrieval_rows",
    "16",
    "--groupings",
    "2",
    "--throughput_seconds",
    "0.2",
    "--use_cpu",
    "--disable_tqdm",
    "true",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """SST-2's layout, filled with real text: is a line of source argparse's or tarfile's?"""
    folder = tmp_path_factory.mktemp("sst2")
    rows = []
    for label, module in enumerate((argparse, tarfile)):
        lines = (" ".join(line.split()) for line in inspect.getsource(module).splitlines())
        rows += [f"{line}\t{label}" for line in dict.fromkeys(lines) if len(line) > 20]
    rows = rows[::3]  # what every run reads
    validation = rows[::8]
    train = [row for index, row in enumerate(rows) if index % 8]
    for name, split in (("train.tsv", train), ("dev.tsv", validation)):
        (folder / name).write_text("\n".join(["sentence\tlabel", *split]) + "\n", encoding="utf-8")
    return folder


def command(data_dir: Path, folder: Path, *arguments: str) -> list[str]:
    return ["--task", "sst2", "--data-dir", str(data_dir), "--output_dir", str(folder), *SMALL, *arguments]


def start(arguments: list[str], *prefix: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*(prefix or (sys.executable,)), str(ROOT / "training" / "train.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(arguments: list[str], *prefix: str) -> str:
    process = start(arguments, *prefix)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output


def leftovers(folder: Path) -> list[Path]:
    """Files that should not be left when a run is over."""
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.startswith("checkpoint-")]


def score(model: torch.nn.Module, tokenizer, data_dir: Path) -> float:
    """Accuracy on the validation rows by the plainest loop, for models without multiplexing."""
    split = TASKS["sst2"]().load(str(data_dir)).evaluation["validation"]
    inputs = tokenizer(split["text"][:], padding=True, truncation=True, max_length=16, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        right = model(**inputs).logits.argmax(-1) == torch.tensor(split["label"][:])
    return right.double().mean().item()


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run of all variants, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("finished") / "run", io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(command(data_dir, folder, "--max_steps", "4"))
    return folder, printed.getvalue()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Only `finished` draws: it takes a third of so short a run."""
    monkeypatch.setattr("fastmux.training.report.plot", lambda *_: None)


def test_end_to_end(data_dir, finished):
    folder, output = finished
    report = json.loads((folder / "metrics.json").read_text())
    assert list(report["variants"]) == ["plain", "index", "unbind"]
    for name, result in report["variants"].items():
        assert result["stages"]["task"]["steps"] == 4
        assert ("retrieval" in result["stages"]) == (name != "plain") == (result["retrieval_accuracy"] is not None)
        assert len(result["scores"]["validation"]["accuracy"]["values"]) == (1 if name == "plain" else 2)
        assert result["throughput"]["instances_per_second"] > 0
        printed = next(line for line in output.splitlines() if line.startswith((f"{name} ", f"`{name}` ")))
        assert printed.split()[-1] == f"{result['limit']:.2f}"
        log = result["stages"]["task"]["log"]
        assert [entry["step"] for entry in log if "eval_accuracy" in entry] == [1, 2, 3, 4]
    assert report["variants"]["plain"]["limit"] == report["variants"]["plain"]["ratio_to_plain"] == 1
    assert report["variants"]["index"]["limit"] == pytest.approx(2 * 16 / (16 + 3))
    assert report["variants"]["unbind"]["limit"] == 2
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert not leftovers(folder)
    assert list(folder.glob("plain/task/runs/*/events.out.tfevents*"))

    tokenizer = AutoTokenizer.from_pretrained(folder / "plain/task/model")
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "plain/task/model")
    assert plain.config.id2label == {0: "negative", 1: "positive"}
    accuracies = {name: result["scores"]["validation"]["accuracy"] for name, result in report["variants"].items()}
    assert score(plain, tokenizer, data_dir) == pytest.approx(accuracies["plain"]["mean"])
    for name in ("index", "unbind"):
        model = fastmux.TMuxForSequenceClassification.from_pretrained(folder / name / "task/model")
        assert (model.config.num_instances, model.config.demultiplexer) == (2, name)
        assert AutoTokenizer.from_pretrained(folder / name / "task/model").get_vocab() == tokenizer.get_vocab()
        # Another grouping, so another accuracy, but not far from those reported: the head is the trained one.
        assert abs(score(model, tokenizer, data_dir) - accuracies[name]["mean"]) < 0.15

    # The run is over: resuming trains nothing and reports the same.
    again = asdict(main(command(data_dir, folder, "--max_steps", "4", "--resume")))
    for name, result in report["variants"].items():
        assert again["variants"][name]["stages"] == result["stages"]
        assert again["variants"][name]["scores"] == result["scores"]


def test_an_interrupted_run_goes_on_from_its_checkpoint(data_dir, tmp_path):
    arguments = [
        "--variants",
        "unbind",
        "--max_steps",
        "64",
        "--retrieval_steps",
        "0",
        "--unbind_retrieval_steps",
        "0",
    ]
    folder = tmp_path / "killed"
    process = start(command(data_dir, folder, *arguments))
    deadline = time.monotonic() + 120
    while last_checkpoint(folder / "unbind/task") is None and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert last_checkpoint(folder / "unbind/task") is not None and not (folder / "metrics.json").exists()
    # A checkpoint that was being written when the process died is not whole, and is not used.
    (folder / "unbind/task/checkpoint-999").mkdir()
    (folder / "unbind/task/checkpoint-999/trainer_state.json").write_text('{"global_step": 9')

    resumed = main(command(data_dir, folder, *arguments, "--resume"))
    straight = main(command(data_dir, tmp_path / "straight", *arguments))
    first, second = (report.variants["unbind"].stages["task"] for report in (resumed, straight))
    assert first.steps == second.steps == 64
    assert 0 < first.resumed_from < 64 and second.resumed_from == 0
    assert not leftovers(folder)
    losses = [[(entry["step"], entry["loss"]) for entry in stage.log if "loss" in entry] for stage in (first, second)]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], abs=2e-3)
    assert losses[1][-1][1] < losses[1][0][1], "it must have learnt something for equality to say something"


def test_two_processes_under_torchrun(data_dir, tmp_path):
    folder = tmp_path / "run"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    output = run(command(data_dir, folder, "--max_steps", "3", "--variants", "plain", "index"), *torchrun)
    report = json.loads((folder / "metrics.json").read_text())
    assert [result["stages"]["task"]["steps"] for result in report["variants"].values()] == [3, 3]
    assert output.count("== throughput") == output.count("== index: task") == 1
    # Every process deals with its share of the rows; the sum has all of them.
    tokenizer = AutoTokenizer.from_pretrained(folder / "plain/task/model")
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "plain/task/model")
    expected = report["variants"]["plain"]["scores"]["validation"]["accuracy"]["mean"]
    assert score(plain, tokenizer, data_dir) == pytest.approx(expected)
    assert not leftovers(folder)


@pytest.mark.parametrize("variant", ["plain", "unbind"])
def test_accumulated_gradients_are_those_of_one_batch(data_dir, tmp_path, variant):
    arguments = ["--variants", variant, "--max_steps", "1", "--dropout", "0", "--mux_dropout", "0"]
    arguments += ["--retrieval_loss_weight", "0", "--unbind_retrieval_steps", "0"]
    norms = []
    for rows, steps in ((16, 1), (8, 2)):
        more = ["--task_rows", str(rows), "--gradient_accumulation_steps", str(steps)]
        report = main(command(data_dir, tmp_path / str(rows), *arguments, *more))
        norms.append(report.variants[variant].stages["task"].log[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0


def test_token_task_goes_through_every_stage(tmp_path):
    text = "\n\n".join(
        "\n".join(f"{word} {'B-ORG' if word.isupper() else 'O'}" for word in line.split())
        for line in (" ".join(line.split()) for line in inspect.getsource(textwrap).splitlines())
        if len(line) > 30
    )
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = [
        "--task",
        "conll2003",
        "--data-dir",
        str(tmp_path),
        *SMALL,
        "--max_steps",
        "2",
        "--variants",
        "index",
    ]
    report = main([*arguments, "--output_dir", str(tmp_path / "run")])
    scores = report.variants["index"].scores
    assert list(scores) == ["validation", "test"] and {"f1", "precision", "recall", "accuracy"} <= set(scores["test"])
    assert report.variants["index"].ratio_to_plain is None


def test_stdlib_task_starts(tmp_path):
    """On a dozen of the library's modules, in place of its largest packages, which test_data reads."""
    packages = {
        "files": ("mailbox", "subprocess", "tarfile"),
        "text": ("difflib", "locale", "turtle"),
        "tools": ("argparse", "doctest", "pydoc"),
        "types": ("enum", "inspect", "typing"),
    }
    for package, modules in packages.items():
        (tmp_path / "library" / package).mkdir(parents=True)
        for module in modules:
            shutil.copy(stdlib_root() / f"{module}.py", tmp_path / "library" / package)
    arguments = ["--task", "stdlib", "--data-dir", str(tmp_path / "library"), "--variants", "unbind"]
    report = main(["--output_dir", str(tmp_path / "run"), *SMALL, *arguments, "--max_steps", "2"])
    assert report.task == "stdlib" and report.data["labels"] == list(packages)
    assert 0 <= report.variants["unbind"].scores["validation"]["accuracy"].mean <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--variants", "plain", "indx"],
            r"--variants must be different names out of plain, .*unbind.*, got",
        ),
        (["--variants", "plain", "plain"], "--variants must be different names"),
        (["--task_rows", "10"], "task_rows must be a multiple of num_instances=4, got 10"),
        (["--num_instances", "0"], "num_instances is 0, expected an integer of at least 1"),
        (["--hidden_size", "50"], "hidden_size=50 must be a multiple of num_heads=4"),
        (["--groupings", "0"], "--groupings is 0, expected an integer of at least 1"),
        (["--retrieval_loss_weight", "1"], r"retrieval_loss_weight is 1\.0, expected a number from 0 to below 1"),
        (
            ["--label_smoothing_factor", "0.1"],
            "--label_smoothing_factor is not supported here: it would replace",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(arguments)


def test_a_run_without_warm_up_still_measures_retrieval(data_dir, tmp_path):
    steps = ("--variants", "unbind", "--unbind_retrieval_steps", "0", "--mux_task_epochs", "0.1")
    found = main(command(data_dir, tmp_path / "run", *steps)).variants["unbind"]
    assert list(found.stages) == ["task"] and found.retrieval_accuracy_after_warm_up is None
    assert 0 <= found.retrieval_accuracy.mean <= 1


def test_recipes_of_ablations_change_what_they_say():
    base = read_recipe("ablations/base")
    changes = {}
    for path in (RECIPES / "ablations").glob("*.yaml"):
        own = asdict(read_recipe(f"ablations/{path.stem}"))
        changes[path.stem] = {key: value for key, value in own.items() if value != getattr(base, key)}
    assert changes.pop("base") == {} and all(changes.values())
    assert changes["identity"] == {"multiplexer": "identity"}
    assert changes["no_warm_up"] == {"retrieval_steps": 0, "unbind_retrieval_steps": 0}


def test_a_recipe_with_a_base(tmp_path):
    (tmp_path / "my.yaml").write_text("base: sst2\nnum_layers: 3\n")
    mine = read_recipe(str(tmp_path / "my.yaml"))
    assert mine == replace(read_recipe("sst2"), num_layers=3)
    (tmp_path / "my.yaml").write_text("base: ablations/one_layer\n")
    with pytest.raises(ValueError, match="has a base of its own, 'ablations/base': name that one"):
        read_recipe(str(tmp_path / "my.yaml"))
    (tmp_path / "my.yaml").write_text("base: sst\n")
    with pytest.raises(ValueError, match=r"recipe 'sst' is neither one of .*sst2"):
        read_recipe(str(tmp_path / "my.yaml"))


def test_every_task_has_a_recipe():
    for task in TASKS.values():
        assert read_recipe(task.recipe).num_instances >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_instances: 4", "num_instance: 4"), "no 'num_instance' in a recipe; the closest is 'num_instances'"),
        (("num_layers: 2", "layers: 2"), "no 'layers' in a recipe; the closest is 'num_layers'"),
        (("max_length: 64\n", ""), "no value for max_length"),
        (("max_length: 64", "max_length: long"), "max_length must be of type int, got 'long'"),
        (("num_layers: 2", "num_layers: 2.5"), "num_layers must be of type int, got 2.5"),
        (("dropout: 0.1", "dropout: none"), "dropout must be of type float, got 'none'"),
        (("multiplexer: hadamard", "multiplexer: average"), "multiplexer is 'average', expected one of 'hadamard'"),
        (("task_rows: 32", "task_rows: 33"), "my.yaml: task_rows must be a multiple of num_instances=4, got 33"),
        (("# The models", "just a sentence"), "my.yaml is not YAML"),
    ],
)
def test_a_recipe_of_ones_own(tmp_path, change, message):
    text = (RECIPES / "stdlib.yaml").read_text()
    assert change[0] in text
    (tmp_path / "my.yaml").write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        parse(["--recipe", str(tmp_path / "my.yaml")])
    (tmp_path / "my.yaml").write_text(text.replace("num_layers: 2", "num_layers: 3").replace("0.002", "2e-3"))
    recipe = parse(["--recipe", str(tmp_path / "my.yaml"), "--dropout", "0.3"]).recipe
    assert recipe == read_recipe("stdlib").override(Recipe(num_layers=3, dropout=0.3))
    with pytest.raises(ValueError, match=r"'stlib' is neither one of .*\bstdlib\b.* nor a file"):
        parse(["--recipe", "stlib"])


def test_a_pretrained_encoder_does_not_get_the_rates_of_one_from_scratch(tmp_path):
    scratch = parse(["--task", "sst2"]).recipe
    settings = parse(["--task", "sst2", "--encoder", "anything", "--mux_dropout", "0"])
    changed = {"dropout": 0.1, "plain_learning_rate": 1e-4, "mux_learning_rate": 3e-4, "mux_dropout": 0.0}
    assert settings.recipe == scratch.override(Recipe(**changed))
    # Who names a recipe gets it as it is.
    assert parse(["--task", "sst2", "--recipe", "sst2", "--encoder", "anything"]).recipe == scratch


def test_only_given_trainer_arguments_count():
    settings = parse(["--learning-rate", "5e-5", "--bf16", "--num_layers", "7"])
    # 5e-5 is the Trainer's own default: given all the same.
    assert settings.trainer == {"learning_rate": 5e-5, "bf16": True}
    assert settings.recipe.num_layers == 7 and settings.recipe.hidden_size == read_recipe("statements").hidden_size
    assert "--task" in make_parser().format_help().split("Hugging Face Trainer")[0]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the accelerator would train")
def test_without_an_accelerator_bfloat16_trains_on_the_processor(data_dir, tmp_path):
    arguments = [word for word in command(data_dir, tmp_path / "run", "--variants", "plain") if word != "--use_cpu"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*arguments, "--max_steps", "2", "--bf16"])
    assert "plain" in printed.getvalue()
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["trainer"]["bf16"] is True and "use_cpu" not in settings["trainer"]


def test_a_folder_in_use_or_of_other_settings_is_refused(data_dir, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty; give --resume"):
        main(command(data_dir, tmp_path))
    with pytest.raises(ValueError, match=r"train\.tsv, dev\.tsv missing"):
        main(command(tmp_path, tmp_path / "new"))
    assert not (tmp_path / "new").exists(), "bad input is found before anything is written"
    with pytest.raises(ValueError, match=r"holds no run \(no settings.json\)"):
        main(command(data_dir, tmp_path, "--resume"))
    write_json(tmp_path / "settings.json", parse(command(data_dir, tmp_path)).identity())
    with pytest.raises(ValueError, match="holds work of other settings: multiplexer was 'hadamard', is 'orthogonal'"):
        main(command(data_dir, tmp_path, "--resume", "--multiplexer", "orthogonal"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]
    write_json(path, {"loss": [float("nan"), 2.5]})
    assert json.loads(path.read_text()) == {"loss": [None, 2.5]}
    folder = tmp_path / "model"
    for text in ("one", "two"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
            assert not folder.exists() or (folder / "weights").read_text() == "one"
    assert (folder / "weights").read_text() == "two" and sorted(tmp_path.iterdir()) == [path, folder]


def test_new_attention_averages(data_dir):
    recipe = read_recipe("stdlib").override(Recipe(hidden_size=64, num_heads=4))
    tokenizer = train_tokenizer(["some text"], vocab_size=300, max_length=16)
    factory = ModelFactory(recipe, tokenizer, "sequence", ["a", "b"], encoder=None, start=None)
    x = torch.randn(2, 9, 64)
    for model in (factory.plain(), factory.retrieval("index").tmux, factory.task("unbind", None).tmux):
        encoder = (getattr(model, "bert", None) or model.backbone).eval()
        attention = encoder.encoder.layer[0].attention
        gathered = attention.output.dense(attention.self(x)[0])
        average = x.mean(1, keepdim=True).expand_as(x)
        assert torch.cosine_similarity(gathered, average, dim=-1).min() > 0.9


def test_copies_of_a_finished_run(data_dir, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(folder / "index")
    records = measure_copies([str(folder), "--data-dir", str(data_dir), "--variants", "unbind", "--groupings", "2"])
    assert [(r["variant"], r["copies"], r["rows_per_group"]) for r in records] == [
        ("plain", 1, 1),
        ("unbind", 1, 2),
        ("unbind", 2, 1),
    ]
    report = json.loads((folder / "metrics.json").read_text())
    plain = report["variants"]["plain"]["scores"]["validation"]["accuracy"]["mean"]
    assert records[0]["accuracy"] == pytest.approx(plain) and records[2]["accuracy_std"] == 0.0
    assert json.loads((folder / "copies.json").read_text())["records"] == records
    assert (folder / "copies.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"holds no index/task/model"):
        measure_copies([str(folder), "--data-dir", str(data_dir)])


def test_multiplexed_models_start_from_the_trained_plain_encoder(data_dir, tmp_path):
    still = ["--mux_learning_rate", "1e-12", "--retrieval_learning_rate", "1e-12", "--plain_learning_rate", "0.01"]
    folder = tmp_path / "run"
    main(command(data_dir, folder, "--max_steps", "3", "--variants", "unbind", "plain", *still))
    encoders = [
        AutoModelForSequenceClassification.from_pretrained(folder / "plain" / "task" / "model").base_model,
        fastmux.TMuxForRetrieval.from_pretrained(folder / "unbind" / "retrieval" / "model").tmux.backbone,
        fastmux.TMuxForSequenceClassification.from_pretrained(folder / "unbind" / "task" / "model").tmux.backbone,
    ]
    # Three steps at 0.01 took the plain encoder far from where a new one starts.
    first, *others = (encoder.get_input_embeddings().weight for encoder in encoders)
    assert all(torch.allclose(first, other, atol=1e-6) for other in others)
    assert list(json.loads((folder / "metrics.json").read_text())["variants"]) == ["unbind", "plain"]
    new = ModelFactory(
        parse(["--task", "sst2", *SMALL]).recipe,
        AutoTokenizer.from_pretrained(folder / "plain" / "task" / "model"),
        "sequence",
        ["no", "yes"],
        encoder=None,
        start=None,
    ).retrieval("unbind")
    assert not torch.allclose(first, new.get_input_embeddings().weight, atol=1e-2)
