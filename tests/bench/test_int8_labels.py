"""The benchmark of labels in 8 bits: what it reads, and what it calls changed."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from bench import int8_labels


def test_rows_with_a_label_behind_them(tmp_path):
    (tmp_path / "one.tsv").write_text('sentence\tlabel\na "fine" film\t1\ndull\t0\n')
    assert int8_labels.read_rows(tmp_path / "one.tsv") == (['a "fine" film', "dull"], ["1", "0"])
    with gzip.open(tmp_path / "two.tsv.gz", "wt") as file:
        file.write("sentence1\tsentence2\tlabel\na\tb\t2\n")
    assert int8_labels.read_rows(tmp_path / "two.tsv.gz") == ([{"text": "a", "text_pair": "b"}], ["2"])
    (tmp_path / "tags.txt").write_text("-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n")
    expected = [{"words": ["EU", "rejects"]}, {"words": ["Peter"]}], ["B-ORG", "O", "B-PER"]
    assert int8_labels.read_rows(tmp_path / "tags.txt") == expected


@pytest.mark.parametrize("words", [False, True])
def test_what_is_changed(words, tmp_path, monkeypatch):
    """Of four labels one differs between the precisions; float32 has three right, int8 two."""
    file = tmp_path / ("rows.txt" if words else "rows.tsv")
    file.write_text("a x\nb y\n\nc x\nd y\n" if words else "text\tlabel\na\tx\nb\ty\nc\tx\nd\ty\n")
    labels = {"float32": ["x", "y", "x", "x"], "int8": ["x", "y", "y", "x"]}

    class Labeller:
        def __init__(self, folder, truncation):
            self.labels = labels[folder.name]

        def __call__(self, rows):
            if words:
                return [{"tags": self.labels[:2]}, {"tags": self.labels[2:]}]
            return [{"label": label} for label in self.labels]

    monkeypatch.setattr(int8_labels.fastmux, "export", lambda *_, **__: None)
    monkeypatch.setattr(int8_labels.fastmux, "Labeller", Labeller)
    found = int8_labels.compared(tmp_path / "model", file)
    assert found == {"model": "model", "labels": 4, "changed": 0.25, "float32": 0.75, "int8": 0.5}
    assert "| model | 4 | 25.00% | 0.7500 | 0.5000 |" in "\n".join(int8_labels.section({"int8_labels": [found]}))


def test_a_file_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        int8_labels.main([f"{tmp_path}={tmp_path / 'none.tsv'}"])
    assert "none.tsv is not there; expected MODEL=ROWS" in capsys.readouterr().err


def test_labels_of_words_end_to_end(monkeypatch, tmp_path):
    answers = [{"tags": ["O", None]}, {"tags": ["B-PER"]}]
    monkeypatch.setattr(int8_labels.fastmux, "Labeller", lambda *_, **__: lambda rows: answers)
    assert np.array_equal(int8_labels.labels_of(tmp_path, []), ["O", None, "B-PER"])
