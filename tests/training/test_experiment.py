"""The program for experiments that are not text, on a small copy of MNIST's files."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fastmux.training import experiment
from fastmux.training.experiments import EXPERIMENTS, Experiment, Metric
from fastmux.training.experiments.mnist import read_mnist
from fastmux.training.experiments.pruning import Pruning
from fastmux.training.run_result import Score
from fastmux.training.tables import recipe as recipes
from fastmux.training.tables.cell import CellResult
from fastmux.training.tables.table import compare, table_rows

RECIPE = """
experiment: mnist
groupings: 2
defaults: {hidden_size: 8, channels: 4, max_steps: 4, per_device_train_batch_size: 12, demultiplexer: mlp}
published: {rotation: {2: 0.9285}}
variants:
  plain: {network: cnn}
  rotation: {num_instances: [2, 3], multiplexer: rotation}
  signs: {num_instances: 2, network: stem, demultiplexer: unbind, multiplexer_options: {vectors: signs}}
  pixels: {num_instances: 2, network: mlp, multiplexer: orthogonal}
"""


def write_idx(path, array, magic=None):
    header = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    path.write_bytes(gzip.compress(header + np.array(array.shape, ">u4").tobytes() + array.tobytes()))


def write_mnist(folder, train=40, test=23, side=28):
    draw = np.random.default_rng(0)
    folder.mkdir()
    for name, rows in (("train", train), ("t10k", test)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", draw.integers(0, 256, (rows, side, side), np.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", draw.integers(0, 10, rows, np.uint8))
    read_mnist.cache_clear()


@pytest.fixture
def files(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def call(files, *more, folder="out"):
    arguments = [str(files / "small.yaml"), "--data_dir", str(files), "--output_dir", str(files / folder), *more]
    return experiment.main(arguments)


def test_a_table_and_its_cells(files, capsys):
    """One cell, then the rest of the table, then nothing more to do."""
    (line,) = call(files, "--variants", "rotation", "--num_instances", "2")
    assert (line.variant, line.num_instances, line.difference) == ("rotation", 2, None)
    assert len(line.scores["accuracy"].values) == 2  # groupings
    before = (files / "out" / "rotation-2-0" / "cell.json").read_bytes()

    lines = call(files)
    assert [(line.variant, line.num_instances) for line in lines] == [
        ("plain", 1),
        ("rotation", 2),
        ("rotation", 3),
        ("signs", 2),
        ("pixels", 2),
    ]
    assert (files / "out" / "rotation-2-0" / "cell.json").read_bytes() == before
    plain, rotation = lines[:2]
    assert len(plain.scores["accuracy"].values) == 1
    assert rotation.against == "plain, N = 1"
    assert (plain.published, rotation.published, lines[2].published) == (None, 0.9285, None)
    difference, low, high = rotation.difference
    assert difference == pytest.approx(rotation.scores["accuracy"].mean - plain.scores["accuracy"].mean)
    assert low <= difference <= high

    written = json.loads((files / "out" / "results.json").read_text())
    assert [cell["variant"] for cell in written["cells"]] == ["plain", "rotation", "rotation", "signs", "pixels"]
    cell = written["cells"][2]
    assert cell["steps"] == 4 and len(cell["slots"]["accuracy"]) == 3 and cell["settings"]["max_steps"] == 4
    with np.load(files / "out" / "rotation-3-0" / "rows.npz") as rows:
        assert rows["accuracy"].shape == (2, 23)
        assert rows["accuracy"].mean() == pytest.approx(cell["scores"]["accuracy"]["mean"])
    assert (files / "out" / "results.png").stat().st_size > 1000
    capsys.readouterr()
    call(files)
    out = capsys.readouterr().out
    assert "0 to train" in out and "rotation" in out


def test_a_cell_is_the_same_again(files):
    first, second = (call(files, "--variants", "signs", folder=name)[0].scores for name in ("a", "b"))
    assert first == second


@dataclass(frozen=True)
class Line(Experiment):
    """What is twice x? With a figure to beat, and splits of its own."""

    name = "line"
    inputs = ("x",)
    metrics = (Metric("mae"), Metric("rmse", of_mean=lambda v: v**0.5))
    splits_by_seed = True

    def load(self, data_dir, seed):
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        rows = {"x": x, "y": 2 * x}
        return {k: v[:40] for k, v in rows.items()}, {k: v[40:] for k, v in rows.items()}

    def model(self, multiplexing):
        return multiplexing.wrap(nn.Linear(4, 4), 4)

    def loss(self, outputs, rows):
        return nn.functional.mse_loss(outputs, rows["y"])

    def measure(self, outputs, rows):
        error = (outputs - rows["y"]).abs().mean(1)
        return {"mae": error, "rmse": error.square()}

    def references(self, train, test):
        return {"zero": self.measure(torch.zeros_like(test["y"]), test)}

    def train(self, model, fit):
        fit()
        before = fit.score()["mae"]
        fit(max_steps=2)
        return {"before": before, "gain": before - fit.score()["mae"]}


def test_regression_several_seeds_and_stages(files, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "line", Line)
    (files / "small.yaml").write_text("experiment: line\nvariants: {plain: {max_steps: 3}, two: {max_steps: 3}}\n")
    lines = call(files, "--seeds", "0", "1", "--num_instances", "2")
    assert [(line.variant, line.num_instances, line.seeds) for line in lines] == [
        ("plain", 1, [0, 1]),
        ("two", 1, [0, 1]),
        ("zero", 0, [0, 1]),
    ]
    assert lines[1].difference == [0.0, 0.0, 0.0]  # the same network with the same seeds
    mae, rmse = lines[0].scores["mae"], lines[0].scores["rmse"]
    assert len(mae.values) == 2 and rmse.mean >= mae.mean
    before, gain = lines[0].scores["before"].mean, lines[0].scores["gain"].mean
    assert before - gain == pytest.approx(mae.mean)
    cell = json.loads((files / "out" / "plain-1-0" / "cell.json").read_text())
    assert cell["steps"] == 5


def measured(variant, values, seed=0):
    """A finished cell whose rows were measured so."""
    scores, slots, rows = {"accuracy": Score.of([0.0])}, {"accuracy": [0.0]}, {"accuracy": np.array(values, np.float32)}
    return CellResult(variant, 1, seed, {}, 0, 0, 0, 0.0, 0.0, scores, slots, rows)


def test_the_interval_pairs_rows():
    """Two networks that err on the same rows differ surely, however few rows there are."""
    hard = np.arange(40) % 4 > 0
    plain, same = measured("plain", [hard]), measured("same", [hard])
    metric = Metric("accuracy")
    assert compare([same], [plain], metric, False) == [0.0, 0.0, 0.0]
    worse = measured("worse", [hard & (np.arange(40) % 5 > 0)])
    difference, low, high = compare([worse], [plain], metric, False)
    assert low < difference < high < 0
    assert compare([measured("other", [hard], seed=1)], [plain], metric, False) is None
    assert table_rows([plain, same], metric, False)[1].against == "plain, N = 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_train_epoch", "1"], "there is no 'num_train_epoch' in a variant; the closest is 'num_train_epochs'"),
        (["--learning_rate", "fast"], "learning_rate must be of type float, got 'fast'"),
        (["--learning_rate"], "'--learning_rate' is not a pair of --KEY VALUE"),
        (["--seed", "1"], "seed is not a variant's: give seeds"),
        (["--variants", "rotatoin"], "there is no 'rotatoin' in a recipe's variants; the closest is 'rotation'"),
        (["--variants", "rotation", "--num_instances", "5"], "must be a multiple of num_instances=5, got 12"),
        (["--num_instances", "0"], "num_instances must be at least 1, got 0"),
        (["--groupings", "0"], "groupings is 0, expected an integer of at least 1"),
        (["--network", "vgg"], "network is 'vgg', expected one of 'mlp', 'cnn', 'stem'"),
        (["--multiplexer", "gauss"], "multiplexer is 'gauss', expected one of"),
        (["--per_device_train_batch_size", "80", "--num_instances", "40"], "23 test rows, fewer than one group"),
        (["--lr_scheduler_type", "steep"], "steep"),
    ],
)
def test_bad_arguments(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        call(files, *arguments)
    assert not (files / "out").exists()


def broken(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte.gz").unlink(), "t10k-labels-idx1-ubyte missing in .*mnist expects"),
        (broken("train-labels-idx1-ubyte.gz", b"PK\3\4"), "train-labels-idx1-ubyte.gz cannot be read"),
        (
            lambda f: write_idx(f / "train-images-idx3-ubyte.gz", np.zeros((40, 32, 32), np.uint8)),
            "images of 32x32 pixels, expected 28x28",
        ),
        (
            lambda f: write_idx(f / "train-labels-idx1-ubyte.gz", np.zeros(39, np.uint8)),
            "39 labels for 40 images",
        ),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte.gz", np.full(40, 10, np.uint8)), "label 10, expected 0 to 9"),
        (
            lambda f: write_idx(f / "train-labels-idx1-ubyte.gz", np.zeros(40, np.uint8), bytes([0, 0, 13, 1])),
            "starts with 00000d01, expected 00000801",
        ),
    ],
)
def test_bad_files(files, change, message):
    change(files / "mnist")
    with pytest.raises(ValueError, match=message):
        call(files)
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "experiment: minst\nvariants: {a: {}}",
            "experiment is 'minst', expected one of 'mnist', 'paired_digits'",
        ),
        ("experiment: mnist\nvariant: {a: {}}", "there is no 'variant' in a recipe; the closest is 'variants'"),
        ("experiment: mnist\nvariants: []", "variants must be of type dict, got"),
        ("experiment: mnist\nvariants: {}", "variants must be lines"),
        (
            "experiment: mnist\nvariants: {a: {chanels: 3}}",
            "a: there is no 'chanels' in a variant; the closest is 'channels'",
        ),
        ("experiment: mnist\nvariants: {a: {}}\npublished: {b: {2: 0.5}}", "published: there is no 'b'"),
        ("[1]", "must have lines 'key: value'"),
    ],
)
def test_bad_recipes(files, text, message):
    (files / "small.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        call(files)


def test_folders_of_others_are_refused(files):
    call(files, "--variants", "plain")
    with pytest.raises(ValueError, match=r"plain-1-0: learning_rate was None, is 0\.5"):
        call(files, "--learning_rate", "0.5")
    (files / "other").mkdir()
    (files / "other" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        call(files, folder="other")


@pytest.mark.parametrize("path", sorted(recipes.RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_that_come_along(path):
    recipe = recipes.read_recipe(path.stem, {})
    assert recipe.cells()


def test_pruning(files):
    """Every layer but the first loses its share of weights, for good; the record has each step, beside a picture."""
    text = (
        "experiment: pruning\ndefaults: {channels: 2, hidden_size: 8, max_steps: 2, per_device_train_batch_size: 12}\n"
    )
    (files / "small.yaml").write_text(text + "variants: {pruned: {num_instances: 2, fine_tuning_epochs: 1}}\n")
    (line,) = call(files)
    assert list(line.scores) == ["accuracy", "before pruning", "pruned", "weights left"]
    folder = files / "out" / "pruned-2-0"
    weights = load_file(folder / "model.safetensors")
    for name, sparsity in {"1.0": 0.7, "2.0": 0.7625, "4.0": 0.825, "5.0": 0.8875, "8": 0.95}.items():
        weight = weights[f"network.{name}.weight"]
        assert (weight == 0).sum() == round(sparsity * weight.numel()), name
    assert (weights["stem.0.weight"] != 0).all()
    assert (folder / "weights.png").stat().st_size > 1000
    left = sum(int((w != 0).sum()) for name, w in weights.items() if "running" not in name and "transforms" not in name)
    assert line.scores["weights left"].mean == pytest.approx(left / line.parameters, abs=0.01)


def test_pruning_refuses_shares_out_of_order():
    with pytest.raises(ValueError, match=r"least_sparsity is 0\.9 and most_sparsity 0\.5, expected"):
        Pruning(least_sparsity=0.9, most_sparsity=0.5)


def test_settings_at_one_n(files):
    text = RECIPE.replace("multiplexer: rotation}", "multiplexer: rotation, at: {3: {max_steps: 7}}}")
    (files / "small.yaml").write_text(text)
    recipe = recipes.read_recipe(str(files / "small.yaml"), {})
    assert [recipe.cell("rotation", n, 0).trainer["max_steps"] for n in (2, 3)] == [4, 7]
    given = recipes.read_recipe(str(files / "small.yaml"), {"max_steps": 5})
    assert given.cell("rotation", 3, 0).trainer["max_steps"] == 5
    (files / "small.yaml").write_text(text.replace("{max_steps: 7}", "{num_instances: 7}"))
    with pytest.raises(ValueError, match="rotation, N = 3: there is no 'num_instances' in a variant"):
        recipes.read_recipe(str(files / "small.yaml"), {})
