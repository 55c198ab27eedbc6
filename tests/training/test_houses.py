"""Prices of houses: what is scaled by what, mirrors, and files that are not what they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastmux.training import experiment
from fastmux.training.experiments import Multiplexing
from fastmux.training.experiments.houses import SEES, Houses, prepare, read_houses


def houses(number: int = 24) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    features = np.column_stack(
        [draw.integers(1, 6, number), draw.integers(1, 4, number), draw.integers(800, 4000, number)]
    )
    zips = np.where(np.arange(number) % 2, 92880, 91901 + np.arange(number))
    return {
        "images": draw.integers(0, 256, (number, 4, 64, 64, 3), np.uint8),
        "features": np.column_stack([features, zips]).astype(np.float32),
        "price": draw.integers(100_000, 900_000, number).astype(np.float32),
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "houses").mkdir()
    np.savez(tmp_path / "houses" / "images.npz", **houses())
    read_houses.cache_clear()
    return tmp_path


def test_a_table(folder, capsys):
    size = ["--channels", "4", "--hidden_size", "8", "--max_steps", "2", "--per_device_train_batch_size", "6"]
    size += ["--per_device_eval_batch_size", "6", "--seeds", "0", "--groupings", "2"]
    lines = experiment.main(["houses", "--data_dir", str(folder), "--output_dir", str(folder / "out"), *size])
    assert [(line.variant, line.num_instances) for line in lines] == [
        *((sees, n) for sees in SEES for n in (1, 2)),
        ("always the median", 0),
    ]
    assert all(line.scores["MAE"].mean > 0 and line.scores["MAPE"].mean > 0 for line in lines)


def test_rows_are_scaled_by_the_training_rows():
    found = houses()
    train, test = prepare(*found.values(), seed=3)
    assert len(train["price"]) == 18 and len(test["price"]) == 6
    for name, dimensions in (("numbers", (0,)), ("photos", (0, 2, 3))):
        torch.testing.assert_close(train[name].mean(dimensions), torch.zeros(train[name].shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(train[name].std(dimensions), torch.ones(train[name].shape[1]), rtol=1e-3, atol=0)
    # The zip code that many houses have is a category, every other one is "another".
    assert set(train["zip"].tolist()) | set(test["zip"].tolist()) == {0, 1}
    other = prepare(*found.values(), seed=4)[1]
    assert sorted(test["price"].tolist()) != sorted(other["price"].tolist())
    right = Houses().measure((test["price"].log() - test["center"]) / test["scale"], test)
    assert right["MAE"].max() < 1 and right["MAPE"].max() < 1e-5


@pytest.mark.parametrize("sees", SEES)
def test_both_inputs_are_multiplexed(sees):
    torch.manual_seed(0)
    model = Houses(sees=sees, channels=4, hidden_size=8).model(Multiplexing(num_instances=2)).eval()
    _, test = prepare(*houses().values(), seed=0)
    inputs = [test[name] for name in Houses.inputs]
    out = model(*inputs)
    assert out.shape == (6,)
    for place, name in enumerate(("photos", "numbers")):
        changed = [input.clone() for input in inputs]
        changed[place][1] += 1
        moved = (model(*changed) - out).abs() > 1e-7
        # Row 1 shares its pass with row 0, and with no other.
        assert moved[:2].all() == (name in sees) and not moved[2:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": None}, r"images\.npz has no array price; expected arrays images"),
        (
            {"images": np.zeros((24, 4, 32, 32, 3), np.uint8)},
            r"images has shape \(24, 4, 32, 32, 3\), expected",
        ),
        ({"features": np.ones((20, 4), np.float32)}, r"features has shape \(20, 4\), expected \(24, 4\)"),
        ({"price": np.arange(24, dtype=np.float32)}, r"the price of house 0 is 0\.0, expected a number above 0"),
        ({name: column[:6] for name, column in houses().items()}, r"6 houses, expected at least 8"),
    ],
)
def test_bad_files(folder, change, message):
    arrays = {name: array for name, array in {**houses(), **change}.items() if array is not None}
    np.savez(folder / "houses" / "images.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        experiment.main(["houses", "--data_dir", str(folder), "--output_dir", str(folder / "out")])
    assert not (folder / "out").exists()


def test_a_damaged_file_and_a_bad_option(folder):
    (folder / "houses" / "images.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"images\.npz cannot be read"):
        read_houses(str(folder))
    with pytest.raises(ValueError, match="sees is 'words', expected one of 'photos and numbers', 'photos', 'numbers'"):
        Houses(sees="words")
