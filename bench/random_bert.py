"""BERT with random weights, of some size: the encoder that benchmarks of whole models run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import BertConfig

from bench.machine import default_device

PRESETS = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "small": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
    # as in training/recipes/stdlib.yaml
    "embedded": {"num_hidden_layers": 2, "hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 384},
}


def positive(text: str) -> int:
    """Reads an integer of at least 1 from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected an integer of at least 1")
    return value


def parser(description: str, preset: str, vocab_size: int) -> argparse.ArgumentParser:
    """A parser for the encoder's size, the device, the seed and the file for results."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = made.add_argument_group("encoder (BERT, random weights)")
    group.add_argument("--preset", choices=PRESETS, default=preset, help=f"a set of sizes (default: {preset})")
    for name in PRESETS["base"]:
        group.add_argument(f"--{name}", type=positive, help="replaces the preset's")
    group.add_argument("--vocab_size", type=positive, default=vocab_size, help=f"(default: {vocab_size})")
    made.add_argument("--device", type=torch.device, default=default_device(), help="(default: the GPU, else cpu)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--output", type=Path, help="JSON file (default: one in bench/results/<device>)")
    return made


def config(parser: argparse.ArgumentParser, args: argparse.Namespace, positions: int, **options) -> BertConfig:
    """The config that was asked for, with so many positions. Ends the program if sizes contradict one another."""
    sizes = {name: getattr(args, name) or size for name, size in PRESETS[args.preset].items()}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        parser.error(
            "--hidden_size {hidden_size} is no multiple of --num_attention_heads {num_attention_heads}".format(**sizes)
        )
    return BertConfig(vocab_size=args.vocab_size, max_position_embeddings=positions, **sizes, **options)


def sizes(encoder: BertConfig) -> dict[str, int]:
    """The sizes that are recorded beside figures."""
    return {name: getattr(encoder, name) for name in (*PRESETS["base"], "vocab_size")}
