"""The benchmark of tokenising: every way prepares all rows."""

from __future__ import annotations

import json

from bench import tokenising


def test_every_way_is_measured(tmp_path, capsys, monkeypatch):
    for name in ("sst2", "tokenizer"):
        (tmp_path / name).mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film", "dull"]
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\nfine film \t1\ndull\t0\nfilm dull\t0\n")
    monkeypatch.setattr(tokenising, "_SHARD", 10)
    given = ["--data_dir", str(tmp_path), "--rows", "30", "--words", "7", "--num_workers", "0", "--repeats", "1"]
    result = tokenising.main([*given, "--output", str(tmp_path / "out.json")])
    assert result["tokens_a_row"] == 9
    assert [one["way"] for one in result["prepared"]] == [
        "text, a thread",
        "token ids, a thread",
        "kept tokens, a thread",
    ]
    assert all(one["rows_per_second"] > 0 for one in result["prepared"])
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(result))
    assert "9.0 tokens a row, 30 rows" in capsys.readouterr().out
