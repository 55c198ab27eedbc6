"""What the main job says is computed from what it measured."""

from __future__ import annotations

import json

import pytest

from fastmux.training import demo, train

RESULT = {
    "rows": 1293,
    "models": {
        "plain": {"what": "the plain encoder", "accuracy": 0.8206, "rows_per_second": 744.0},
        "unbind": {"what": "a T-MUX, 4 rows in one pass", "accuracy": 0.8009, "rows_per_second": 2588.0},
        "found": {"what": "found by search: 1 of 2 layers, int8", "accuracy": 0.8167, "rows_per_second": 9001.0},
    },
}


def test_the_sentence_and_the_table_have_the_figures(tmp_path):
    said = demo.sentence(RESULT)
    assert "1,293 passages that were kept apart the plain encoder has an accuracy of 0.821" in said
    assert "a T-MUX, 4 rows in one pass, has 0.801 at 3.5 times the speed" in said
    assert said.endswith("1 of 2 layers, int8, has 0.817 at 12.1 times the speed.")
    table, sentence = demo.section({**RESULT, "sentence": said})
    assert "| 9,001 | 12.10 |" in table and sentence == f"**{said}**"
    demo._plot(tmp_path / "demo.png", RESULT)
    assert (tmp_path / "demo.png").stat().st_size > 1000


def test_a_finished_job_is_kept_and_the_next_has_a_folder_of_its_own(tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def begin(arguments):
        raise Begun(arguments[arguments.index("--output_dir") + 1])

    monkeypatch.setattr(train, "main", begin)
    for folder in ("demo", "demo-2"):
        with pytest.raises(Begun, match=f"{tmp_path}/{folder}/training"):
            demo.main(["--output_dir", str(tmp_path / "demo")])
        (tmp_path / folder).mkdir()
        (tmp_path / folder / demo.RESULT).write_text(json.dumps(RESULT))
