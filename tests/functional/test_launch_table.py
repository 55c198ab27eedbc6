"""Launch parameters: defaults, tables tuned for an architecture, and what a launcher takes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="launch parameters are those of the Triton kernels")

from fastmux.kernels import hadamard_mux
from fastmux.kernels.common import launch_table

CPU = torch.ones(1)


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Writes the table of the architecture that this device then is taken for."""
    monkeypatch.setattr(launch_table, "FOLDER", tmp_path)
    monkeypatch.setattr(launch_table, "architecture", lambda device: "sm_00")

    def write(content: object) -> Path:
        launch_table.table.cache_clear()
        path = tmp_path / "sm_00.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    yield write
    launch_table.table.cache_clear()


def launched(monkeypatch) -> dict:
    """The options that `hadamard_mux_forward` launches its kernel with."""
    options = {}

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **given: options.update(given, grid=grid)

    monkeypatch.setattr(hadamard_mux, "_forward_kernel", Kernel())
    hadamard_mux.hadamard_mux_forward(torch.ones(1, 2, 64, 128), torch.ones(2, 128), 0.5)
    return options


def test_every_default_is_allowed():
    assert launch_table.merged(launch_table.DEFAULTS, "defaults") == launch_table.DEFAULTS


def test_a_cpu_has_the_defaults():
    assert launch_table.architecture(CPU.device) is None
    assert launch_table.launch_parameters("hadamard_mux_forward", CPU) == {"rows": 8, "columns": 256, "warps": 4}


def test_a_tuned_table_overrides_what_it_names(tuned, monkeypatch):
    path = tuned({"device": "none", "launchers": {"hadamard_mux_forward": {"rows": 16, "warps": 2}}})
    options = launched(monkeypatch)
    # 64 rows in tiles of 16, all 128 columns in one
    assert (options["BLOCK_R"], options["BLOCK_D"], options["num_warps"], options["grid"]) == (16, 128, 2, (4,))
    assert launch_table.launch_parameters("hadamard_mux_dx", CPU) == launch_table.DEFAULTS["hadamard_mux_dx"]
    path.unlink()  # the answer is kept: no launch looks for the file again
    assert launch_table.launch_parameters("hadamard_mux_forward", CPU)["rows"] == 16


def test_using_holds_inside_its_block(monkeypatch):
    with launch_table.using({"hadamard_mux_forward": {"rows": 32}}):
        assert launched(monkeypatch)["BLOCK_R"] == 32
        with launch_table.using({"hadamard_mux_forward": {"rows": 4}}):
            assert launch_table.launch_parameters("hadamard_mux_forward", CPU) == {
                "rows": 4,
                "columns": 256,
                "warps": 4,
            }
        assert launch_table.launch_parameters("hadamard_mux_forward", CPU)["rows"] == 32
    assert launched(monkeypatch)["BLOCK_R"] == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ([1], "has no object 'launchers'"),
        ({"launchers": {"matmul": {}}}, "no launcher is called 'matmul', expected one of hadamard_mux_forward, "),
        ({"launchers": {"hadamard_mux_dv": 3}}, "hadamard_mux_dv is 3, expected an object"),
        (
            {"launchers": {"hadamard_mux_dv": {"stages": 2}}},
            "no parameter 'stages', expected some of rows, columns",
        ),
        (
            {"launchers": {"hadamard_mux_dv": {"rows": 12}}},
            "hadamard_mux_dv is 12, expected a power of two from 1",
        ),
        ({"launchers": {"hadamard_mux_dv": {"warps": 32}}}, "is 32, expected a power of two from 1 to 16"),
        ({"launchers": {"hadamard_mux_dv": {"rows": True}}}, "is True, expected a power of two"),
        ({"launchers": {"pair_norm_forward": {"programs": 0}}}, "is 0, expected an integer from 1 to 64"),
    ],
)
def test_a_malformed_table_is_refused(tuned, content, message):
    path = tuned(content)
    with pytest.raises(ValueError) as refused:
        launch_table.launch_parameters("hadamard_mux_forward", CPU)
    assert message in str(refused.value) and str(path) in str(refused.value)
