"""What benchmarks of whole models run: BERT of some size with random weights, multiplexed or not, and real text.

Random weights cost what trained ones do.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import fastmux
from bench.machine import default_device
from fastmux.lines import read_lines
from fastmux.training.programs import options_of, positive

PRESETS = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "small": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
    # as in training/recipes/stdlib.yaml
    "embedded": {"num_hidden_layers": 2, "hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 384},
}
#: (plain model, multiplexed model, labels), as of SST-2 and of CoNLL-2003
TASKS = {
    "sequence": (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification, 2),
    "token": (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification, 9),
}
DEMULTIPLEXERS = ("index", "key", "unbind")


def parser(
    description: str,
    preset: str,
    vocab_size: int = 30522,
    num_instances: Sequence[int] = (),
    demultiplexers: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """A parser of the encoder's sizes, the device, the seed and the file for results; where defaults for them are
    given, also of T-MUX's numbers of instances and demultiplexers."""
    made = options_of(description)
    group = made.add_argument_group("encoder (BERT, random weights)")
    group.add_argument("--preset", choices=PRESETS, default=preset, help="A set of sizes.")
    for name in PRESETS["base"]:
        group.add_argument(f"--{name}", type=positive, help="It replaces the preset's.")
    group.add_argument("--vocab_size", type=positive, default=vocab_size, help="The number of words.")
    made.add_argument("--device", type=torch.device, default=default_device(), help="What runs the models.")
    made.add_argument("--seed", type=int, default=0, help="The seed of weights and tokens.")
    if num_instances:
        help = "T-MUXes of so many instances are measured."
        made.add_argument("--num_instances", nargs="+", type=positive, default=num_instances, metavar="N", help=help)
    if demultiplexers:
        help = "T-MUXes with these demultiplexers are measured."
        made.add_argument("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=demultiplexers, help=help)
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


def model(
    task: str, config: BertConfig, demultiplexer: str | None = None, n: int = 1, labels: int | None = None, **options
) -> PreTrainedModel:
    """A model of a task: the plain encoder, or with a demultiplexer a T-MUX of N instances.

    Each is made from a config of its own, and a T-MUX not around a plain encoder, so that no two share state.
    """
    plain, multiplexed, usual = TASKS[task]
    config = copy.deepcopy(config)
    config.num_labels = labels or usual
    if demultiplexer is None:
        return plain.from_config(config)
    return multiplexed.from_backbone(config, n, demultiplexer=demultiplexer, num_labels=config.num_labels, **options)


def texts_of(task: str, folder: Path) -> list[str]:
    """The rows of SST-2, or the sentences of CoNLL-2003 with single spaces between words."""
    if task == "sequence":
        return [line.split("\t")[0] for line in itertools.islice(read_lines(folder / "sst2" / "train.tsv"), 1, None)]
    # The readers of training/ need `datasets`, which a machine that is lent may lack.
    lines = read_lines(folder / "conll2003" / "train.txt")
    sentences = (list(rows) for filled, rows in itertools.groupby(lines, bool) if filled)
    return [" ".join(line.split(" ")[0] for line in rows) for rows in sentences]


def some(texts: Sequence[str], rows: int) -> list[str]:
    """So many rows, spread evenly over all texts; texts are repeated if there are too few."""
    if rows >= len(texts):
        return list(itertools.islice(itertools.cycle(texts), rows))
    return [texts[i] for i in np.linspace(0, len(texts) - 1, rows).round().astype(int)]


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """BERT's tokenizer, with the vocabulary in the folder ``tokenizer``."""
    vocabulary = next(iter(sorted((folder / "tokenizer").glob("*.txt"))))
    return BertTokenizerFast(
        vocab={entry: index for index, entry in enumerate(read_lines(vocabulary))}, model_max_length=512
    )
