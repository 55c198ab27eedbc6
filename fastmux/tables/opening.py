"""Open an input: a file, a data set, a table or Python rows."""

from __future__ import annotations

import io
import mimetypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from fastmux.tables.kinds import INPUT_FORMATS
from fastmux.tables.line_source import LineSource
from fastmux.tables.python_rows import check_objects, table_of_columns, table_of_rows
from fastmux.tables.table_source import TableSource

if TYPE_CHECKING:
    import datasets

Source = LineSource | TableSource
#: Endings of file names that `mimetypes` does not know.
_FILES = {".arrow", ".avro", ".db", ".feather", ".log", ".npy", ".ods", ".orc", ".pickle", ".pkl", ".sqlite", ".zst"}


def open_source(
    given: Any, input_format: str | None = None, dataset_name: str | None = None, split: str | None = None
) -> Source:
    """Open the input of `fastmux.predict`.

    Args:
        given: A file; a folder that `datasets` saved; the name of a data set of the Hugging Face hub; a data set; a
            table of pyarrow, pandas, polars or of any library that exports Arrow; columns by name; or a list of texts
            or of rows.

    Raises:
        ValueError: The input does not exist, has another format, or lacks the split; the message says what there is.
    """
    if isinstance(given, (str, os.PathLike)):
        return _open_file(given, input_format, dataset_name, split)
    _check_no_hub(f"the input is a {type(given).__name__}", dataset_name, split)
    known = sys.modules.get("datasets")  # whoever gives a data set has imported it
    if known is not None and isinstance(given, known.Dataset):
        return TableSource.of_dataset(given)
    if known is not None and isinstance(given, (known.DatasetDict, known.IterableDatasetDict)):
        raise ValueError(f"the input is a data set of several splits, {list(given)}: give one of them")
    if isinstance(given, (io.IOBase, bytes, set, frozenset)):
        raise ValueError(f"the input is a {type(given).__name__}, expected texts, or rows by column, or a path")
    kind = type(given).__name__
    if is_table(given):
        try:
            # By default polars exports views, which all slices share.
            table = given.to_arrow() if type(given).__module__.startswith("polars") else pyarrow.table(given)
        except (pyarrow.ArrowException, TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"the {kind} cannot be read as a table: {' '.join(map(str, error.args))}") from error
        if type(given).__module__.startswith("pandas"):
            check_objects(given, table)
        return TableSource.of_table(table, f"the {kind}")
    if isinstance(given, Mapping):
        return TableSource.of_table(table_of_columns(given), f"the {kind}")
    if isinstance(given, (pyarrow.Array, pyarrow.ChunkedArray)):
        return TableSource.of_table(pyarrow.table({"text": given}), f"the {kind}")
    try:
        rows: Sequence = list(given)
    except TypeError as error:
        raise ValueError(f"the input is a {kind}, expected texts, or rows by column, or a path") from error
    return TableSource.of_table(table_of_rows(rows, f"the {kind}"), f"the {kind}")


def is_table(given: Any) -> bool:
    """Whether something is a table of pyarrow, pandas, polars or another library that exports Arrow."""
    exports = hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")
    # A single column exports Arrow too, but has no columns.
    named = hasattr(given, "columns") or hasattr(given, "schema")
    return (exports and named) or type(given).__name__ == "DataFrame"


def _open_file(
    given: str | os.PathLike, input_format: str | None, dataset_name: str | None, split: str | None
) -> Source:
    path, name = Path(given), str(given)
    unpacked = Path(path.name.removesuffix(".gz"))
    known = ", ".join(INPUT_FORMATS)
    if not name:
        raise ValueError(f"the input is '', expected the name of a file that ends in {known}")
    if path.is_file():
        _check_no_hub(f"{path} is a file", dataset_name, split)
        kind = input_format or INPUT_FORMATS.get(unpacked.suffix)
        if kind is None or (kind == "parquet" and path.suffix == ".gz"):
            raise ValueError(
                f"{path}: the name of an input must end in one of {known} (all but Parquet perhaps with .gz behind "
                "it), or give input_format"
            )
        return TableSource.of_parquet(path) if kind == "parquet" else LineSource(path, kind)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is no file that can be read twice; write its rows to a file that ends in {known}")
    if path.is_dir():
        return TableSource.of_dataset(_from_hub(given, dataset_name, split), name)
    if name == "-":
        raise ValueError(f"the input is '-', but rows are not read from a pipe: name a file that ends in {known}")
    if "://" in name:
        raise ValueError(f"the input is {name!r}, but nothing is read from an address: name a file on this machine")
    like_a_file = unpacked.suffix in {*INPUT_FORMATS, *_FILES} or mimetypes.guess_type(path.name) != (None, None)
    if like_a_file or path.is_absolute() or name.startswith((".", "~")) or not _may_be_on_the_hub(name):
        raise ValueError(f"{path} is not there")
    return TableSource.of_dataset(_from_hub(given, dataset_name, split), name)


def _check_no_hub(what: str, dataset_name: str | None, split: str | None) -> None:
    """Raise ValueError for options that choose a part of a data set of the hub, if the input is something else."""
    for option, value in (("dataset_name", dataset_name), ("split", split)):
        if value is not None:
            raise ValueError(f"{option} is {value!r}, but {what}: it chooses a part of a data set of the hub")


def _may_be_on_the_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _from_hub(name: str | os.PathLike, dataset_name: str | None, split: str | None) -> datasets.Dataset:
    import datasets

    try:
        if Path(name).is_dir() and any(Path(name).glob("dataset*.json")):  # written by save_to_disk
            found = datasets.load_from_disk(str(name))
            found = found[split] if split is not None and isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(str(name), dataset_name, split=split)
    except KeyError as error:
        raise ValueError(f"{str(name)!r} has no split {error}") from error
    except Exception as error:  # from the hub, the network, a loading script or a parser
        raise ValueError(
            f"{str(name)!r} is no file, and no data set that can be loaded: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) > 1:
            raise ValueError(f"{str(name)!r} has the splits {', '.join(found)}; say which with split")
        found = next(iter(found.values()))
    return found
