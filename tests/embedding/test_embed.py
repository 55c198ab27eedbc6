"""`fastmux.embed`: what comes out, in which formats, beside sentence-transformers; and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from labelling.reading import read_jsonl
from sentence_transformers import SentenceTransformer
from transformers import BertModel

import fastmux
from fastmux.cli.main import main
from fastmux.embedding.vectors import Vectors
from fastmux.labelling.shard_folder import ShardFolder
from fastmux.testing import assert_agrees


@pytest.fixture
def embed(tokenizer):
    """`fastmux.embed` in a thread, with shards of 16 rows."""

    def run(model, dataset, output=None, **options):
        options = {"num_workers": 0, "rows_per_shard": 16, "disable_tqdm": True} | options
        if not hasattr(model, "joinpath"):
            options.setdefault("tokenizer", tokenizer)
        return fastmux.embed(model, dataset, output, **options)

    return run


@pytest.fixture
def rows_file(texts, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts[:40])]
    lines[7], lines[20] = json.dumps({"id": 7, "text": " "}), "no row"
    lines[30] = json.dumps({"id": 30, "text": "w1 w2 " * 40})
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def encode(folders):
    """The vectors of sentence-transformers."""
    return lambda name, texts, **options: SentenceTransformer(str(folders[name]), device="cpu").encode(texts, **options)


@pytest.mark.parametrize("name", ["mean", "cls", "every"])
def test_vectors_are_those_of_sentence_transformers(embed, encode, folders, texts, name):
    long = [*texts[:30], "w1 w2 " * 40]
    found = embed(folders[name], long)
    assert_agrees(torch.tensor(found.dataset["embedding"][:]), torch.tensor(encode(name, long)))
    # The model of everything has room for 12 tokens, of which the prompt takes one.
    assert found.report.cut == (1 if name != "every" else sum(len(text.split()) > 9 for text in long))


@pytest.mark.parametrize(
    "options",
    [{"prompt_name": "query"}, {"prompt": "w9 w9 "}, {"prompt": ""}, {"truncate_dim": 5}, {"max_length": 6}],
    ids=str,
)
def test_prompts_and_dimensions_are_those_of_sentence_transformers(embed, encode, folders, texts, options):
    theirs = dict(options)
    if length := theirs.pop("max_length", None):
        theirs["processing_kwargs"] = {"text": {"max_length": length}}
    found = embed(folders["every"], texts[:9], normalize=True, **options).dataset["embedding"][:]
    assert_agrees(torch.tensor(found), torch.tensor(encode("every", texts[:9], normalize_embeddings=True, **theirs)))


def test_a_model_in_memory_and_one_text(embed, embedders, config, texts):
    joined = embed(embedders["pooled"], texts[:1])
    assert len(joined.dataset) == 1 and len(joined.dataset[0]["embedding"]) == 32
    bare = BertModel(config)
    kept = copy.deepcopy(bare.state_dict())
    one, some = (embed(bare, rows, pooling="cls").dataset["embedding"][:] for rows in (texts[:1], texts[:7]))
    assert_agrees(torch.tensor(one), torch.tensor(some[:1]))
    assert kept.keys() == bare.state_dict().keys()  # what was given keeps its pooler
    with pytest.raises(ValueError, match="is a BertModel, which says no pooling; say with pooling, 'mean'"):
        embed(bare, texts)


@pytest.mark.parametrize("stored_as", ["float32", "float16", "int8"])
def test_every_format_has_the_same_vectors(embed, folders, rows_file, tmp_path, stored_as):
    outputs = {ending: tmp_path / f"out{ending}" for ending in (".parquet", ".arrow", ".jsonl", ".npy")}
    for output in outputs.values():
        report = embed(folders["mean"], rows_file, output, stored_as=stored_as, rejected="reason").report
        assert (report.rows, report.labelled, report.rejected, report.cut) == (40, 38, 2, 1)
        assert "40: 38 embedded, 2 rejected" in "\n".join(report.lines())
        assert [row["line"] for row in read_jsonl(Path(report.rejects))] == [8, 21]
    table = pyarrow.parquet.read_table(outputs[".parquet"])
    kind = table.schema.field("embedding").type
    assert kind == pyarrow.list_(pyarrow.from_numpy_dtype(stored_as), 32)
    columns = ["id", "text", "embedding", *(["embedding_scale"] if stored_as == "int8" else []), "error"]
    assert table.column_names == columns
    assert table["embedding"].null_count == 2 and not table["embedding"][7].is_valid
    assert (
        table["error"][7].as_py() == "column 'text' is empty"
        and table["error"][20].as_py()
        and not table["error"][0].is_valid
    )
    arrow = pyarrow.ipc.open_file(outputs[".arrow"]).read_all()
    assert arrow.equals(table)
    expected = table["embedding"].to_pylist()
    lines = read_jsonl(outputs[".jsonl"])
    kinds = np.dtype(stored_as)
    assert [None if v is None else np.array(v, kinds).tolist() for v in expected] == [
        None if row["embedding"] is None else np.array(row["embedding"], kinds).tolist() for row in lines
    ]
    array = np.load(outputs[".npy"])
    beside = pyarrow.parquet.read_table(tmp_path / "out.npy.rows.parquet")
    assert array.dtype == kinds and array.shape == (40, 32) and beside.num_rows == 40
    assert beside.column_names == [name for name in columns if name != "embedding"]
    there = [place for place in range(40) if place not in (7, 20)]
    assert array[there].tolist() == [expected[place] for place in there]
    assert np.isnan(array[7].astype(float)).all() if stored_as != "int8" else not array[7].any()


def test_int8_is_numbers_times_a_scale(embed, folders, texts):
    plain, small = (embed(folders["mean"], texts, stored_as=kind).dataset for kind in ("float32", "int8"))
    vectors = np.array(plain["embedding"][:])
    numbers, scale = np.array(small["embedding"][:]), np.array(small["embedding_scale"][:])[:, None]
    assert np.abs(numbers).max(1).tolist() == [127] * len(texts)
    assert (np.abs(numbers * scale - vectors) <= scale * 0.5001).all()


def test_rows_that_are_dropped(embed, folders, rows_file, tmp_path):
    embed(folders["mean"], rows_file, tmp_path / "out.npy", rejected="drop")
    beside = pyarrow.parquet.read_table(tmp_path / "out.npy.rows.parquet")
    array = np.load(tmp_path / "out.npy")
    assert array.shape == (38, 32) and np.isfinite(array).all() and beside.num_rows == 38
    assert beside["id"].to_pylist() == [i for i in range(40) if i not in (7, 20)]


class Stop(Exception):
    pass


def begun(embed, folder, rows_file, output, monkeypatch, **options):
    """An output of which one shard is whole."""
    commit = ShardFolder.commit

    def commit_one(self, index, *args):
        if index == 1:
            raise Stop
        commit(self, index, *args)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(ShardFolder, "commit", commit_one)
        embed(folder, rows_file, output, **options)


def test_what_is_whole_is_not_done_again_and_other_vectors_are_refused(
    embed, folders, rows_file, tmp_path, monkeypatch
):
    output = tmp_path / "out.npy"
    begun(embed, folders["every"], rows_file, output, monkeypatch)
    for options, message in (
        ({"truncate_dim": 4}, "dimension was 8, is 4; truncate_dim was None, is 4"),
        ({"prompt_name": "query"}, "prompt_name was None, is 'query'; prompt_text was 'w4 ', is 'w1 w2 w3'"),
        ({"stored_as": "float16"}, "stored_as was 'float32', is 'float16'"),
    ):
        with pytest.raises(ValueError, match=f"was begun with another model or other options: {message}"):
            embed(folders["every"], rows_file, output, **options)
    with pytest.raises(ValueError, match=r"dimension was 8, is 32; .*model was "):
        embed(folders["mean"], rows_file, output)
    assert embed(folders["every"], rows_file, output).report.resumed == 16
    embed(folders["every"], rows_file, tmp_path / "straight.npy")
    for ending in ("", ".rows.parquet", ".rejects.jsonl"):
        assert (tmp_path / f"out.npy{ending}").read_bytes() == (tmp_path / f"straight.npy{ending}").read_bytes()
    with pytest.raises(ValueError, match=r"out.npy exists: name another output"):
        embed(folders["every"], rows_file, output)
    output.unlink()
    (tmp_path / "out.npy.rejects.jsonl").unlink()
    with pytest.raises(ValueError, match=r"out.npy.rows.parquet exists: name another output"):
        embed(folders["every"], rows_file, output)


def test_nan_is_refused_and_nothing_is_written(embed, embedders, rows_file, tmp_path):
    broken = copy.deepcopy(embedders["mean"])
    broken.encoder.encoder.layer[0].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the model returns NaN or infinity"):
        embed(broken, rows_file, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "out.csv"}, r"output is '.*out.csv', expected a name that ends in .parquet, .arrow, .jsonl, .npy"),
        ({"truncate_dim": 33}, "truncate_dim is 33, but the model's vectors have 32 numbers"),
        ({"prompt_name": "query"}, "prompt_name is 'query', but the model has the prompts: none"),
        ({"prompt_name": "a", "prompt": "b"}, "prompt is 'b' and prompt_name 'a'; give one of them"),
        ({"stored_as": "int4"}, "stored_as is 'int4', expected one of 'float32', 'float16', 'int8'"),
        ({"max_length": 33}, "max_length is 33, but the model has room for 32 tokens"),
        ({"column": "body"}, "has no column 'body'"),
        ({"pooling": "max"}, "pooling is 'max', expected one of 'mean', 'cls', 'lasttoken'"),
    ],
)
def test_bad_options_are_refused_before_any_work(embed, folders, rows_file, tmp_path, options, message):
    output = tmp_path / options.pop("output", "out.parquet")
    with pytest.raises(ValueError, match=message):
        embed(folders["mean"], rows_file, output, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}


def test_the_command(folders, rows_file, tmp_path, capsys):
    output, options = tmp_path / "out.parquet", ["--num_workers", "0", "--disable_tqdm"]
    main(["embed", str(folders["every"]), str(rows_file), "--output", str(output), "--truncate_dim", "3", *options])
    said = capsys.readouterr().out
    assert "40: 38 embedded, 2 rejected" in said and f"written          {output}" in said
    assert pyarrow.parquet.read_schema(output).field("embedding").type.list_size == 3
    with pytest.raises(SystemExit, match="fastmux embed: --truncate_dim is 99, but the model's vectors have 16"):
        main(["embed", str(folders["every"]), str(rows_file), "--output", "o.npy", "--truncate_dim", "99", *options])
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folders["lasttoken"] / name).rename(tmp_path / name)
    with pytest.raises(SystemExit, match=r"fastmux embed: .* says no pooling, .*; say with --pooling, one of 'mean'"):
        main(["embed", str(folders["lasttoken"]), str(rows_file), "--output", str(tmp_path / "o.npy"), *options])
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (tmp_path / name).rename(folders["lasttoken"] / name)


def test_vectors_that_are_longer_than_the_model_has_are_refused():
    assert Vectors(8, 3).dimension == 3
    with pytest.raises(ValueError, match="truncate_dim is 9, but the model's vectors have 8"):
        Vectors(8, 9)
