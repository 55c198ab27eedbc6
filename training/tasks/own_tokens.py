"""A task of labelled tokens from files of one's own: the tags are those in the training files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastmux.modules.retrieval import IGNORE_INDEX
from training.entities import seqeval_tags
from training.tasks.base import Task, TaskData, texts_of
from training.tasks.conll import CONLL_FORMATS, TaggedTokens, dataset_of, read_conll
from training.tasks.labels import LabelColumn, Value, scalar
from training.tasks.own_files import files_of, found_classes, split_files
from training.tasks.readers import Table, read_table


def is_conll(file: str) -> bool:
    """Whether a file is read as CoNLL columns, by its ending."""
    return Path(file.removesuffix(".gz")).suffix in CONLL_FORMATS


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
        parts = {split: list(map(self._read, paths)) for split, paths in split_files(self, data_dir).items()}
        train = [part.tags for part in parts["train"]]
        pairs = [(tag, column.typed) for column in train for tag in column.read(_tag) if tag is not None]
        classes = found_classes(train, pairs)
        if len(classes.names) < 2:
            which = f"has the tag {classes.names[0]!r}" if classes.names else f"is {IGNORE_INDEX}, which is no tag"
            raise ValueError(f"{files_of(train)}: every token {which}")
        # What is outside comes first, as in the lists that are in use.
        names = sorted(classes.names, key=lambda name: name != "O")
        if self.metric == "f1":
            try:
                seqeval_tags(names, self.tag_scheme)
            except ValueError as error:
                raise ValueError(f"{files_of(train)}: {error}") from None
        ids = [names.index(name) for name in classes.names]

        def tag_id(value: object, typed: bool) -> int:
            tag = _tag(value, typed)
            return IGNORE_INDEX if tag is None else ids[classes.id(tag, typed)]

        splits = {split: dataset_of(own, tag_id) for split, own in parts.items()}
        data = splits.pop("train")
        return TaskData(data, splits, names, texts_of(data))

    def _read(self, path: Path) -> TaggedTokens:
        if is_conll(path.name):
            return read_conll(path)
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
        ValueError: A row has no list, a token that is no word, or not one tag for each token. The message names it.
    """
    rows, tags = table.labels(tokens_column).read(_words), table.labels(tags_column).read(_list)
    for place, words, own in zip(table.places, rows, tags, strict=True):
        if len(words) != len(own):
            raise ValueError(
                f"{table.path}: {place}: {len(words)} {tokens_column!r} and {len(own)} {tags_column!r}, expected one "
                "each"
            )
    places = [place for place, own in zip(table.places, tags, strict=True) for _ in own]
    flat = [tag for own in tags for tag in own]
    return TaggedTokens(rows, LabelColumn(str(table.path), tags_column, flat, places, typed=True))


def _list(value: object, typed: bool) -> list:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, got {value!r}")
    return value


def _words(value: object, typed: bool) -> list[str]:
    for token in _list(value, typed):
        if not isinstance(token, str) or not token.strip():
            raise ValueError(f"must be a list of words, but holds {token!r}")
    return value


def _tag(value: object, typed: bool) -> Value | None:
    """A tag; None for a token that has none."""
    return None if value == IGNORE_INDEX else scalar(value)
