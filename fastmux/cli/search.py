"""``fastmux search``: the fastest model that answers as a given one does."""

from __future__ import annotations

import argparse
import sys

import fastmux
from fastmux.cli.parser import Parser
from fastmux.cli.settings import MODEL_HELP, add_settings, add_text, given
from fastmux.cli.table import padded_table
from fastmux.searching.settings import SearchSettings

DESCRIPTION = """\
Find the fastest model that answers as yours does, or the one of a given speed that answers most like it. It needs your
classifier, or your model of sentence-transformers, and some thousand rows of text of the kind that it is used on,
without labels. Classifiers agree in labels, models that embed in each text's ten nearest neighbours.

Models with fewer layers, and models whose rows or positions share layers, are made of yours and learn its answers in a
race: all get a few steps, the better half more, and so on. The best are measured beside yours, also in 8 bits and, of
classifiers, with yours behind them for rows of doubt, on rows that nothing was trained or chosen on. What is best for
your need is written to --output_dir, with a table, a picture and a sentence.

Ctrl-C leaves the best so far. After an interruption, start it again with the same arguments: it goes on where it
stopped."""

EPILOG = """\
examples:
  fastmux search my-model --text reviews.csv --column body --output_dir faster
  fastmux search my-model --text reviews.csv --column body --agreement 0.99 --minutes 60 --output_dir faster
  fastmux search my-model --text a.txt b.txt.gz --speedup 4 --output_dir four-times
  fastmux search my-model --text rows.csv --column body --label_column label --output_dir faster   # accuracy, too
  fastmux predict faster rows.csv --column body --output labels.csv
  fastmux search my-embedder --text a.txt --speedup 8 --output_dir eight-times        # a model of sentence-transformers
  fastmux embed eight-times rows.csv --column body --output vectors.parquet"""


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: the fields of `fastmux.SearchSettings`, and names of files."""
    parser = commands.add_parser(
        "search",
        help="find the fastest model that answers as yours does",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_text(parser, "Files of text of the kind that the model is used on", required=True)
    parser.add_argument(
        "--label_column",
        nargs="+",
        metavar="COLUMN",
        help="The column of the true labels, names or numbers; for a model that gives several labels, a column of 0 "
        "and 1 for each. Accuracy or F1 is then reported; the search itself uses no labels.",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="A new folder for the chosen model.")
    add_settings(parser, SearchSettings)
    parser.also["labels"] = "--label_column"
    return parser


def run(options: argparse.Namespace) -> None:
    """Search, and print table and verdict."""
    from fastmux.distillation.texts import read_labelled

    settings = given(options, SearchSettings)  # wrong ones are refused before files are read
    read = (options.text, options.column, options.pair_column, options.label_column or (), options.input_format)
    texts, labels = read_labelled(*read)
    found = fastmux.search(
        options.model,
        texts,
        options.output_dir,
        labels=labels if options.label_column else None,
        settings=settings,
    )
    rows = found.rows
    print(f"\non {rows['reporting']:,} rows that nothing was trained or chosen on:\n")
    print(padded_table(found.table))
    print("\u2192 chosen; * no other is both as good and as fast")
    for name, reason in found.left_out.items():
        if "int8" in name and "original" in name:
            print(f"8 bits were not measured: {reason}")
    if rows["cut"]:
        print(f"{rows['cut']:,} rows were cut at --max_length {options.max_length}")
    print(f"\n{found.sentence}\n")
    print(f"written: {options.output_dir}, with search.png, search.json and README.md")
    if not found.finished:
        sys.exit(130)
