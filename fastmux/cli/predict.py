"""``fastmux predict``: label the rows of a file."""

from __future__ import annotations

import argparse

import fastmux
from fastmux.cli.parser import Parser
from fastmux.cli.rows import add_rows, run_rows
from fastmux.cli.settings import MODEL_HELP, add_settings
from fastmux.labelling.settings import LabellingSettings

DESCRIPTION = """\
Label the rows of a file with a classifier of sequences or tokens: a T-MUX, a joined model or a plain encoder. The
output has the same rows in the same order, with a label and its score (with tags, if the model labels tokens). Rows
that cannot be labelled stay in their place without a label; OUT.rejects.jsonl lists them with their line and the
reason.

If the command is killed, start it again: it goes on where it stopped, and the output has the same bytes."""

EPILOG = """\
examples:
  fastmux predict my-model reviews.txt --output labels.jsonl
  fastmux predict my-model reviews.csv.gz --column body --output labels.parquet --truncation
  fastmux predict my-tagger news.jsonl --column tokens --output tags.jsonl
  fastmux predict my-fast-model rows.tsv --fallback my-model --output labels.tsv
  fastmux predict my-model reviews.txt --runtime onnxruntime --precision int8 --output labels.jsonl
  fastmux predict my-model reviews.txt --runtime auto --output labels.jsonl    # the fastest on this machine
  fastmux predict my-model stanfordnlp/sst2 --split validation --prefix predicted_ --output labels.jsonl
  torchrun --nproc_per_node 4 --no-python fastmux predict my-model rows.jsonl --output labels.jsonl"""


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: the fields of `fastmux.LabellingSettings`, and names of files."""
    parser = commands.add_parser(
        "predict",
        help="label the rows of a file",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_rows(parser, "A new file that ends in .jsonl, .csv, .tsv or .parquet.")
    parser.add_argument(
        "--fallback",
        metavar="MODEL",
        help="The model for rows below --min_confidence, usually the original; see fastmux calibrate.",
    )
    add_settings(parser, LabellingSettings)
    return parser


def run(options: argparse.Namespace) -> None:
    """Label the rows and print a summary. A process that torchrun started labels its share."""
    run_rows("predict", fastmux.predict, options, LabellingSettings, fallback=options.fallback)
