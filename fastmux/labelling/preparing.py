"""Parse and tokenise shards, and set aside what cannot be labelled. `fastmux.labelling.ahead` calls it.

Nothing here imports torch, for processes that start within a second and take little memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow

from fastmux.files import digest_of
from fastmux.labelling.checks import check_text, check_words
from fastmux.labelling.given_tokens import of_columns
from fastmux.labelling.row_tokenizer import Input, RowTokenizer
from fastmux.labelling.token_cache import VERSION, Kept, TokenCache
from fastmux.passes.tokens import Tokens
from fastmux.tables.parsing import column_values, parse_lines
from fastmux.tables.shard import RawShard
from fastmux.tables.writers import Heads, Writer


@dataclass
class PreparedShard:
    """What the model and the writer need of a shard, in addition to its rows.

    Attributes:
        heads: The input's columns of all rows; None if rows are written as they were read.
        tokens: The tokens of the rows that can be labelled.
        problems: For each other row, by its place in the shard, why it cannot be labelled.
        unread: The places of lines that could not be parsed.
        cut: The number of rows that were cut to the tokenizer's ``max_length``.
        seconds: The time that this took.
    """

    heads: Heads | None
    tokens: Tokens
    problems: dict[int, str]
    unread: set[int]
    cut: int
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """How a shard is prepared.

    Args:
        kind: The source's kind.
        columns: The source's columns.
        names: The names of the column that is labelled and, for pairs, of the column of the second text.
        places: The places of these columns in a table.
        words: Split texts at single spaces into words.
        tokenizer: Tokenises the rows.
        writer: Writes the rows.
        ids: The column holds token ids, and a second one token types.
        cache: Where tokens are kept; None if nowhere.
    """

    kind: str
    columns: list[str] | None
    names: tuple[str, ...]
    places: tuple[int, ...]
    words: bool
    tokenizer: RowTokenizer
    writer: Writer
    ids: bool = False
    cache: TokenCache | None = None

    def needed(self, raw: RawShard) -> RawShard:
        """The shard with only what is needed here."""
        return raw.select(self.places) if self.kind == "table" and self.writer.keeps else raw

    def __call__(self, raw: RawShard) -> PreparedShard:
        start = time.perf_counter()
        if self.ids:
            return self._of_ids(raw, start)
        if self.cache is not None:
            return self._kept(raw, self.cache, start)
        heads, found = self._of_text(raw)
        return PreparedShard(heads, **vars(found), seconds=time.perf_counter() - start)

    def _kept(self, raw: RawShard, cache: TokenCache, start: float) -> PreparedShard:
        """A shard whose tokens are kept, or are from now on."""
        key = digest_of([raw.digest, self._how])
        if (found := cache.kept(key)) is None:
            heads, found = self._of_text(raw)
            cache.keep(key, found)
        elif self.kind == "table":
            heads = self._heads_of(raw.table)
        else:
            heads = None if self.writer.keeps else self._of_lines(raw.rows)[2]
        return PreparedShard(heads, **vars(found), seconds=time.perf_counter() - start)

    @cached_property
    def _how(self) -> str:
        """A digest of all that a shard's tokens depend on beside its rows; tokenizers are long."""
        encoder = self.tokenizer
        how = [encoder.tokenizer, encoder.max_length, encoder.truncation, encoder.words, encoder.types, encoder.side]
        return digest_of([*how, encoder.prompt, self.kind, self.columns, self.names, self.words, VERSION])

    def _of_text(self, raw: RawShard) -> tuple[Heads | None, Kept]:
        """The heads of a shard, and what else is known of it once its text is tokenised."""
        fields, unread, heads = self._of_table(raw.rows) if self.kind == "table" else self._of_lines(raw.rows)
        problems: dict[int, str] = {}
        inputs: list[Input] = []
        places: list[int] = []
        alone = len(self.names) == 1 and not self.tokenizer.words
        for place, row in enumerate(fields):
            if alone and type(row) is str and row.isascii() and "\0" not in row and row and not row.isspace():
                inputs.append(row)  # most rows
                places.append(place)
                continue
            try:
                if isinstance(row, ValueError) and self.kind != "table":
                    raise row
                inputs.append(self._input((row,) if len(self.names) == 1 else row))
            except ValueError as error:
                problems[place] = str(error)
            else:
                places.append(place)
        tokens, cut = self.tokenizer.encode(inputs)
        bad = set()
        if len(tokens.lengths) and not 0 < tokens.lengths.min() <= tokens.lengths.max() <= self.tokenizer.max_length:
            for number, length in enumerate(tokens.lengths.tolist()):
                if reason := self.tokenizer.length_problem(length):
                    bad.add(number)
                    problems[places[number]] = reason
        if bad:
            tokens = tokens.select(np.array([row for row in range(len(places)) if row not in bad], np.int64))
        return heads, Kept(tokens, problems, unread, int(cut.sum()))

    def _of_ids(self, raw: RawShard, start: float) -> PreparedShard:
        """A shard whose rows are token ids."""
        unread: set[int] = set()
        table: Any = raw.rows
        if self.kind == "table":
            columns = self._columns(table)
            heads = self._heads_of(table)
        else:
            fields, unread, heads = self._of_lines(table)
            rows = [field if isinstance(field, tuple) else (field,) * len(self.names) for field in fields]
            columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in self.names]
        tokens, _, problems = of_columns(self.names, columns, self.tokenizer.largest_id, self.tokenizer.max_length)
        if not self.tokenizer.types:
            tokens.types = None
        elif tokens.types is None:
            tokens.types = np.zeros(len(tokens.ids), np.int8)
        return PreparedShard(heads, tokens, problems, unread, 0, time.perf_counter() - start)

    def _of_lines(self, rows: Sequence[bytes]) -> tuple[list, set[int], Heads | None]:
        """For each row the value to label, or why it cannot be parsed; the places of the latter; and the heads.

        The value is a tuple for pairs. Parsed rows are dropped as soon as possible, because Python's garbage collector
        takes time for every object that is alive.
        """
        parsed: Iterable[dict | ValueError] = parse_lines(rows, self.kind, self.columns, self.names, self.writer.exact)
        heads = None
        if not self.writer.keeps:
            parsed = list(parsed)
            heads = self.writer.heads([None if isinstance(row, ValueError) else row for row in parsed])
        fields: list = []
        unread = set()
        column, pair = self.names[0], self.names[1:]
        for row in parsed:
            if isinstance(row, ValueError):
                unread.add(len(fields))
                fields.append(row)
                continue
            try:
                fields.append((row[column], row[pair[0]]) if pair else row[column])
            except KeyError as error:
                there = ", ".join(map(repr, row)) or "none"
                fields.append(ValueError(f"has no column {error}, but {there}"))
        return fields, unread, heads

    def _of_table(self, table: pyarrow.Table) -> tuple[list, set[int], Heads | None]:
        values = [column_values(column) for column in self._columns(table)]
        return values[0] if len(values) == 1 else list(zip(*values, strict=True)), set(), self._heads_of(table)

    def _heads_of(self, table: pyarrow.Table) -> Heads | None:
        return None if self.writer.keeps else self.writer.heads_of_table(table)

    def _columns(self, table: pyarrow.Table) -> list[pyarrow.ChunkedArray]:
        """The columns that are labelled, of a table that `needed` may have cut to them."""
        kept = self.writer.keeps
        return [table.column(number if kept else place) for number, place in enumerate(self.places)]

    def _input(self, row: tuple) -> Input:
        for name, value in zip(self.names, row, strict=True):
            if isinstance(value, ValueError):
                raise ValueError(f"column {name!r} {value}")
        if self.tokenizer.words == "given" and not self.words:
            return check_words(f"column {self.names[0]!r}", row[0])
        texts = [check_text(f"column {name!r}", value) for name, value in zip(self.names, row, strict=True)]
        if self.words:
            return texts[0].split(" ")
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])
