"""A task of labelled tokens from files of one's own: the tags are those in the training files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from fastmux.modules.retrieval import IGNORE_INDEX
from training.entities import seqeval_tags
from training.tasks.base import Task, TaskData, texts_of
from training.tasks.conll import CONLL_FORMATS, read_sentences
from training.tasks.labels import LabelColumn, Value, scalar
from training.tasks.own_files import found_classes, split_files
from training.tasks.readers import Table, read_table


def is_conll(file: str) -> bool:
    """Whether a file is read as CoNLL columns, by its ending."""
    return Path(file.removesuffix(".gz")).suffix in CONLL_FORMATS


@dataclass(frozen=True)
class TaggedTokens:
    """A file's rows.

    Attributes:
        column: The tags of all rows, for messages: a value and a place for each token.
        tokens: Each row's words.
        tags: Each row's tags, `IGNORE_INDEX` for a token that has none.
    """

    column: LabelColumn
    tokens: list[list[str]]
    tags: list[list[Value]]


@dataclass(frozen=True)
class OwnTokens(Task):
    """Rows of tokens and their tags, from JSON lines, Parquet or CoNLL columns.

    Attributes:
        train_file, validation_file, test_file: See `training.tasks.own_files.OwnFiles`.
        tokens_column, tags_column: The names of a table's columns; CoNLL columns have the token first and its tag last.
        tag_scheme: What tags say, one of `training.entities.SCHEMES`.
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
        found = {split: list(map(self._read, paths)) for split, paths in split_files(self, data_dir).items()}
        train = found["train"]
        where = ", ".join(part.column.file for part in train)
        pairs = [(tag, part.column.typed) for part in train for row in part.tags for tag in row if _asked(tag)]
        classes = found_classes(where, train[0].column.name, pairs)
        if len(classes.names) < 2:
            which = f"has the tag {classes.names[0]!r}" if classes.names else f"is {IGNORE_INDEX}, which is no tag"
            raise ValueError(f"{where}: every token {which}")
        # What is outside comes first, as in the lists that are in use.
        names = sorted(classes.names, key=lambda name: name != "O")
        if self.metric == "f1":
            try:
                seqeval_tags(names, self.tag_scheme)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        places = [names.index(name) for name in classes.names]

        def ids(part: TaggedTokens) -> list[list[int]]:
            asked = [
                (place, tag) for place, tag in zip(part.column.places, part.column.values, strict=True) if _asked(tag)
            ]
            known = iter(classes.ids(part.column, [tag for _, tag in asked], [place for place, _ in asked]))
            return [[places[next(known)] if _asked(tag) else IGNORE_INDEX for tag in row] for row in part.tags]

        splits = {
            split: Dataset.from_dict(
                {
                    "tokens": [row for part in parts for row in part.tokens],
                    "tags": [row for part in parts for row in ids(part)],
                }
            )
            for split, parts in found.items()
        }
        data = splits.pop("train")
        return TaskData(data, splits, names, texts_of(data))

    def _read(self, path: Path) -> TaggedTokens:
        if is_conll(path.name):
            sentences = read_sentences(path)
            places = [f"line {line}" for sentence in sentences for line in sentence.lines]
            tags = [sentence.tags for sentence in sentences]
            column = LabelColumn(str(path), "tag", [tag for row in tags for tag in row], places, typed=True)
            return TaggedTokens(column, [sentence.tokens for sentence in sentences], tags)
        if self.tags_column is None:
            raise ValueError(
                f"{path}: the other files are CoNLL columns; --tags_column names the tags of a table, expected here"
            )
        table = read_table(path, [self.tokens_column, self.tags_column])
        if not table.typed:
            raise ValueError(
                f"{path}: lists of tokens and tags are read from .jsonl and .parquet, or from CoNLL columns, "
                f"{', '.join(CONLL_FORMATS)}"
            )
        return tagged_rows(table, self.tokens_column, self.tags_column)


def tagged_rows(table: Table, tokens_column: str, tags_column: str) -> TaggedTokens:
    """The rows of a table with two columns of lists.

    Raises:
        ValueError: names the first row that has none, a token or tag that is none, or not one tag for each token.
    """
    tags, values, places = [], [], []
    rows = zip(table.places, table.columns[tokens_column], table.columns[tags_column], strict=True)
    for place, tokens, own in rows:
        where = f"{table.path}: {place}"
        for name, value in ((tokens_column, tokens), (tags_column, own)):
            if not isinstance(value, list):
                raise ValueError(f"{where}: {name!r} must be a list, got {value!r}")
        for token in tokens:
            if not isinstance(token, str) or not token.strip():
                raise ValueError(f"{where}: {tokens_column!r} must be a list of words, but holds {token!r}")
        if len(tokens) != len(own):
            raise ValueError(
                f"{where}: {len(tokens)} {tokens_column!r} and {len(own)} {tags_column!r}, expected one each"
            )
        try:
            tags.append([tag if not _asked(tag) else scalar(tag) for tag in own])
        except ValueError as error:
            raise ValueError(f"{where}: {tags_column!r} {error} in its list") from None
        values += tags[-1]
        places += [place] * len(own)
    column = LabelColumn(str(table.path), tags_column, values, places, typed=True)
    return TaggedTokens(column, table.columns[tokens_column], tags)


def _asked(tag: object) -> bool:
    return isinstance(tag, bool) or tag != IGNORE_INDEX
