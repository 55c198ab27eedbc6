"""Molecules: union graphs, whose bonds and atoms are where they should be, and bad files."""

from __future__ import annotations

import pytest
import torch

from fastmux.testing import assert_agrees
from fastmux.training import experiment
from fastmux.training.experiments import Multiplexing
from fastmux.training.experiments.molecules import DELANEY, PAD, SMILES, TARGET, Molecules, read_molecules

pytest.importorskip("torch_geometric")
pytest.importorskip("rdkit")

TEXTS = ["C", "CC", "CCO", "c1ccccc1", "CC(=O)O", "C#N", "CCCl", "c1ccncc1 ", "OCC(O)CO", "CCCCBr"]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, [f"{text},{-row / 2},{-row / 3}" for row, text in enumerate(TEXTS)])
    return tmp_path


def write(folder, rows):
    (folder / "delaney-processed.csv").write_text("\n".join([f"{SMILES},{TARGET},{DELANEY}", *rows]) + "\n")
    read_molecules.cache_clear()


def small(num_instances: int):
    torch.manual_seed(0)
    return Molecules(hidden_size=16, num_heads=2).model(Multiplexing(num_instances=num_instances)).eval()


def test_a_table(folder, capsys):
    size = "--hidden_size 16 --num_heads 2 --max_steps 2 --per_device_train_batch_size 4 --seeds 0 --groupings 2"
    size += " --per_device_eval_batch_size 4"
    lines = experiment.main(["esol", "--data_dir", str(folder), "--output_dir", str(folder / "out"), *size.split()])
    assert [(line.variant, line.num_instances) for line in lines[:2]] == [("plain", 1), ("unbind", 2)]
    assert [line.num_instances for line in lines[2:]] == [0, 0]
    assert all(line.scores["rmse"].mean >= line.scores["mae"].mean - 1e-6 for line in lines)


def test_molecules_are_padded(folder):
    rows = read_molecules(str(folder))
    assert (
        rows["atoms"].shape == (10, 6, 9) and rows["ends"].shape == (10, 2, 12) and rows["bonds"].shape == (10, 12, 3)
    )
    assert (rows["atoms"][:, :, 0] != PAD).sum(1).tolist() == [1, 2, 3, 6, 4, 2, 3, 6, 6, 5]
    assert (rows["ends"][:, 0] != PAD).sum(1).tolist() == [0, 2, 4, 12, 6, 2, 4, 12, 10, 8]
    assert rows["solubility"][3] == -1.5


def test_alone_a_molecule_knows_of_no_other(folder):
    rows = read_molecules(str(folder))
    inputs = [rows[name] for name in Molecules.inputs]
    model = small(1)
    together = model(*inputs)
    for row in range(len(TEXTS)):
        assert_agrees(model(*(input[row : row + 1] for input in inputs)), together[row : row + 1])


def test_a_union_has_the_bonds_of_its_molecules(folder):
    rows = read_molecules(str(folder))
    inputs = [rows[name] for name in Molecules.inputs]
    model = small(2)
    real = inputs[0][..., 0] != PAD
    there, places, features = model._union(real, *inputs[1:])
    assert there.sum(1).tolist() == [2, 6, 4, 6, 6] and len(features) == places.shape[1]
    for g in range(5):
        own = {tuple(pair) for pair in (places.T[places[0] // 6 == g] - 6 * g).tolist()}
        of_rows = [ends[:, ends[0] != PAD].T.tolist() for ends in inputs[1][2 * g : 2 * g + 2]]
        assert own == {tuple(pair) for pairs in of_rows for pair in pairs}
    # Row 1 shares its pass with row 0, and with no other.
    out = model(*inputs)
    changed = [input.clone() for input in inputs]
    changed[0][1, 0, 0] = 8
    moved = (model(*changed) - out).abs() > 1e-7
    assert moved[:2].all() and not moved[2:].any()
    assert model(*(input[:5] for input in inputs)).shape == (5,)  # a short last group


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("C(C,1,1", r"line 12: 'smiles' is no molecule: 'C\(C'"),
        ("[Na+].[Cl-],1,1", r"line 12: 'smiles' has 2 atoms and no bond between any two: '\[Na\+\]\.\[Cl-\]'"),
        ("CC,soluble,1", r"line 12: 'measured.*' must be a number, got 'soluble'"),
        ("CC,nan,1", r"has no label, but 'nan'"),
        ("CC,1", r"line 12: has 2 columns, expected the 3 of the first line"),
    ],
)
def test_bad_files(folder, row, message):
    write(folder, [*(f"{text},0,0" for text in TEXTS), row])
    with pytest.raises(ValueError, match=message):
        experiment.main(["esol", "--data_dir", str(folder), "--output_dir", str(folder / "out")])
    assert not (folder / "out").exists()


def test_a_bad_option():
    with pytest.raises(ValueError, match="hidden_size=10 must be a multiple of num_heads=4"):
        Molecules(hidden_size=10)
