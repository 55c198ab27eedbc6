"""Tables of one's own and pairs of sentences: no Python needed, and bad input is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastmux.training.arguments import parse
from fastmux.training.features import encode_sequences
from fastmux.training.inputs import prepare
from fastmux.training.tasks import TASKS, make_task
from fastmux.training.tokenization import train_tokenizer
from fastmux.training.train import main

ROWS = [
    (f"is film {row} any good, says one who saw it", f"it is {('bad', 'so so', 'good')[row % 3]}", str(row % 3 - 1))
    for row in range(30)
]
SMALL = "--hidden_size 16 --num_heads 2 --num_layers 1 --intermediate_size 16 --max_length 24 --vocab_size 300"
SMALL += " --task_rows 4 --retrieval_rows 4 --groupings 1 --throughput_seconds 0.01 --use_cpu --disable_tqdm true"
COLUMNS = ["--text_column", "question", "--text_pair_column", "answer", "--label_column", "stars"]


@pytest.fixture
def files(tmp_path) -> Path:
    """The same rows in three formats."""
    header = "question\tanswer\tstars\n"
    (tmp_path / "train.tsv").write_text(header + "".join("\t".join(row) + "\n" for row in ROWS))
    (tmp_path / "dev.csv").write_text("stars,answer,question\n" + "".join(f'{c},{b},"{a}"\n' for a, b, c in ROWS))
    lines = (json.dumps({"question": a, "answer": b, "stars": int(c)}) + "\n" for a, b, c in ROWS)
    (tmp_path / "test.jsonl").write_text("".join(lines))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    files = ["--train_file", str(folder / "train.tsv"), "--validation_file", str(folder / "dev.csv")]
    return [*files, *COLUMNS, *SMALL.split(), *more]


def test_pairs_of_ones_own_files(files, tmp_path):
    more = ("--test_file", str(files / "test.jsonl"), "--output_dir", str(tmp_path / "run"))
    result = main(arguments(files, *more, "--variants", "plain", "unbind", "--max_steps", "2"))
    assert result.task == "own_files" and result.data["labels"] == ["-1", "0", "1"]
    assert result.data["evaluation_rows"] == {"validation": 30, "test": 30}
    scores = result.variants["unbind"].scores
    assert 0 <= scores["test"]["accuracy"].mean <= 1
    # The same rows in three formats are the same to a model that has no companions.
    assert len({result.variants["plain"].scores[split]["accuracy"].mean for split in ("validation", "test")}) == 1
    inputs = prepare(parse(arguments(files)))
    row = inputs.train[0]
    text, types = inputs.tokenizer.decode(row["input_ids"]), row["token_type_ids"]
    assert text.count("[SEP]") == 2 and "any good" in text and "it is bad" in text
    assert types == sorted(types) and sum(types) == len(inputs.tokenizer(" it is bad")["input_ids"]) - 1


def test_a_single_text_has_no_types(files):
    options = arguments(files)
    del options[options.index("--text_pair_column") : options.index("--label_column")]
    inputs = prepare(parse(options))
    assert "token_type_ids" not in inputs.train.column_names and inputs.labels == ["-1", "0", "1"]
    several = [*options[:1], str(files / "train.tsv"), *options[1:]]
    assert len(prepare(parse(several)).train) == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--label_column", "rating"), r"train\.tsv has no column 'rating'; there are 'question', 'answer', 'stars'"),
        (("--text_column", "text"), r"no column 'text'; there are"),
        (("--train_file", "empty.tsv"), r"empty\.tsv has no rows"),
        (("--validation_file", "empty.tsv"), r"empty\.tsv has no rows"),
        (("--validation_file", "five.tsv"), r"five\.tsv: line 3: 'stars' must be one of \['-1', '0', '1'\], got '5'"),
        (("--train_file", "five.tsv"), r"five\.tsv: line 2: 'stars' has no label"),
        (("--train_file", "same.tsv"), r"same\.tsv: 'stars' is '1' in every row"),
        (("--train_file", "one.tsv"), r"the task has 2 training rows, fewer than num_instances=4"),
        (("--train_file", "none.tsv"), r"none\.tsv is not there"),
        (("--train_file", "notes.docx"), r"notes\.docx: the name of an input must end in one of"),
    ],
)
def test_bad_files_are_refused_before_anything_is_written(files, tmp_path, change, message):
    header = "question\tanswer\tstars\n"
    (files / "empty.tsv").write_text(header)
    (files / "notes.docx").write_text(header)
    (files / "five.tsv").write_text(header + ("a\tb\t\n" if change[0] == "--train_file" else "a\tb\t1\n") + "a\tb\t5\n")
    (files / "same.tsv").write_text(header + "a\tb\t1\n" * 8)
    (files / "one.tsv").write_text(header + "a\tb\t1\na\tb\t-1\n")
    options = [*arguments(files), "--num_instances", "4", "--output_dir", str(tmp_path / "run")]
    name, value = change
    options[options.index(name) + 1] = str(files / value) if name.endswith("file") else value
    if value == "one.tsv":
        options[options.index("--validation_file") + 1] = str(files / "one.tsv")
    with pytest.raises(ValueError, match=message):
        main(options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "sst2", "--train_file", "a.tsv"], "--task and --train_file exclude each other"),
        (["--train_file", "a.tsv"], "--train_file needs --validation_file, too"),
        (["--text_column", "review"], "--text_column needs --train_file"),
        (["--test_file", "a.tsv"], "--test_file needs --train_file"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parse(options)


@pytest.mark.parametrize("name", ["mnli", "qnli", "qqp"])
def test_glue_pairs_from_local_files(tmp_path, name):
    task = TASKS[name]()
    for split, names in task.files.items():
        rows = "".join(f"one {split}\ttwo {label}\t{label}\n" for label in range(len(task.labels)))
        (tmp_path / names[-1]).write_text("sentence1\tsentence2\tlabel\n" + rows)
    data = task.load(str(tmp_path))
    assert data.train["text"][:2] == ["one train"] * 2 and data.train["text_pair"][:2] == ["two 0", "two 1"]
    assert data.evaluation["validation"]["label"][:] == list(range(len(data.labels)))
    assert data.text == [*data.train["text"], *data.train["text_pair"]]
    tokenizer = train_tokenizer(data.text, vocab_size=300, max_length=12)
    rows = encode_sequences(tokenizer, data.train, length=6)
    assert rows["cut"][0] and len(rows["input_ids"][0]) == len(rows["token_type_ids"][0]) == 6
    assert not encode_sequences(tokenizer, data.train, length=12)["cut"][0]
    assert make_task({"train_file": None, "task": name}).name == name
