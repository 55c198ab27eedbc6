"""The embedded default: what kind of statement is each character of a piece of source code part of?

Pieces begin and end anywhere, in the middle of a word, a docstring, a call over several lines: characters must be put
together to words, and words to a statement whose first one may be far away, or cut off. The source is the standard
library's; the answers come from `ast` and `tokenize`.
"""

from __future__ import annotations

import ast
import io
import itertools
import random
import tokenize
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from fastmux.training.tasks.base import Task, TaskData, texts_of
from fastmux.training.tasks.stdlib import GENERATED_PACKAGES, read_packages, stdlib_root

_STATEMENTS: dict[str, tuple[type[ast.stmt], ...]] = {
    "definition": (ast.FunctionDef, ast.AsyncFunctionDef),
    "class": (ast.ClassDef,),
    "import": (ast.Import, ast.ImportFrom),
    "assignment": (ast.Assign, ast.AnnAssign, ast.AugAssign),
    "expression": (ast.Expr,),
    "return": (ast.Return,),
    "raise": (ast.Raise,),
    "if": (ast.If,),
    "loop": (ast.For, ast.AsyncFor, ast.While),
    "with": (ast.With, ast.AsyncWith),
    "try": (ast.Try,),
}
#: What a character can be part of; a label id is a position here. What has statements within is what is left of it, its
#: header above all; "docstring" is any string that is a statement of its own.
KINDS = [*_STATEMENTS, "other", "docstring", "comment"]
_KIND_OF = {node: kind for kind, nodes in _STATEMENTS.items() for node in nodes}
#: The label of space, which is not asked for, as in `torch.nn.functional.cross_entropy`.
NO_LABEL = -100
#: Characters of a passage.
CHARACTERS = 254
#: One file in so many is for validation.
VALIDATION_SHARE = 8
#: Passages to train on and for validation; files are read, in random order, until there are as many.
TRAIN_PASSAGES, VALIDATION_PASSAGES = 6000, 500


class StatementsTask(Task):
    """Passages of the running Python's own library, or of a folder of packages given as ``data_dir``."""

    name = "statements"
    recipe = "statements"
    kind = "token"
    metric = "accuracy"
    variants = ("plain", "shallow", "narrow", "joined", "unbind")

    def load(self, data_dir: str | None) -> TaskData:
        root = Path(data_dir) if data_dir else stdlib_root()
        packages = read_packages(root)
        sources = [text for name in sorted(packages) if name not in GENERATED_PACKAGES for text in packages[name]]
        rng = random.Random(0)
        rng.shuffle(sources)
        splits: tuple[list, list] = ([], [])
        for number, source in enumerate(sources):
            held_out = number % VALIDATION_SHARE == 0
            if len(splits[held_out]) < (TRAIN_PASSAGES, VALIDATION_PASSAGES)[held_out]:
                splits[held_out].extend(passages(*labelled_characters(source), rng))
        if not all(splits):
            raise ValueError(
                f"stdlib root: {root} has too little source for two splits: {len(sources)} files, "
                f"{len(splits[0])} passages of {CHARACTERS} characters to train on and {len(splits[1])} for validation"
            )
        for found in splits:
            rng.shuffle(found)
        train, validation = (
            Dataset.from_dict({"tokens": [list(text) for text, _ in found], "tags": [tags for _, tags in found]})
            for found in (splits[0][:TRAIN_PASSAGES], splits[1][:VALIDATION_PASSAGES])
        )
        return TaskData(train, {"validation": validation}, KINDS, texts_of(train))


def passages(text: str, tags: list[int], rng: random.Random) -> Iterator[tuple[str, list[int]]]:
    """Cuts a file into passages of `CHARACTERS`, the first of which begins anywhere; a remainder is dropped, and so is
    a passage without a label."""
    for start in range(rng.randrange(CHARACTERS), len(text) - CHARACTERS + 1, CHARACTERS):
        part = slice(start, start + CHARACTERS)
        if any(tag != NO_LABEL for tag in tags[part]):
            yield text[part], tags[part]


def labelled_characters(source: str) -> tuple[str, list[int]]:
    """A module's characters, each with its place in `KINDS` or `NO_LABEL`; none if this Python cannot parse the module.

    Every character is one that can be seen, as a tokenizer takes no notice of space: "¶" ends a line, "·" is any other
    space, and "?" stands for what is not ASCII.
    """
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return "", []
    # Lines as the parser counts them, which knows no \x0c or \u2028; its columns are bytes.
    lines = list(io.StringIO(source))
    starts = [0, *itertools.accumulate(map(len, lines))]
    tags = [NO_LABEL] * len(source)

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def note(kind: str, begin: int, end: int) -> None:
        tags[begin:end] = [KINDS.index(kind)] * (end - begin)

    for node in ast.walk(tree):  # a statement comes before those within it
        if isinstance(node, ast.stmt):
            kind = _KIND_OF.get(type(node), "other")
            if kind == "expression" and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                kind = "docstring"
            decorators = [(d.lineno, d.col_offset - 1) for d in getattr(node, "decorator_list", [])]
            begin = min([(node.lineno, node.col_offset), *decorators])
            note(kind, place(*begin), place(node.end_lineno, node.end_col_offset))
    for token in tokens:
        if token.type == tokenize.COMMENT:
            begin, end = (starts[line - 1] + column for line, column in (token.start, token.end))
            note("comment", begin, end)
    tags = [NO_LABEL if character.isspace() else tag for character, tag in zip(source, tags, strict=True)]
    return "".join(map(_visible, source)), tags


def _visible(character: str) -> str:
    if character.isspace():
        return "¶" if character == "\n" else "·"
    return character if character.isascii() and character.isprintable() else "?"
