"""``fastmux export``: a model for ONNX Runtime, in float32 or with matrices of 8 bits."""

from __future__ import annotations

import argparse

import fastmux
from fastmux.cli.parser import OneOf, Parser, integer
from fastmux.cli.settings import MODEL_HELP, add_text
from fastmux.distribution import install_line
from fastmux.passes.runtimes.record import EXPORTED

DESCRIPTION = """\
Write a classifier of sequences or tokens (a T-MUX, a joined model or a plain encoder) to a folder that predict and
serve take in place of the model, on a CPU. There it runs in ONNX Runtime, or as a plain encoder in CTranslate2, faster
than in torch, and starts within a second.

With --int8 its matrices have 8 bits, with a scale for each position, so that a row's answer does not depend on the rows
beside it in a batch. At the end it compares the answers with the original's, on the rows of --text or on random
ones."""

EPILOG = (
    """\
examples:
  fastmux export my-model my-model-onnx
  fastmux export my-model my-model-int8 --int8 --text reviews.csv --column body
  fastmux export my-plain-model my-model-int8 --int8 --runtime ctranslate2
  fastmux predict my-model-int8 reviews.csv --column body --output labels.csv

needs the extra `export`: """
    + install_line("export")
    + """
To run what it wrote, `onnx` is enough: """
    + install_line("onnx")
    + """
For CTranslate2, `ctranslate2` is: """
    + install_line("ctranslate2")
)

#: The most rows on which both models are compared.
_ROWS = 1000


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: those of `fastmux.export`."""
    parser = commands.add_parser(
        "export",
        help="write a model for ONNX Runtime, in float32 or in 8 bits",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("output_dir", metavar="DIR", help="A new folder.")
    parser.add_argument(
        "--runtime",
        type=OneOf(*EXPORTED),
        default=EXPORTED[0],
        help="What will run it; ctranslate2 runs plain encoders alone. (default: %(default)s)",
    )
    parser.add_argument("--int8", action="store_true", help="Matrices of 8 bits. (default: float32)")
    add_text(parser, f"Files whose first {_ROWS:,} rows both models label, for a comparison")
    parser.add_argument(
        "--max_length", type=integer(1), help="The most tokens of a row. By default as many as the model has room for."
    )
    parser.also |= {"precision": "--int8", "output_dir": "DIR"}
    return parser


def run(options: argparse.Namespace) -> None:
    """Export, and print what came of it."""
    if options.text is None:
        for name in ("column", "pair_column", "input_format"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is given without texts, of which it says something")
    texts = None
    if options.text is not None:
        texts = fastmux.read_texts(options.text, options.column, options.pair_column, options.input_format)[:_ROWS]
    found = fastmux.export(
        options.model,
        options.output_dir,
        runtime=options.runtime,
        precision="int8" if options.int8 else "float32",
        texts=texts,
        max_length=options.max_length,
    )
    lines = {"logits differ by": f"{found.largest_difference:.1e} of their standard deviation, at most"}
    if found.same is not None:
        lines["same labels"] = f"{found.same:.2%}"
    rows = "rows" if texts is not None else "rows of random tokens"
    print(f"on {found.rows:,} {rows}, beside the original in torch:")
    for name, value in lines.items():
        print(f"{name:<{max(map(len, lines))}}  {value}")
    print(f"written: {options.output_dir}, {found.megabytes:,.0f} MB")
