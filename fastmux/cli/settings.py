"""Settings as arguments: a field of a dataclass is an argument of the same name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

#: Of settings that several commands have.
HELP = {
    "truncation": "cut rows that are too long; otherwise they are rejected",
    "max_length": "tokens of a row (default: what the model has room for)",
    "copies": "slots of a multiplexed model that each row takes (default: 1)",
    "batch_tokens": "positions of a pass of the encoder, padding counted (default: 1024 on a CPU, 65536 on a GPU)",
    "dtype": "of the weights (default: float32 on a CPU, bfloat16 on a GPU)",
    "device": "as for torch (default: the GPU if there is one)",
    "torch_compile": "compile the model: minutes before the first row",
}
MODEL_HELP = "name on the Hugging Face hub, or folder, with its tokenizer"


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type,
    help_texts: Mapping[str, str],
    types: Mapping[str, Callable],
) -> None:
    """An argument for every field of a dataclass; those that are False by default are switched on."""
    for setting in fields(settings):
        name, text = f"--{setting.name}", help_texts[setting.name]
        if setting.default is False:
            parser.add_argument(name, action="store_true", help=text)
        else:
            parser.add_argument(
                name,
                type=types.get(setting.name, str),
                default=setting.default,
                metavar=getattr(types.get(setting.name), "metavar", None),
                help=text,
            )


def given(options: argparse.Namespace, settings: type) -> Any:
    """The settings that were given."""
    return settings(**{setting.name: getattr(options, setting.name) for setting in fields(settings)})
