"""Tokens and tags from files of one's own: what is read, and what is refused by file and row."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from transformers import BertTokenizerFast

from fastmux.training.features import encode_tokens
from fastmux.training.tasks import make_task
from fastmux.training.tasks.own_tokens import OwnTokens
from fastmux.training.tokenization import train_tokenizer

ROWS = [(["New York", "is", "big"], ["B-LOC", "O", "O"]), (["Ann"], ["B-PER"]), (["it"], ["O"])]
CONLL = "-DOCSTART-\tO\n\nNew York\tB-LOC\nis\tO\nbig\tO\n\n\nAnn\tB-PER\n\nit\tO\n"


def lines(path: Path, rows, names=("tokens", "tags")) -> str:
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return str(path)


def task(train: str, dev: str, scheme: str = "entities", tags: str | None = "tags", tokens: str = "tokens"):
    return OwnTokens([train], dev, None, tokens, tags, scheme)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """The same rows in every format."""
    (tmp_path / "a.conll").write_text(CONLL)
    (tmp_path / "b.txt").write_text(CONLL.replace("New York", "York").replace("\t", " NN  "))
    names = ["B-PER", "B-LOC", "O"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    columns = {
        "tokens": [tokens for tokens, _ in ROWS],
        "tags": [[names.index(tag) for tag in tags] for _, tags in ROWS],
    }
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "c.parquet")
    lines(tmp_path / "d.jsonl", ROWS)
    return {path.name: str(path) for path in tmp_path.iterdir()}


@pytest.mark.parametrize("train", ["a.conll", "b.txt", "c.parquet", "d.jsonl"])
@pytest.mark.parametrize("dev", ["a.conll", "c.parquet", "d.jsonl"])
def test_tags_are_those_of_the_files(files, train, dev):
    data = task(files[train], files[dev]).checked(None)
    assert data.labels == ["O", "B-LOC", "B-PER"]
    assert data.train["tags"][:] == data.evaluation["validation"]["tags"][:] == [[1, 0, 0], [2], [0]]
    assert data.evaluation["validation"]["tokens"][:] == [tokens for tokens, _ in ROWS]
    assert data.train["tokens"][0][0] == ("York" if train == "b.txt" else "New York")


def test_conll_files_need_no_option(files):
    options = {"train_file": [files["a.conll"]], "validation_file": files["b.txt"], "test_file": None}
    made = make_task({**options, "tokens_column": "tokens", "tags_column": None, "tag_scheme": "entities"})
    assert isinstance(made, OwnTokens) and made.metric == "f1" and len(made.checked(None).train) == 3
    with pytest.raises(ValueError, match=r"d.jsonl: the other files are CoNLL columns; --tags_column names the tags"):
        task(files["a.conll"], files["d.jsonl"], tags=None).load(None)


def test_comments_of_conll_files_are_no_tokens(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("# id 5a3a domain=train\nAnn _ _ B-PER\n\n# id 77 domain=train\n# _ _ O\nBob _ _ B-PER\n")
    data = task(str(path), str(path)).load(None)
    assert data.train["tokens"][:] == [["Ann"], ["#", "Bob"]]


def test_words_by_themselves(tmp_path):
    rows = [(["it", "is"], ["PRP", "VB"]), (["they"], ["PRP"])]
    path = lines(tmp_path / "a.jsonl", rows, ("words", "pos"))
    made = task(path, path, "words", "pos", "words")
    data = made.checked(None)
    assert made.metric == "accuracy" and data.labels == ["PRP", "VB"] and data.train["tags"][:] == [[0, 1], [0]]


def test_tokens_that_are_not_asked_for(tmp_path):
    path = lines(tmp_path / "a.jsonl", [(["a", "b"], ["B-X", -100]), (["c"], ["O"])])
    data = task(path, path).checked(None)
    assert data.train["tags"][:] == [[1, -100], [0]] and data.labels == ["O", "B-X"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(["a"], ["O"]), (["a", "b"], ["O"])], "line 2: 2 'tokens' and 1 'tags', expected one each"),
        ([("a b", ["O", "O"])], "line 1: 'tokens' must be a list, got 'a b'"),
        ([(["a"], "O")], "line 1: 'tags' must be a list, got 'O'"),
        ([(["a"], None)], "line 1: 'tags' must be a list, got None"),
        ([(["a", None], ["O", "O"])], "line 1: 'tokens' must be a list of words, but holds None"),
        ([(["a", " "], ["O", "O"])], "line 1: 'tokens' must be a list of words, but holds ' '"),
        ([(["a", "b"], ["O", None])], "line 1: 'tags' has no label$"),
        ([(["a", "b"], ["O", "nan"])], "line 1: 'tags' has no label, but 'nan'"),
        ([(["a", "b"], ["O", ["B-X"]])], "line 1: 'tags' must be text, a number, true or false"),
        ([(["a", "b"], ["O", "O"])], "every token has the tag 'O'"),
        ([(["a"], [-100])], "every token is -100, which is no tag"),
        ([(["a", "b"], [0, 3])], "the tags '0', '3' do not say where an entity begins"),
    ],
)
def test_malformed_rows_are_refused(tmp_path, rows, message):
    path = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        task(path, path).checked(None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ann B-PER\nsleeps\n", "line 2 must be 'token tag': 'sleeps'"),
        ("Ann NN B-PER\nsleeps O\n", "line 2 has 2 columns, the lines before it 3, expected as many in each"),
        ("Ann PER\nsleeps O\n", "the tags 'PER' do not say where an entity begins"),
        ("", "no sentences"),
    ],
)
def test_malformed_lines_are_refused(tmp_path, text, message):
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        task(str(path), str(path)).checked(None)


def test_a_tag_that_no_training_row_has_is_refused(tmp_path, files):
    other = tmp_path / "dev.conll"
    other.write_text("Ann B-PER\n\nUN B-ORG\n")
    with pytest.raises(ValueError, match=r"dev.conll: lines 3 to 3: 'tags' must be one of .*'B-PER'.*, got 'B-ORG'"):
        task(files["a.conll"], str(other)).checked(None)
    rows = [(["Ann"], ["B-PER"]), (["it", "UN"], ["O", "B-ORG"])]
    with pytest.raises(ValueError, match=r"dev.jsonl: line 2: 'tags' must be one of .*, got 'B-ORG'"):
        task(files["a.conll"], lines(tmp_path / "dev.jsonl", rows)).checked(None)


def test_tables_without_lists_are_refused(tmp_path, files):
    path = tmp_path / "a.csv"
    path.write_text("tokens,tags\na b,O O\n")
    with pytest.raises(ValueError, match=r"a.csv: lists of tokens and tags are read from .jsonl and .parquet"):
        task(str(path), files["d.jsonl"]).load(None)


def test_a_word_of_which_the_tokenizer_makes_nothing_keeps_its_place():
    tokenizer = train_tokenizer(["one two three four"], vocab_size=300, max_length=12)
    for unseen in ("\u0300", "\u200d"):
        split = datasets.Dataset.from_dict({"tokens": [["one", unseen, "two"]], "tags": [[1, 2, 3]]})
        row = encode_tokens(tokenizer, split, length=24)[0]
        assert [label for label in row["labels"] if label != -100] == [1, 2, 3] and row["missed"] == []
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]
    bert = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
    assert len(bert(["one", "\u200d", "two"], is_split_into_words=True)["input_ids"]) == 4, "the joiner is dropped"
    split = datasets.Dataset.from_dict({"tokens": [["one", "\u200d", "two"]], "tags": [[1, 2, 3]]})
    row = encode_tokens(bert, split, length=24)[0]
    assert row["labels"] == [-100, 1, 2, 3, -100] and row["missed"] == []
