"""Folders of sentence-transformers: ``modules.json`` and what it names, beside the files of the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from transformers.utils import cached_file

from fastmux.embedding.config import ACTIVATIONS, POOLINGS, DenseLayer, EmbeddingConfig, Normalize, Step
from fastmux.files import read_json, write_json

MODULES, MODEL_CONFIG = "modules.json", "config_sentence_transformers.json"
TRANSFORMER_CONFIG = "sentence_bert_config.json"
#: What earlier versions of sentence-transformers called that file.
_FORMER = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
#: Names of classes of sentence-transformers 2 to 6. What they call a module is where it lies in their package.
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
#: Earlier names of poolings: a switch each.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Where the modules are in what `write_embedding_config` writes, and their classes in every version from 2 on.
_POOLING, _TYPES = "1_Pooling", "sentence_transformers.models."


@dataclass(frozen=True)
class EmbeddingFolder:
    """What `read_embedding_config` found.

    Args:
        config: How the encoder's states become a vector.
        encoder: The folder of the encoder and its tokenizer inside the model's; empty if it is the same.
        dense: The folders of the dense layers, in order.
    """

    config: EmbeddingConfig
    encoder: str = ""
    dense: tuple[str, ...] = ()


def read_embedding_config(name: str | PathLike, pooling: str | None = None, what: str = "model") -> EmbeddingFolder:
    """Read what a folder, or a model of the hub, says of how it embeds.

    Args:
        pooling: The pooling of an encoder that says none, as its folder has no ``modules.json``.
        what: What the model is, for errors.

    Raises:
        ValueError: It says no pooling and none is given, or another one is; it has a module, a pooling or an activation
            that is not known here (the message names it); or a file is damaged.

    Example:
        >>> import tempfile
        >>> from fastmux.embedding.config import EmbeddingConfig, Normalize
        >>> from fastmux.embedding.folder import read_embedding_config, write_embedding_config
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = write_embedding_config(EmbeddingConfig("cls", steps=(Normalize(),)), folder, width=384)
        ...     read_embedding_config(folder).config.pooling
        'cls'
    """
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}")
    try:
        return _read(name, pooling, what)
    except _Unusable as error:
        raise ValueError(f"{what} {str(name)!r} {error}") from error


def says_pooling(name: str | PathLike) -> bool:
    """Whether a folder, or a model of the hub, is one of sentence-transformers."""
    return _json(name, MODULES) is not None


def is_cross_encoder(name: str | PathLike) -> bool:
    """Whether a folder of sentence-transformers, or a model of the hub, gives a score to pairs, and no vectors."""
    found = _json(name, MODEL_CONFIG)
    return isinstance(found, dict) and found.get("model_type") == "CrossEncoder"


class _Unusable(ValueError):
    """A reason why a folder cannot be used; it follows the folder's name."""


