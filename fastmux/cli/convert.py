"""``fastmux convert``: make a trained model faster, from text without labels."""

from __future__ import annotations

import argparse

import fastmux
from fastmux.cli.parser import Parser, integer
from fastmux.cli.settings import MODEL_HELP, add_settings, add_text, given
from fastmux.distillation.settings import ConversionSettings

DESCRIPTION = """\
Make a faster copy of a trained encoder, of one with a sequence or token classification head, or of a model of
sentence-transformers. The deeper layers of the copy process N states in one pass; it learns the original's outputs. It
needs text of the kind that the model is used on, without labels.

At the end it measures the agreement with the original and the speed of both, on rows that were kept apart, and says
whether a plain copy of that speed, with fewer or narrower layers, is likely to keep more. After an interruption, start
it again with the same arguments: it goes on from its last checkpoint."""

EPILOG = """\
examples:
  fastmux convert my-model --text reviews.txt --num_instances 2 --output_dir my-model-2x
  fastmux convert my-model --text reviews.csv --column body --num_instances 2 --output_dir out
  fastmux convert my-model --text a.txt b.txt.gz --num_instances 4 --row_layers 1 --joined_layers 2 4 --output_dir out
  fastmux convert my-model --text pairs.tsv --column question --pair_column answer --output_dir out
  fastmux convert my-model --text reviews.txt --num_instances 1 --joined_layers 2 --output_dir out   # no joining
  fastmux convert my-model --text reviews.txt --num_instances 2 --join pooled --ffn_width 0.5 --output_dir out
  fastmux convert my-embedder --text texts.txt --num_instances 1 --joined_layers 2 --output_dir out   # its vectors"""


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: the fields of `fastmux.ConversionSettings`, and names of files."""
    parser = commands.add_parser(
        "convert",
        help="make a trained model faster, from text without labels",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_text(parser, "Files of text of the kind that the model is used on", required=True)
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="A new folder for the converted model.")
    parser.add_argument(
        "--max_steps", type=integer(1), help="How many optimiser steps, in place of --num_train_epochs."
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="Train under bfloat16 autocast, which is quicker on most GPUs and some CPUs.",
    )
    parser.add_argument(
        "--no_estimate",
        action="store_true",
        help="Leave out plain copies of about the same speed, which are trained for a tenth of the steps beside a copy "
        "that joins, to say what they keep; they take up to a fifth more time.",
    )
    parser.add_argument("--device", help="cpu, or cuda for the first GPU. By default the GPU, if there is one.")
    add_settings(parser, ConversionSettings)
    return parser


def run(options: argparse.Namespace) -> None:
    """Convert the model and print a summary."""
    settings = given(options, ConversionSettings)
    trainer = {"max_steps": options.max_steps} if options.max_steps else {}
    trainer |= {"bf16": True} if options.bf16 else {}
    trainer |= _placed(options.device)
    found = fastmux.convert(
        options.model,
        fastmux.read_texts(options.text, options.column, options.pair_column, options.input_format),
        options.output_dir,
        settings=settings,
        estimate=not options.no_estimate,
        **trainer,
    )
    rates = found.rows_per_second
    lines = found.agreement.figures()
    lines["rows a second"] = (
        f"{rates['converted']:,.0f}: {found.speed_up:.2f} x the original through `fastmux predict` "
        f"({rates['original']:,.0f}), {found.speed_up_forward:.2f} x as Hugging Face runs it ({rates['forward']:,.0f})"
    )
    print(f"on {found.agreement.rows:,} rows that were kept apart, beside the original:")
    for name, value in lines.items():
        print(f"{name:<{max(map(len, lines))}}  {value}")
    for sentence in (found.sentence, *found.advice):
        print(sentence)
    if found.cut_rows:
        print(f"{found.cut_rows:,} rows were cut at --max_length {options.max_length}")
    print(f"written: {options.output_dir}")


def _placed(device: str | None) -> dict[str, bool]:
    """The trainer's arguments for a device; it always takes the first one that it sees."""
    from fastmux.labelling.devices import checked_device

    if device is None:
        return {}
    found = checked_device(device)
    if found.index:
        raise ValueError(
            f"device is {device!r}, but training takes the first one: give {found.type!r}, and set "
            f"CUDA_VISIBLE_DEVICES={found.index} to make this one the first"
        )
    return {"use_cpu": True} if found.type == "cpu" else {}
