"""The benchmark of training steps in bfloat16: three ways of one step, and the table that it writes."""

from __future__ import annotations

import json

import pytest

from bench import bf16_steps


def test_each_length_has_three_times(tmp_path, capsys):
    sizes = ["--hidden_size", "8", "--num_heads", "2", "--num_layers", "1", "--rows", "2", "--repeats", "1"]
    out = tmp_path / "steps.json"
    found = bf16_steps.main([*sizes, "--lengths", "3", "5", "--output", str(out)])
    assert [row["length"] for row in found] == [3, 5]
    assert all(row[name] > 0 for row in found for name in bf16_steps.WAYS)
    result = json.loads(out.read_text())
    assert result["bf16_steps"] == found and result["sizes"]["rows"] == 2
    half = dict(zip(bf16_steps.WAYS, (4.0, 2.0, 1.0), strict=True))
    shown = "\n".join(bf16_steps.section(result | {"bf16_steps": [{"length": 3, **half}]}))
    assert "| 3 | 4.000 | 2.000 | 1.000 | 0.50 |" in shown


def test_heads_that_do_not_divide_are_refused(capsys):
    with pytest.raises(SystemExit):
        bf16_steps.main(["--hidden_size", "10", "--num_heads", "3"])
    assert "--hidden_size is 10, expected a multiple of --num_heads, 3" in capsys.readouterr().err