def _read(name: str | PathLike, pooling: str | None, what: str) -> EmbeddingFolder:
    modules = _json(name, MODULES)
    if modules is None:
        if pooling is None:
            raise _Unusable(
                f"says no pooling, as it has no {MODULES} of sentence-transformers; say with pooling, one of "
                f"{', '.join(map(repr, POOLINGS))}, how its states become one vector"
            )
        return EmbeddingFolder(EmbeddingConfig(pooling, **_of_model(name), **_of_transformer(name, "")))
    if not isinstance(modules, list) or not all(isinstance(one, Mapping) and "type" in one for one in modules):
        raise _Unusable(f"has a {MODULES} that lists no modules")
    kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
    paths = [str(one.get("path") or "") for one in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        unknown = next((kind for kind in kinds if kind not in _KNOWN), None)
        said = " and ".join(kinds[:2]) or "no module" if unknown is None else f"a {unknown}"
        raise _Unusable(f"has {said} in its {MODULES}, expected a Transformer, then a Pooling")
    found, include_prompt = _pooling(_json(name, paths[1], "config.json") or {})
    if pooling not in (None, found):
        raise ValueError(f"pooling is {pooling!r}, but {what} {str(name)!r} says {found!r}; leave it out")
    steps: list[Step] = []
    dense = []
    for kind, path in zip(kinds[2:], paths[2:], strict=True):
        if kind == "Normalize":
            steps.append(Normalize())
        elif kind == "Dense":
            steps.append(_dense(_json(name, path, "config.json") or {}))
            dense.append(path)
        else:
            raise _Unusable(f"has a {kind} behind its pooling, expected Dense and Normalize alone")
    config = EmbeddingConfig(
        found,
        include_prompt=include_prompt,
        steps=tuple(steps),
        **_of_transformer(name, paths[0]),
        **_of_model(name),
    )
    return EmbeddingFolder(config, paths[0], tuple(dense))


def _pooling(stored: Mapping[str, Any]) -> tuple[str, bool]:
    """The pooling, and whether the prompt's tokens are pooled."""
    modes = stored.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _SWITCHES.items() if stored.get(switch)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise _Unusable(f"pools by {' and '.join(map(str, modes))}, expected one of {', '.join(POOLINGS)} alone")
    return modes[0], bool(stored.get("include_prompt", True))


def _dense(stored: Mapping[str, Any]) -> DenseLayer:
    places = {stored.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if stored.get("use_residual") or places != {"sentence_embedding"}:
        raise _Unusable("has a Dense layer with a residual, or of something else than the pooled vector")
    activation = str(stored.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise _Unusable(f"has a Dense layer with the activation {activation}, expected {', '.join(ACTIVATIONS)}")
    try:
        return DenseLayer(
            int(stored["in_features"]), int(stored["out_features"]), bool(stored.get("bias", True)), activation
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _Unusable(f"has a Dense layer without {error}") from error


def _of_transformer(name: str | PathLike, path: str) -> dict[str, Any]:
    """What the config of the Transformer module says."""
    stored: dict[str, Any] = {}
    for file in (TRANSFORMER_CONFIG, *_FORMER):
        if stored := _json(name, path, file) or {}:
            break
    if (task := stored.get("transformer_task", "feature-extraction")) != "feature-extraction":
        raise _Unusable(f"is for the task {task!r}, expected 'feature-extraction'")
    text = (stored.get("modality_config") or {}).get("text", {"method": "forward"})
    if text["method"] != "forward" or text.get("method_output_name", "last_hidden_state") != "last_hidden_state":
        raise _Unusable(f"reads {text.get('method_output_name')!r} of its encoder, expected 'last_hidden_state'")
    if stored.get("processing_kwargs"):
        raise _Unusable("has processing_kwargs for its tokenizer, which are not known here")
    of_tokenizer = stored.get("processor_kwargs") or stored.get("tokenizer_args") or {}
    length = of_tokenizer.get("model_max_length", stored.get("max_seq_length"))
    return {"max_seq_length": length, "do_lower_case": bool(stored.get("do_lower_case", False))}


def _of_model(name: str | PathLike) -> dict[str, Any]:
    """What the config of the whole model says."""
    stored = _json(name, MODEL_CONFIG) or {}
    prompts = {key: value or "" for key, value in (stored.get("prompts") or {}).items()}
    if (default := stored.get("default_prompt_name")) is not None and default not in prompts:
        raise _Unusable(f"has the default prompt {default!r}, but the prompts {', '.join(map(repr, prompts))}")
    return {
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": stored.get("similarity_fn_name"),
        "truncate_dim": stored.get("truncate_dim"),
    }


def _json(name: str | PathLike, *parts: str) -> Any:
    """The content of a JSON file of a model; None if it has no such file."""
    file = "/".join(part for part in parts if part)
    try:
        path = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
    except (OSError, HFValidationError):  # no such model: loading the encoder will say so
        return None
    if path is None:
        return None
    try:
        return read_json(Path(path))
    except ValueError as error:
        raise _Unusable(f"has a {file} that is not JSON: {error}") from error


def write_embedding_config(config: EmbeddingConfig, folder: str | PathLike, width: int) -> EmbeddingFolder:
    """Write what sentence-transformers needs beside an encoder and its tokenizer, in the form of its version 2, which
    later ones read; `fastmux.embedding.model.EmbeddingModel.save_pretrained` writes those and the dense layers as well.

    Args:
        width: d, the width of the encoder's states.

    Returns:
        What `read_embedding_config` will find there.
    """
    folder = Path(folder)
    modules, dense = [("Transformer", ""), ("Pooling", _POOLING)], []
    for number, step in enumerate(config.steps, len(modules)):
        kind = "Dense" if isinstance(step, DenseLayer) else "Normalize"
        modules.append((kind, f"{number}_{kind}"))
        if isinstance(step, DenseLayer):
            dense.append(modules[-1][1])
            package = "linear" if step.activation == "Identity" else "activation"
            stored: dict[str, Any] = {
                "in_features": step.in_features,
                "out_features": step.out_features,
                "bias": step.bias,
            }
            stored["activation_function"] = f"torch.nn.modules.{package}.{step.activation}"
            write_json(folder / dense[-1] / "config.json", stored)
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": _TYPES + kind}
        for number, (kind, path) in enumerate(modules)
    ]
    # A version that does not know a switch refuses the file.
    pooling: dict[str, Any] = {"word_embedding_dimension": width}
    pooling |= {switch: mode == config.pooling for switch, mode in _SWITCHES.items() if mode in ("cls", "max", "mean")}
    pooling |= {switch: True for switch, mode in _SWITCHES.items() if mode == config.pooling}
    pooling |= {} if config.include_prompt else {"include_prompt": False}
    write_json(folder / MODULES, listed)
    write_json(folder / _POOLING / "config.json", pooling)
    of_transformer = {"max_seq_length": config.max_seq_length, "do_lower_case": config.do_lower_case}
    write_json(folder / TRANSFORMER_CONFIG, of_transformer)
    of_model: dict[str, Any] = {"prompts": config.prompts, "default_prompt_name": config.default_prompt_name}
    of_model["similarity_fn_name"] = config.similarity_fn_name
    of_model |= {} if config.truncate_dim is None else {"truncate_dim": config.truncate_dim}
    write_json(folder / MODEL_CONFIG, of_model)
    return EmbeddingFolder(config, "", tuple(dense))
