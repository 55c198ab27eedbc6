"""Tokens that are kept: a second run over the same rows writes the same bytes and tokenises nothing."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from fastmux.labelling.preparing import Preparation


@pytest.fixture
def source(request, texts, tmp_path):
    path = tmp_path / f"rows{request.param}"
    rows = [{"id": i, "text": text} for i, text in enumerate(texts[:40])]
    rows[7]["text"], rows[9]["text"] = " ", "w1 " * 60
    if request.param == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(["no row", *map(json.dumps, rows)]))
    return path


@pytest.fixture
def no_tokenizer(monkeypatch):
    def refuse(self, raw):
        raise AssertionError("a shard is tokenised")

    return lambda: monkeypatch.setattr(Preparation, "_of_text", refuse)


@pytest.mark.parametrize("name", ["tmux", "tagger"])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("source", [".jsonl", ".parquet"], indirect=True)
def test_a_second_run_tokenises_nothing(name, source, ending, label, folders, no_tokenizer, tmp_path):
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    kept = tmp_path / "kept" / "here"
    report = label(folders[name], source, first, cache_tokens=str(kept)).report
    assert len(list(kept.iterdir())) == 3 and report.rejected == 2 + (source.suffix == ".jsonl")
    plain = tmp_path / f"plain{ending}"
    label(folders[name], source, plain)
    no_tokenizer()
    again = label(folders[name], source, second, cache_tokens=str(kept)).report
    assert first.read_bytes() == second.read_bytes() == plain.read_bytes()
    assert (again.rejected, again.labelled, again.cut) == (report.rejected, report.labelled, report.cut)
    rejects = [path.with_name(f"{path.name}.rejects.jsonl").read_bytes() for path in (first, second, plain)]
    assert rejects[0] == rejects[1] == rejects[2]


@pytest.mark.parametrize("source", [".jsonl"], indirect=True)
def test_other_rows_or_another_length_are_tokenised_anew(source, label, folders, tmp_path):
    kept = tmp_path / "kept"
    options = {"cache_tokens": str(kept), "truncation": True}
    label(folders["plain"], source, tmp_path / "first.jsonl", **options)
    label(folders["plain"], source, tmp_path / "short.jsonl", max_length=5, **options)
    assert len(list(kept.iterdir())) == 6
    source.write_text(source.read_text() + '\n{"text": "w3"}')
    label(folders["plain"], source, tmp_path / "longer.jsonl", **options)
    assert len(list(kept.iterdir())) == 7, "the first two shards are the same"


@pytest.mark.parametrize("source", [".parquet"], indirect=True)
def test_a_damaged_file_is_made_anew(source, label, folders, tmp_path):
    kept, first, second = tmp_path / "kept", tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    label(folders["plain"], source, first, cache_tokens=str(kept))
    sizes = {path: path.stat().st_size for path in kept.iterdir()}
    for number, path in enumerate(sizes):
        path.write_bytes(path.read_bytes()[: 40 * number])
    label(folders["plain"], source, second, cache_tokens=str(kept))
    assert first.read_bytes() == second.read_bytes()
    assert {path: path.stat().st_size for path in kept.iterdir()} == sizes


@pytest.mark.parametrize("source", [".jsonl"], indirect=True)
def test_a_file_in_the_folders_place_is_refused(source, label, folders, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ValueError, match="which is a file; expected a folder"):
        label(folders["plain"], source, tmp_path / "out.jsonl", cache_tokens=str(tmp_path / "kept"))
    assert not (tmp_path / "out.jsonl").exists() and (tmp_path / "kept").read_text() == "mine"
