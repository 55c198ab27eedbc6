"""Token ids in place of text: the same answers, in every format; and ids that cannot be right."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

import fastmux
from fastmux.labelling.given_tokens import of_columns


@pytest.fixture(scope="module")
def tokenised(tokenizer, texts):
    """Rows as `datasets` leaves them behind a tokenizer, in tables of several chunks."""
    rows = datasets.Dataset.from_dict({"id": list(range(40)), "said": texts[:40]})
    return rows.map(lambda row: tokenizer(row["said"]), batched=True, batch_size=16, writer_batch_size=16)


def answers(found):
    return {"label": found.dataset["label"][:], "score": pytest.approx(found.dataset["score"][:], abs=1e-5)}


def same(found, expected):
    return {name: found.dataset[name][:] for name in expected} == expected


@pytest.mark.parametrize("name", ["plain", "tmux"])
def test_ids_get_the_answers_of_their_text(name, label, models, folders, tokenised, tmp_path):
    expected = answers(label(models[name], tokenised, column="said"))
    only = tokenised.select_columns(["id", "input_ids", "token_type_ids"])
    assert same(label(models[name], only), expected), "input_ids is taken where there is no text"
    assert same(label(models[name], tokenised, column="input_ids"), expected)
    assert same(label(models[name], only, num_workers=1), expected)
    only.to_parquet(tmp_path / "ids.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "ids.parquet")
    large = table.set_column(1, "input_ids", table["input_ids"].cast(pyarrow.large_list(pyarrow.uint16())))
    pyarrow.parquet.write_table(large, tmp_path / "large.parquet")
    only.to_json(tmp_path / "ids.jsonl")
    for file in ("ids.parquet", "large.parquet", "ids.jsonl"):
        out = tmp_path / f"out-{file}"
        report = label(folders[name], tmp_path / file, out).report
        rows = pyarrow.parquet.read_table(out).to_pylist() if file.endswith("parquet") else None
        rows = rows or [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["label"] for row in rows] == expected["label"] and report.rejected == 0
        assert [row["input_ids"] for row in rows] == only["input_ids"][:]


def test_the_texts_of_a_pair_are_told_apart(label, tokenizer, texts):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=3, initializer_range=0.6, **sizes)
    model = BertForSequenceClassification(config).eval()
    rows = datasets.Dataset.from_dict({"a": texts[:20], "b": texts[20:40]})
    expected = answers(label(model, rows, column="a", pair_column="b"))
    ids = rows.map(lambda row: tokenizer(row["a"], row["b"]), batched=True).remove_columns(["a", "b"])
    assert same(label(model, ids), expected)
    assert not same(label(model, ids.remove_columns("token_type_ids")), expected)


def test_a_row_whose_ids_cannot_be_right_is_set_aside(label, models, tokenizer, tmp_path):
    most = max(tokenizer.get_vocab().values())
    rows = [[2, 7, 3], [], None, [2, most + 1, 3], [2, -1, 3], [2, None, 3], [2] + [7] * 40 + [3], [2, 7, 3]]
    reasons = ["is empty"] * 2 + [f"holds the token id {most + 1}, expected 0 to {most}", "holds the token id -1"]
    reasons += ["holds a null", "has 42 tokens, the limit is"]
    table = pyarrow.table({"id": list(range(8)), "input_ids": pyarrow.array(rows, pyarrow.list_(pyarrow.int32()))})
    found = label(models["plain"], table, max_length=30)
    assert [reject.number for reject in found.rejects] == [2, 3, 4, 5, 6, 7]
    for reject, reason in zip(found.rejects, reasons, strict=True):
        assert reason in reject.reason
    first, *_, last = found.dataset
    assert first["label"] == last["label"] is not None and found.dataset[3]["label"] is None
    lines = tmp_path / "rows.jsonl"
    more = ["no row", '{"input_ids": "text"}', '{"input_ids": [2, 1.5]}', '{"input_ids": [99999999999999999999]}', "{}"]
    lines.write_text("\n".join([*(json.dumps({"input_ids": row}) for row in rows), *more]))
    report = label(models["plain"], lines, tmp_path / "out.jsonl", max_length=30).report
    assert (report.labelled, report.rejected) == (2, 11)
    said = (tmp_path / "out.jsonl.rejects.jsonl").read_text()
    assert said.count("must be a list of token ids") == 4 and "has no column 'input_ids'" in said


def test_types_of_another_length_are_told(label, models):
    table = pyarrow.table({"input_ids": [[2, 7, 3], [2, 3]], "token_type_ids": [[0, 0], [0, 5]]})
    first, second = label(models["plain"], table).rejects
    assert first.reason == "column 'token_type_ids' has 2 numbers, but 'input_ids' has 3"
    assert second.reason == "column 'token_type_ids' holds the token type 5, expected 0 to 1"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("tagger", {}, "holds token ids, but the model labels words"),
        ("plain", {"pair_column": "input_ids"}, "pair_column is for text, but column 'input_ids' holds token ids"),
    ],
)
def test_options_for_text_are_refused(name, options, message, label, models, tokenised):
    with pytest.raises(ValueError, match=message):
        label(models[name], tokenised, column="input_ids", **options)


ROWS = st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-3, 12)), max_size=6)), max_size=8)


@given(ROWS, st.integers(1, 6), st.integers(0, 3))
def test_a_table_says_what_lines_say(rows, max_length, chunks):
    """The rows that are taken are those a plain loop takes, whatever the chunks."""
    good = [r for r in rows if r and len(r) <= max_length and all(one is not None and 0 <= one <= 9 for one in r)]
    column = pyarrow.chunked_array(
        [pyarrow.array(rows[k :: chunks + 1], pyarrow.list_(pyarrow.int16())) for k in range(chunks + 1)]
    )
    tokens, places, problems = of_columns(["ids"], [column], 9, max_length)
    in_order = [row for k in range(chunks + 1) for row in rows[k :: chunks + 1]]
    assert sorted([*places, *problems]) == list(range(len(rows)))
    taken = [tokens.ids[a:b].tolist() for a, b in zip(tokens.starts, tokens.starts[1:], strict=False)]
    assert taken == [in_order[place] for place in places] and sorted(map(tuple, taken)) == sorted(map(tuple, good))


def test_embed_takes_ids_but_puts_no_prompt_before_them(tokenizer, texts):
    from transformers import BertModel

    from fastmux.embedding.config import EmbeddingConfig
    from fastmux.embedding.model import EmbeddingModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    options = {"tokenizer": tokenizer, "num_workers": 0, "disable_tqdm": True}
    model = EmbeddingModel(bert, EmbeddingConfig("mean", prompts={"query": "w1 "}, default_prompt_name="query"))
    ids = pyarrow.table({"input_ids": [tokenizer(f"w1 {text}")["input_ids"] for text in texts[:9]]})
    expected = np.array(fastmux.embed(model, texts[:9], **options).dataset["embedding"][:])
    with pytest.raises(ValueError, match="no prompt is put before, but the prompt is 'w1 '"):
        fastmux.embed(model, ids, **options)
    found = np.array(fastmux.embed(model, ids, prompt="", **options).dataset["embedding"][:])
    assert np.array_equal(found, expected)
