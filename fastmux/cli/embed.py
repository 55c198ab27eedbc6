"""``fastmux embed``: a vector for each row of a file."""

from __future__ import annotations

import argparse

import fastmux
from fastmux.cli.parser import Parser
from fastmux.cli.rows import add_rows, run_rows
from fastmux.cli.settings import MODEL_HELP, add_settings
from fastmux.embedding.settings import EmbeddingSettings

DESCRIPTION = """\
Embed the rows of a file with a model of sentence-transformers, or with what fastmux made of one. The output has the
same rows in the same order, with a vector in the column embedding. Texts that are longer than the model takes are cut,
as sentence-transformers cuts them, and counted. Rows that have no text stay in their place without a vector;
OUT.rejects.jsonl lists them with their line and the reason.

If the command is killed, start it again: it goes on where it stopped, and the output has the same bytes."""

EPILOG = """\
examples:
  fastmux embed all-MiniLM-L6-v2 reviews.txt --output vectors.parquet
  fastmux embed my-model reviews.csv.gz --column body --output vectors.npy --stored_as float16
  fastmux embed my-model questions.jsonl --prompt_name query --output vectors.arrow
  fastmux embed my-model passages.jsonl --truncate_dim 256 --normalize --stored_as int8 --output vectors.parquet
  fastmux embed my-encoder reviews.txt --pooling mean --output vectors.jsonl
  fastmux embed my-model reviews.txt --runtime onnxruntime --precision int8 --output vectors.parquet
  torchrun --nproc_per_node 4 --no-python fastmux embed my-model rows.jsonl --output vectors.parquet"""


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: the fields of `fastmux.EmbeddingSettings`, and names of files."""
    parser = commands.add_parser("embed", help="embed the rows of a file", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_rows(
        parser,
        "A new file that ends in .parquet, .arrow, .jsonl or .npy; the last one has the vectors alone, and "
        "OUT.rows.parquet the other columns.",
    )
    add_settings(parser, EmbeddingSettings)
    return parser


def run(options: argparse.Namespace) -> None:
    """Embed the rows and print a summary. A process that torchrun started embeds its share."""
    run_rows("embed", fastmux.embed, options, EmbeddingSettings)
