"""A task of labelled tokens from files of one's own: the tags are those in the training files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from fastmux.modules.retrieval import IGNORE_INDEX
from fastmux.training.entities import seqeval_tags
from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.conll import CONLL_FORMATS, read_conll
from fastmux.training.tasks.labels import Classes, Value, scalar
from fastmux.training.tasks.own_files import split_files
from fastmux.training.tasks.readers import Table, read_table


def is_conll(file: str) -> bool:
    """Whether a file is read as CoNLL columns, by its ending."""
    return Path(file.removesuffix(".gz")).suffix in CONLL_FORMATS


@dataclass(frozen=True)
class OwnTokens(Task):
    """Rows of tokens and their tags, from JSON lines, Parquet or CoNLL columns.

    Attributes:
        train_file, validation_file, test_file: See `fastmux.training.tasks.own_files.OwnFiles`.
        tokens_column, tags_column: The names of a table's columns; CoNLL columns have the token first and its tag last.
        tag_scheme: What tags say, one of `fastmux.training.entities.SCHEMES`.
    """

    train_file: list[str]
    validation_file: str
    test_file: str | None
    tokens_column: str
    tags_column: str | None
    tag_scheme: str

    name = "own_tokens"
    recipe = "conll2003"
    kind = "token"

    @property
    def metric(self) -> str:
        return "accuracy" if self.tag_scheme == "words" else "f1"

    def load(self, data_dir: str | None) -> TaskData:
        files, (tokens, tags) = split_files(self, data_dir).items(), self._columns
        tables = {split: Table.joined(list(map(self._read, paths))) for split, paths in files}
        words = {split: table.read(tokens, _words) for split, table in tables.items()}
        found = {split: table.read(tags, _tags) for split, table in tables.items()}
        for split, table in tables.items():
            for place, given, own in zip(table.places, words[split], found[split], strict=True):
                if len(own) != len(given):
                    raise ValueError(f"{place}: {len(given)} {tokens!r} and {len(own)} {tags!r}, expected one each")
        train = tables["train"]
        classes = train.of_all(tags, Classes, [(tag, True) for row in found["train"] for tag in row if tag is not None])
        if len(classes.names) < 2:
            which = f"has the tag {classes.names[0]!r}" if classes.names else f"is {IGNORE_INDEX}, which is no tag"
            raise ValueError(f"{train.files}: every token {which}")
        # What is outside comes first, as in the lists that are in use.
        names = sorted(classes.names, key=lambda name: name != "O")
        if self.metric == "f1":
            try:
                seqeval_tags(names, self.tag_scheme)
            except ValueError as error:
                raise ValueError(f"{train.files}: {error}") from None
        places = [names.index(name) for name in classes.names]

        def ids(value: object, typed: bool) -> list[int]:
            return [IGNORE_INDEX if tag is None else places[classes.id(tag)] for tag in _tags(value, typed)]

        splits = {
            split: Dataset.from_dict({"tokens": words[split], "tags": table.read(tags, ids)})
            for split, table in tables.items()
        }
        data = splits.pop("train")
        return TaskData(data, splits, names, texts_of(data))

    @property
    def _columns(self) -> tuple[str, str]:
        return self.tokens_column, self.tags_column or "tags"

    def _read(self, path: Path) -> Table:
        if is_conll(path.name):
            return read_conll(path, *self._columns)
        if self.tags_column is None:
            raise ValueError(
                f"{path}: the other files are CoNLL columns; --tags_column names the tags of a table, expected here"
            )
        table = read_table(path, self._columns)
        if not all(table.typed):
            raise ValueError(
                f"{path}: lists of tokens and tags are read from .jsonl and .parquet, or from CoNLL columns, "
                f"{', '.join(CONLL_FORMATS)}"
            )
        return table


def _words(value: object, typed: bool) -> list[str]:
    for token in _list(value):
        if not isinstance(token, str) or not token.strip():
            raise ValueError(f"must be a list of words, but holds {token!r}")
    return value


def _tags(value: object, typed: bool) -> list[Value | None]:
    """Tags; None for a token that has none."""
    return [None if tag == IGNORE_INDEX else scalar(tag) for tag in _list(value)]


def _list(value: object) -> list:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, got {value!r}")
    return value
