"""What an exported folder says of the model in it: ``runtime.json``, beside the file that a runtime loads."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fastmux.files import read_json, write_json
from fastmux.passes.plan import Layout

RECORD, MODEL, TOKENIZER = "runtime.json", "model.onnx", "tokenizer.json"
#: Raised when a folder of an earlier fastmux can no longer be read.
VERSION = 3
PRECISIONS = ("float32", "int8")
#: The runtimes that run such a folder.
EXPORTED = ("onnxruntime", "ctranslate2")


@dataclass(frozen=True)
class RuntimeRecord:
    """A model as a runtime needs to know it, without its code.

    Args:
        runtime: One of `EXPORTED`.
        file: The name of the file with the model.
        files: The SHA-256 of that file, of the tokenizer's and of others that the runtime reads, by name.
        precision: One of `PRECISIONS`.
        labels: The names of the labels, by number.
        per_token: It labels tokens, not rows.
        problem_type: As in a Hugging Face config.
        layout: How it lays out groups that hold N different rows.
        num_instances: N, of rows or of positions; 1 of a plain encoder.
        weights: As of a `fastmux.passes.runtimes.Runtime`.
        pad_token_id: What fills rows up.
        max_length: The tokens of a row, at most, where nothing is said.
        room: The most that can be said.
        takes_types: It takes ``token_type_ids``.
        types_alone: Of a text that is no pair some of them are not 0.
        refuses_words: Why the tokenizer takes no lists of words; None if it does.
        made_from: The class and the digest of the model that was exported, by name.
        side: The side on which rows are cut: "right" or "left".
        embedding: Of a model that embeds: ``size``, D; ``prompt``, which it was exported for; and ``config``, the
            fields of its config but for layers. None of one that labels.
    """

    runtime: str
    file: str
    files: dict[str, str]
    precision: str
    labels: tuple[str, ...]
    per_token: bool
    problem_type: str
    layout: Layout
    num_instances: int
    weights: int
    pad_token_id: int
    max_length: int
    room: int
    takes_types: bool
    types_alone: bool
    refuses_words: str | None
    made_from: dict[str, str]
    side: str = "right"
    embedding: dict[str, Any] | None = None

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        write_json(folder / RECORD, {"version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> RuntimeRecord:
        """Read it from a folder, and look at no other file.

        Raises:
            ValueError: It is of another version, or damaged.
        """
        try:
            stored: dict[str, Any] = read_json(folder / RECORD)
        except (OSError, ValueError) as error:
            raise ValueError(f"{RECORD}, which fastmux export writes, cannot be read: {error}") from error
        if not isinstance(stored, dict) or stored.pop("version", None) != VERSION:
            raise ValueError("it was exported by another version of fastmux; export the model again")
        if stored.get("runtime", EXPORTED[0]) not in EXPORTED:
            raise ValueError(f"{RECORD} has runtime {stored['runtime']!r}, expected {' or '.join(EXPORTED)}")
        try:
            layout, labels = Layout(**stored.pop("layout")), tuple(stored.pop("labels"))
            return cls(layout=layout, labels=labels, **stored)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{RECORD} is not as it was exported: {error}; export the model again") from error

    @classmethod
    def load(cls, folder: Path) -> RuntimeRecord:
        """Read it from a folder, whose files it describes.

        Raises:
            ValueError: The folder is of another version, lacks a file, or holds another file than was exported.
        """
        record = cls.read(folder)
        for name, expected in record.files.items():
            if not (folder / name).is_file():
                raise ValueError(f"{name}, which {RECORD} names, is not there; export the model again")
            if digest(folder / name) != expected:
                raise ValueError(f"{name} is not as it was exported: its SHA-256 is another; export the model again")
        return record


def is_exported(folder: str | PathLike) -> bool:
    """Whether a folder holds an exported model, perhaps a damaged one."""
    return any((Path(folder) / name).is_file() for name in (RECORD, MODEL))


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**20):
            found.update(block)
    return found.hexdigest()
