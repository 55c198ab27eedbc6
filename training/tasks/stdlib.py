"""Which of the twelve largest packages of the standard library does a passage come from?

The text is real, and every Python installation carries it: the library's own source, comments and docstrings. The
packages are chosen when it is read, by bytes of text, so no Python version is assumed; for one installation the result
is always the same.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from fastmux.training.tasks.base import Task, TaskData

#: Folders that are no part of the library's own text: installed packages, test suites (larger than the rest of the
#: library together, and full of copies of it), compiled files.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib-dynload", "__pycache__"}
#: Packages that are generated and no hand-written text: code tables, and the language reference as string literals.
#: They are no classes; the language reference (prose, once its literals are read) serves the warm-up.
GENERATED_PACKAGES = {"encodings", "pydoc_data"}
#: Classes, and passages of one class for validation, at most.
PACKAGES, VALIDATION_PER_PACKAGE = 12, 150
#: So many words in a row that a training passage has, too, are a copy of it.
SHINGLE_WORDS = 12
#: Consecutive passages that go to the same split together, so that few validation passages have a training neighbour.
BLOCK_PASSAGES = 8

_WORD = re.compile(r"\w+|[^\w\s]")


class StdlibCorpus(NamedTuple):
    """Labelled passages and unlabelled text of one Python installation.

    Attributes:
        labels: The names of the packages, in alphabetical order; a label id is a position in it.
        train, validation: ``(passage, label id)``, without copies inside or across the splits.
        text: Every text that may be trained on without labels: the training passages, the library's other
            modules and the language reference. No validation passage is in it.
    """

    labels: list[str]
    train: list[tuple[str, int]]
    validation: list[tuple[str, int]]
    text: list[str]


def stdlib_root() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def words_of(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks, by which passages are measured and compared."""
    return _WORD.findall(text.lower())


def read_packages(root: Path) -> dict[str, list[str]]:
    """File texts by top-level package, files in path order; single-file modules come under the empty name.

    Raises:
        ValueError: ``root`` holds no Python source (some installations are zipped or frozen).
    """
    packages: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS.isdisjoint(parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                packages[parts[0] if len(parts) > 1 else ""].append(text)
    if not packages:
        raise ValueError(f"stdlib root: {root} holds no Python source (*.py); a plain installation has it there")
    return dict(packages)


def split_passages(text: str, words: int) -> list[str]:
    """Cuts a text into passages of whole lines, each of at most ``words`` words (a longer line stands alone).

    Blank lines go and so does indentation; a remainder shorter than half a passage is dropped.
    """
    passages, lines, count = [], [], 0
    for line in text.split("\n"):
        length = len(_WORD.findall(line))
        if length == 0:
            continue
        if lines and count + length > words:
            passages.append("\n".join(lines))
            lines, count = [], 0
        lines.append(line.strip())
        count += length
    if count >= words // 2:
        passages.append("\n".join(lines))
    return passages


def string_literals(source: str) -> str:
    """The long string literals of a module: pydoc's topics are the language reference, kept as data."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(value for value in strings if isinstance(value, str) and len(value) > 200)


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of ``SHINGLE_WORDS`` words of the text (the whole text where it is shorter)."""
    words = words_of(text)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def build_stdlib_corpus(
    *, words: int = 40, train_per_package: int = 1000, seed: int = 0, root: Path | None = None
) -> StdlibCorpus:
    """Reads the standard library and splits the passages of its largest packages.

    Blocks of `BLOCK_PASSAGES` consecutive passages are dealt to the splits, about one in seven to validation. Passages
    that occur before are dropped, and so is every validation passage that shares `SHINGLE_WORDS` words in a row with a
    training passage (licence headers, repeated boilerplate): what is left of validation was not seen.

    Args:
        words: The words of a passage, at most; at least `SHINGLE_WORDS`.
        train_per_package: The passages of one class to train on, at most, drawn at random.
        seed: It decides the split and the draw. The result depends on it and on the installation alone.
        root: The folder to read; by default the running interpreter's standard library.

    Raises:
        ValueError: There is no source, there are fewer than two packages, or too little text in them.
    """
    root = root or stdlib_root()
    packages = read_packages(root)
    size = {name: sum(map(len, texts)) for name, texts in packages.items() if name and name not in GENERATED_PACKAGES}
    labels = sorted(sorted(size, key=lambda name: (-size[name], name))[:PACKAGES])
    if len(labels) < 2:
        raise ValueError(f"stdlib root: {root} holds {len(labels)} package(s) with source, at least 2 are needed")

    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    train, validation = ({name: [] for name in labels} for _ in range(2))
    for name in labels:
        for text in packages[name]:
            passages = split_passages(text, words)
            for start in range(0, len(passages), BLOCK_PASSAGES):
                side = validation if rng.random() < 1 / 7 else train
                for passage in passages[start : start + BLOCK_PASSAGES]:
                    key = tuple(words_of(passage))
                    if key not in seen:
                        seen.add(key)
                        side[name].append(passage)

    in_train = _shingles_of(train)
    for name in labels:
        validation[name] = [passage for passage in validation[name] if in_train.isdisjoint(shingles(passage))]
    if empty := [name for name in labels if not train[name] or not validation[name]]:
        raise ValueError(f"stdlib root: {root} has too little text for a split in package(s) {', '.join(empty)}")

    held_out = _shingles_of(validation)
    hand_written = [name for name in sorted(packages) if name not in labels and name not in GENERATED_PACKAGES]
    others = [text for name in hand_written for text in packages[name]]
    others += [string_literals(text) for text in packages.get("pydoc_data", [])]
    unlabelled = [passage for name in labels for passage in train[name]]
    pieces = (passage for text in others for passage in split_passages(text, words))
    unlabelled += [passage for passage in pieces if held_out.isdisjoint(shingles(passage))]

    def draw(side: dict[str, list[str]], most: int) -> list[tuple[str, int]]:
        drawn = [rng.sample(side[name], min(most, len(side[name]))) for name in labels]
        rows = [(passage, label) for label, passages in enumerate(drawn) for passage in passages]
        rng.shuffle(rows)
        return rows

    return StdlibCorpus(labels, draw(train, train_per_package), draw(validation, VALIDATION_PER_PACKAGE), unlabelled)


def _shingles_of(side: dict[str, list[str]]) -> set[tuple[str, ...]]:
    return set().union(*(shingles(passage) for passages in side.values() for passage in passages))


class StdlibTask(Task):
    """Passages of the running Python's own library, or of a folder of packages given as ``data_dir``."""

    name = recipe = "stdlib"

    def load(self, data_dir: str | None) -> TaskData:
        corpus = build_stdlib_corpus(words=54, train_per_package=700, root=Path(data_dir) if data_dir else None)
        train, validation = (
            Dataset.from_dict(dict(zip(("text", "label"), zip(*rows, strict=True), strict=True)))
            for rows in (corpus.train, corpus.validation)
        )
        return TaskData(train, {"validation": validation}, corpus.labels, corpus.text)
