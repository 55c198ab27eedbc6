"""Names in the standard library's source: what is this name, a parameter, a method, a module?

Every name of a passage is replaced by a word drawn anew for the passage, the same wherever the name occurs in it, so
that its spelling says nothing: what it is must be gathered from what stands around all of its occurrences. The answers
come from `ast`. Strings, numbers, ends of lines and indentation are a mark each; comments are left out.
"""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import random
import tokenize
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from training.tasks.base import Task, TaskData, texts_of
from training.tasks.stdlib_corpus import GENERATED_PACKAGES, read_packages, stdlib_root

#: What a name can be; a label id is a position here. Those behind "builtin" are bound at the module's top level.
KINDS = [
    "parameter",
    "local",
    "attribute",
    "method",
    "keyword argument",
    "builtin",
    "module",
    "imported",
    "function",
    "class",
    "global",
]
#: The label of words that are not asked for, as in `torch.nn.functional.cross_entropy`.
NO_LABEL = -100
#: Words of a passage. Nearly each is one token of a tokenizer that is trained on them.
WORDS = 62
#: Words that names are replaced by, as many as a passage could need. Letters alone: a tokenizer would split off digits.
STAND_INS = tuple(first + second for first in "bcdgklmnprstvwxyz" for second in "aeou")
#: One file in so many is for validation.
VALIDATION_SHARE = 8
#: Passages to train on and for validation; files are read, in random order, until there are as many.
TRAIN_PASSAGES, VALIDATION_PASSAGES = 8000, 1000

_MARKS = {
    tokenize.NEWLINE: "¶",
    tokenize.INDENT: "→",
    tokenize.DEDENT: "←",
    tokenize.STRING: '"',
    tokenize.NUMBER: "0",
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class NamesTask(Task):
    """Passages of the running Python's own library, or of a folder of packages given as ``data_dir``."""

    name = "names"
    recipe = "names"
    kind = "token"
    metric = "accuracy"

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
                splits[held_out].extend(passages(labelled_words(source), rng))
        if not all(splits):
            raise ValueError(
                f"stdlib root: {root} has too little source for two splits: {len(sources)} files, "
                f"{len(splits[0])} passages of {WORDS} words to train on and {len(splits[1])} for validation"
            )
        for found in splits:
            rng.shuffle(found)
        train, validation = (
            Dataset.from_dict({"tokens": [words for words, _ in found], "tags": [tags for _, tags in found]})
            for found in (splits[0][:TRAIN_PASSAGES], splits[1][:VALIDATION_PASSAGES])
        )
        return TaskData(train, {"validation": validation}, KINDS, texts_of(train))


def passages(words: list[tuple[str, int]], rng: random.Random) -> Iterator[tuple[list[str], list[int]]]:
    """Cuts a file's words into passages of `WORDS`, and names get their stand-ins; a remainder is dropped, and so is
    a passage without a label.

    Args:
        words: see `labelled_words`.
    """
    for start in range(0, len(words) - WORDS + 1, WORDS):
        part = words[start : start + WORDS]
        names = list(dict.fromkeys(word for word, _ in part if is_name(word)))
        stand_ins = dict(zip(names, rng.sample(STAND_INS, len(names)), strict=True))
        tags = [tag for _, tag in part]
        if any(tag != NO_LABEL for tag in tags):
            yield [stand_ins.get(word, word) for word, _ in part], tags


def is_name(word: str) -> bool:
    """Whether a word of Python's source is a name, which a keyword is not."""
    return word.isidentifier() and not keyword.iskeyword(word)


def labelled_words(source: str) -> list[tuple[str, int]]:
    """A module's words and marks, each with its kind or `NO_LABEL`; none if this Python cannot parse the module."""
    try:
        kinds = name_kinds(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return []
    words, inside = [], 0
    for token in tokens:
        # Python 3.12 and later take f-strings apart; as before, each is one string.
        part = tokenize.tok_name[token.type]
        if part.endswith("STRING_START"):
            inside += 1
        elif part.endswith("STRING_END"):
            inside -= 1
            if not inside:
                words.append((_MARKS[tokenize.STRING], NO_LABEL))
        elif inside:
            continue
        elif token.type in _MARKS:
            words.append((_MARKS[token.type], NO_LABEL))
        elif token.type == tokenize.OP:
            words.append((token.string, NO_LABEL))
        elif token.type == tokenize.NAME:
            words.append((token.string, kinds.get((*token.start, token.string), NO_LABEL)))
    return words


def name_kinds(source: str) -> dict[tuple[int, int, str], int]:
    """Places of `KINDS` by line, column (both as `tokenize` counts them) and name, of every name that is used.

    Names at their definition (behind def, class, import) have none.

    Raises:
        SyntaxError, ValueError: as `ast.parse`.
    """
    tree = ast.parse(source)
    # Lines as the parser counts them, which knows no \x0c or \u2028; its columns are bytes.
    lines = [line.encode() for line in io.StringIO(source)]
    found = {}

    def note(line: int, column: int, name: str, kind: str) -> None:
        found[line, len(lines[line - 1][:column].decode()), name] = KINDS.index(kind)

    top = dict.fromkeys(_bound(tree), "global")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            top |= {(alias.asname or alias.name).split(".")[0]: "module" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            top |= {alias.asname or alias.name: "imported" for alias in node.names}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            top[node.name] = "function"
        elif isinstance(node, ast.ClassDef):
            top[node.name] = "class"

    def visit(node: ast.AST, scope: dict[str, str], called: bool = False) -> None:
        if isinstance(node, _FUNCTIONS):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            parameters = [argument for argument in every if argument is not None]
            for argument in parameters:
                note(argument.lineno, argument.col_offset, argument.arg, "parameter")
            local = dict.fromkeys(_bound(node), "local")
            scope = {**scope, **local, **{argument.arg: "parameter" for argument in parameters}}
        elif isinstance(node, ast.Name):
            kind = scope.get(node.id) or top.get(node.id) or ("builtin" if hasattr(builtins, node.id) else "global")
            note(node.lineno, node.col_offset, node.id, kind)
        elif isinstance(node, ast.Attribute):
            start = node.end_col_offset - len(node.attr.encode())
            note(node.end_lineno, start, node.attr, "method" if called else "attribute")
        elif isinstance(node, ast.keyword) and node.arg:
            note(node.lineno, node.col_offset, node.arg, "keyword argument")
        for child in ast.iter_child_nodes(node):
            visit(child, scope, called=isinstance(node, ast.Call) and child is node.func)

    visit(tree, {})
    return found


def _bound(scope: ast.AST) -> set[str]:
    """Names that are assigned in a function, or a module, and not in those within it."""
    names, declared, waiting = set(), set(), list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            declared.update(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name:
            names.add(node.name)
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))
    return names - declared
