"""Reading stored models. Damaged and unsafe files are refused before any work; doubtful values are warned of."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

#: Arguments of `from_pretrained` that tell where on the hub a model is, and who asks for it.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
#: Arguments of `from_pretrained` that tell which of the model's files to read.
FILE_OPTIONS = ("use_safetensors", "variant")


def read_config(name: str | os.PathLike, **hub) -> dict:
    """Reads the stored config of a model, as it is.

    Raises:
        OSError: There is none.
        ValueError: It is not a JSON object.
    """
    path = cached_file(name, CONFIG_NAME, **hub)
    if path is None:
        raise OSError(f"{str(name)!r} has no {CONFIG_NAME}")
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # the encoding or the syntax is wrong
        raise ValueError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds a JSON {type(stored).__name__}, expected an object with the fields of a config")
    return stored


def weight_files(
    name: str | os.PathLike, use_safetensors: bool | None = None, variant: str | None = None, **hub
) -> list[Path]:
    """The files that `from_pretrained` reads the weights from; empty where it would find none."""

    def stored(file: str) -> str | None:
        if variant is not None:
            stem, _, suffix = file.rpartition(".")
            file = f"{stem}.{variant}.{suffix}"
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)

    safe, pickled = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
    kinds = {None: (safe, pickled), True: (safe,), False: (pickled,)}[use_safetensors]
    for single, index in kinds:
        if (path := stored(single)) is not None:
            return [Path(path)]
        if (path := stored(index)) is not None:
            try:
                return [Path(shard) for shard in get_checkpoint_shard_files(name, path, **hub)[0]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is not the index of a checkpoint: {error!r}") from error
    return []


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    # transformers has no exception of its own for a damaged file, and every library that reads one has several.
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"the weights in {str(file)!r} are truncated, damaged or unsafe: {error}") from error


def load_file(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file, or of a file of `torch.save` that holds nothing but tensors.

    Raises:
        ValueError: The file is damaged, or holds anything but tensors by name.
    """
    with _readable(file):
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        # Only an archive can be mapped, and the format before torch 1.6 is none.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"{file} holds something other than a state dict of tensors")
    return dict(tensors)


def stored_dtypes(files: list[Path]) -> dict[str, str]:
    """The name of every tensor in the files -> its dtype. Of safetensors files only the headers are read.

    Raises:
        ValueError: A file is missing, is damaged or holds anything but tensors.
    """
    dtypes: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with _readable(file), safe_open(file, "pt") as opened:
                dtypes |= {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        else:
            dtypes |= dtypes_of(load_file(file))
    return dtypes


def dtypes_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {key: str(t.dtype).removeprefix("torch.") for key, t in tensors.items()}


def check_loaded(name: str, model: nn.Module, dtypes: dict[str, str]) -> None:
    """Compares a loaded model with the names and dtypes that were stored.

    Raises:
        ValueError: A tensor was stored as an integer and is loaded as floating point, or the other way round.
            Conversion would change its meaning.

    Warns:
        UserWarning: Weights are NaN or infinite.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    # Tied tensors are listed under each of their names.
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= model.named_buffers(remove_duplicate=False)
    for key, dtype in dtypes.items():
        loaded = next((tensors[k] for k in (key, key.removeprefix(prefix), prefix + key) if k in tensors), None)
        is_float = dtype.lower().startswith(("f", "bf"))
        if loaded is not None and loaded.is_floating_point() != is_float:
            kind = "a floating point" if loaded.is_floating_point() else "an integer"
            raise ValueError(f"the checkpoint {name!r} has {key} in dtype {dtype}, expected {kind} dtype")
    bad = _non_finite(tensors)
    if bad:
        warnings.warn(
            f"the checkpoint {name!r} has NaN or infinite values in {len(bad)} tensors, e.g. {bad[:3]}; what the model "
            "computes with them is NaN",
            stacklevel=4,
        )


@torch.no_grad()
def _non_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of tensors that hold NaN or an infinity. A tensor with several names is listed under the first."""
    once = {id(t): (name, t) for name, t in reversed(tensors.items())}
    doubtful = [
        name
        for name, t in reversed(once.values())
        # The values of a subclass of Tensor are known to its library alone.
        if type(t) in (Tensor, nn.Parameter) and t.is_floating_point() and t.element_size() > 1 and not t.is_meta
        # The sum takes one pass over memory. It is not finite if an element is not, but may also overflow.
        if not t.sum().isfinite()
    ]
    return [name for name in doubtful if not tensors[name].isfinite().all()]


#: The name of a file of weights, sharded or not, or of an index of shards, of any variant.
_WEIGHT_FILE = re.compile(
    r"(?P<name>.+?)(?:-\d{5}-of-\d{5})?\.safetensors|(?P<indexed>.+?)\.safetensors\.index(?P<variant>\..+)?\.json"
)


def former_weights(written: set[str], former: set[str]) -> set[str]:
    """The former files that hold the same weights as the written files, in other shards."""

    def name(file: str) -> str | None:
        match = _WEIGHT_FILE.fullmatch(file)
        return None if match is None else match["name"] or match["indexed"] + (match["variant"] or "")

    names = {name(file) for file in written} - {None}
    return {file for file in former if name(file) in names}
