"""Tasks, the embedded corpus, the tokenizer and the features made of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertTokenizerFast, EvalPrediction

from fastmux.training import features
from fastmux.training.features import encode_sequences, encode_tokens, pack_rows
from fastmux.training.metrics import accuracy, classification, entity_f1
from fastmux.training.tasks import TASKS, Conll2003Task, Sst2Task
from fastmux.training.tasks.stdlib import (
    GENERATED_PACKAGES,
    SHINGLE_WORDS,
    build_stdlib_corpus,
    shingles,
    split_passages,
    stdlib_root,
    words_of,
)
from fastmux.training.tokenization import SPECIAL_TOKENS, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("FASTMUX_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="FASTMUX_DATA names no folder with sst2/ and conll2003/")


@pytest.fixture(scope="module")
def corpus():
    return build_stdlib_corpus()


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer((text for text, _ in corpus.train), vocab_size=1000, max_length=48)


def test_corpus_has_the_largest_packages_of_this_python(corpus):
    assert len(corpus.labels) == 12 and corpus.labels == sorted(corpus.labels)
    assert not GENERATED_PACKAGES & set(corpus.labels)
    assert "asyncio" in corpus.labels and "email" in corpus.labels
    counts = np.bincount([label for _, label in corpus.train], minlength=12)
    assert counts.min() >= 200 and counts.max() <= 1000
    assert np.bincount([label for _, label in corpus.validation], minlength=12).min() >= 50


def test_corpus_splits_share_no_run_of_words(corpus):
    train = set().union(*(shingles(text) for text, _ in corpus.train))
    unlabelled = set().union(*(shingles(text) for text in corpus.text))
    for text, _ in corpus.validation:
        assert train.isdisjoint(shingles(text))
        assert unlabelled.isdisjoint(shingles(text))
    texts = [" ".join(words_of(text)) for text, _ in corpus.train + corpus.validation]
    assert len(set(texts)) == len(texts)


def test_the_split_check_sees_a_copied_run_of_words():
    run = " ".join(f"word{i}" for i in range(SHINGLE_WORDS))
    assert not shingles(f"before this {run} after").isdisjoint(shingles(f"{run} and more"))
    assert shingles(f"{run} more").isdisjoint(shingles(run.replace("word5", "other")))


def test_corpus_and_tokenizer_are_the_same_in_another_process(tmp_path):
    for name in ("json", "logging", "unittest"):  # packages small enough to be read twice
        shutil.copytree(stdlib_root() / name, tmp_path / name)
    corpus = build_stdlib_corpus(root=tmp_path)
    tokenizer = train_tokenizer((text for text, _ in corpus.train), vocab_size=1000, max_length=48)
    code = (
        "import hashlib, json, sys\n"
        "from pathlib import Path\n"
        "from fastmux.training.tasks.stdlib import build_stdlib_corpus\n"
        "from fastmux.training.tokenization import train_tokenizer\n"
        "c = build_stdlib_corpus(root=Path(sys.argv[1]))\n"
        "t = train_tokenizer((text for text, _ in c.train), vocab_size=1000, max_length=48)\n"
        "print(hashlib.sha256(json.dumps([c.labels, c.train, c.validation, c.text]).encode()).hexdigest())\n"
        "print(hashlib.sha256(json.dumps(sorted(t.get_vocab().items())).encode()).hexdigest())\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    passages = [corpus.labels, corpus.train, corpus.validation, corpus.text]
    here = [json.dumps(passages), json.dumps(sorted(tokenizer.get_vocab().items()))]
    assert printed == [hashlib.sha256(text.encode()).hexdigest() for text in here]


def test_corpus_of_a_small_folder(tmp_path):
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        lines = [f"{name} line {i} says {i * 7} and {i * 11} of {name}_{i}" for i in range(400)]
        (tmp_path / name / "module.py").write_text("\n".join(lines))
    (tmp_path / "beta" / "tests").mkdir()
    (tmp_path / "beta" / "tests" / "test_x.py").write_text("forbidden = 1\n" * 200)
    corpus = build_stdlib_corpus(root=tmp_path, words=16)
    assert corpus.labels == ["alpha", "beta"]
    assert len(corpus.train) + len(corpus.validation) > 700
    assert corpus == build_stdlib_corpus(root=tmp_path, words=16)
    assert corpus.validation != build_stdlib_corpus(root=tmp_path, words=16, seed=1).validation
    for text, label in corpus.train + corpus.validation:
        assert corpus.labels[label] in text and "forbidden" not in text


def test_corpus_without_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no Python source"):
        build_stdlib_corpus(root=tmp_path)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "m.py").write_text("x = 1\n" * 100)
    with pytest.raises(ValueError, match=r"holds 1 package\(s\)"):
        build_stdlib_corpus(root=tmp_path)


def test_passages_are_whole_lines_of_bounded_length():
    text = "\n".join(f"  a b c d{i}" for i in range(10)) + "\n\n" + "w " * 50
    passages = split_passages(text, words=12)
    assert passages[0] == "a b c d0\na b c d1\na b c d2"
    assert [len(words_of(passage)) for passage in passages] == [12, 12, 12, 4, 50]


def test_tokenizer_gives_back_lower_case_text(tokenizer):
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(5)] == SPECIAL_TOKENS
    ids = tokenizer("Import  the\nModule")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "import the module"
    assert len(tokenizer) == 1000


def test_packed_rows_hold_the_text_in_order(tokenizer):
    texts = ["import os and sys"] * 10 + ["return the value of x"] * 10
    rows = pack_rows(tokenizer, texts, length=16)
    stream = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    content = [i for row in rows["input_ids"] for i in row[1:-1]]
    assert content == stream[: len(content)] and len(stream) - len(content) < 14
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        assert len(ids) == 16 and ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
        assert labels == [-100, *ids[1:-1], -100]
    with pytest.raises(ValueError, match="fewer than one row takes"):
        pack_rows(tokenizer, ["import"], length=64)


def write_sst2(folder: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text('sentence\tlabel\na "fine film \t1\nbad \t0\n', encoding="utf-8")


def write_conll(folder: Path) -> None:
    text = "-DOCSTART- O\n\nJohn B-PER\nSmith I-PER\nsleeps O\n\nParis B-LOC\n"
    for name in ("train.txt", "valid.txt", "test.txt"):
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("nested", [False, True])
def test_local_files_in_the_folder_or_its_subfolder(tmp_path, nested):
    folder = tmp_path / "sst2" if nested else tmp_path
    folder.mkdir(exist_ok=True)
    write_sst2(folder)
    data = Sst2Task().load(str(tmp_path))
    assert data.train["text"][:] == ['a "fine film', "bad"] and data.train["label"][:] == [1, 0]
    folder = tmp_path / "conll2003" if nested else tmp_path
    folder.mkdir(exist_ok=True)
    write_conll(folder)
    data = Conll2003Task().load(str(tmp_path))
    assert data.train["tokens"][:] == [["John", "Smith", "sleeps"], ["Paris"]]
    assert data.train["tags"][:] == [[1, 2, 0], [5]] and list(data.evaluation) == ["validation", "test"]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"train\.tsv, dev\.tsv missing in .*sentence<TAB>label"):
        Sst2Task().load(str(tmp_path / "nowhere"))
    write_conll(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(
        ValueError, match=r"data_dir=.*: test\.txt missing in .*expects train\.txt, valid\.txt, test\.txt"
    ):
        Conll2003Task().load(str(tmp_path))


def test_token_labels_are_at_first_subwords(tokenizer, tmp_path):
    write_conll(tmp_path)
    data = Conll2003Task().load(str(tmp_path))
    row = encode_tokens(tokenizer, data.train, length=48)[0]
    words = tokenizer(["John", "Smith", "sleeps"], is_split_into_words=True).word_ids()
    kept = [label for label in row["labels"] if label != -100]
    assert kept == [1, 2, 0] and len(row["labels"]) == len(row["input_ids"]) == len(words)
    assert [row["labels"][words.index(word)] for word in range(3)] == [1, 2, 0]
    assert len(words) > 5, "the words must fall into several subwords for this test to say anything"
    assert row["cut"] is False and row["missed"] == []


def test_a_row_may_be_cut_where_the_first_rows_are_not(tokenizer, monkeypatch):
    monkeypatch.setattr(features, "_BATCH", 1)
    split = Dataset.from_dict({"tokens": [["a"], ["a"] * 9], "tags": [[0], [0] * 9]})
    assert encode_tokens(tokenizer, split, length=5)["missed"][:] == [[], [0] * 6]


def test_cut_words_are_scored_as_missed(tokenizer):
    """Two of three entities lie behind the cut, one of them begins before it; a perfect model finds the first one."""
    tags = [Conll2003Task.labels.index(name) for name in ("B-PER", "O", "B-ORG", "I-ORG", "B-LOC")]
    split = Dataset.from_dict({"tokens": [["a"] * 5, ["a", "a"]], "tags": [tags, tags[:2]]})
    rows = encode_tokens(tokenizer, split, length=5)
    assert rows["cut"][:] == [True, False] and rows["missed"][:] == [tags[3:], []]
    labels = np.array([row + [-100] * (5 - len(row)) for row in rows["labels"]])
    scores = entity_f1(Conll2003Task.labels)(EvalPrediction(labels, labels), rows)
    assert scores["recall"] == pytest.approx(2 / 4) and scores["precision"] == pytest.approx(2 / 3)
    assert scores["accuracy"] == pytest.approx(5 / 7)
    assert encode_tokens(tokenizer, split, length=7)["cut"][:] == [False, False]


@needs_data
def test_all_entities_of_the_test_set_are_scored():
    """All of the 5,648 entities count: a perfect model misses those that were cut."""
    names, length = Conll2003Task.labels, 96
    entries = (Path(DATA) / "tokenizer" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8").split("\n")
    tokenizer = BertTokenizerFast(vocab={entry: number for number, entry in enumerate(entries[:-1])})
    rows = encode_tokens(tokenizer, Conll2003Task().load(DATA).evaluation["test"], length)
    labels = np.full((len(rows), length), -100)
    for padded, row in zip(labels, rows["labels"], strict=True):
        padded[: len(row)] = row
    cut = [number for number, row in enumerate(rows) if row["missed"]]
    begun = sum(names[tag].startswith("B-") for row in rows for tag in row["labels"] if tag != -100)
    broken = sum(names[row["missed"][0]].startswith("I-") for row in rows.select(cut))
    assert cut and begun < 5648
    recall = entity_f1(names)(EvalPrediction(labels, labels), rows)["recall"]
    assert recall == pytest.approx((begun - broken) / 5648)


def test_sequences_are_cut(tokenizer, tmp_path):
    write_sst2(tmp_path)
    rows = encode_sequences(tokenizer, Sst2Task().load(str(tmp_path)).train, length=4)
    assert max(map(len, rows["input_ids"])) == 4 and rows["labels"][:] == [1, 0]
    assert rows["cut"][:] == [True, False]


def test_scores_of_known_predictions():
    rows = Dataset.from_dict({"missed": [[]]})
    assert accuracy(EvalPrediction(np.array([1, 0, 2]), np.array([1, 1, -100])), rows) == {"accuracy": 0.5}
    two = EvalPrediction(np.array([1, 0, 1, 1]), np.array([1, 1, 0, 1]))
    assert classification(["no", "yes"])(two, rows) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    assert classification(["a", "b", "c"])(two, rows) == {"accuracy": 0.5}
    labels = np.array([[1, 2, 0, 5, -100]])
    score = entity_f1(Conll2003Task.labels)
    assert score(EvalPrediction(labels, labels), rows)["f1"] == 1.0
    # One of two entities whole, the other's second word missed: precision 1/2, recall 1/2, though 3 of 4 tags
    # agree.
    half = score(EvalPrediction(np.array([[1, 0, 0, 5, 7]]), labels), rows)
    assert half["f1"] == pytest.approx(0.5) and half["accuracy"] == 0.75


@needs_data
def test_real_files_have_their_published_sizes():
    sst2 = TASKS["sst2"]().load(DATA)
    assert (len(sst2.train), len(sst2.evaluation["validation"])) == (67349, 872)
    assert sum(sst2.evaluation["validation"]["label"]) == 444
    for name, sizes in {"mnli": (9881, 9815), "qnli": (23666, 5463), "qqp": (28918, 9917)}.items():
        pairs = TASKS[name]().load(DATA)
        assert (len(pairs.train), len(pairs.evaluation["validation"])) == sizes
    conll = TASKS["conll2003"]().load(DATA)
    assert len(conll.train) == 14041
    assert {name: len(split) for name, split in conll.evaluation.items()} == {
        "validation": 3250,
        "test": 3453,
    }
    assert sum(tag == 1 for tags in conll.train["tags"] for tag in tags) == 6600
