"""``fastmux calibrate``: find the threshold of a cascade, and write it into the model's folder."""

from __future__ import annotations

import argparse
import itertools

import fastmux
from fastmux.cli.parser import Parser, integer, number
from fastmux.cli.settings import MODEL_HELP, add_settings, add_text, text_rows
from fastmux.labelling.settings import LabellingSettings

DESCRIPTION = """\
Find out of which rows a fast model should not be trusted. Rows of which it is less sure than a threshold go through
another model, usually the one that it was made from. The threshold is the lowest one at which the share --agreement of
the rows gets that model's label. It is written into the folder of the fast model, where predict and serve read it.

Both models label the rows of --text, which need no labels and should be rows that neither was trained on."""

EPILOG = """\
examples:
  fastmux calibrate my-model-2x --fallback my-model --text reviews.csv --column body --agreement 0.99
  fastmux calibrate my-model-2x --fallback my-model --text reviews.csv --runtime onnxruntime --precision int8
  fastmux predict my-model-2x rows.csv --fallback my-model --output labels.csv
  fastmux serve my-model-2x --fallback my-model"""

#: The most rows that are read: enough for an interval of half a point.
_ROWS = 10_000
#: Settings of `fastmux predict` that say where and how both models run.
_PLACED = ("runtime", "precision", "device")


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: those of `fastmux.calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="find which rows should go through the original, too",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="The folder of the fast model.")
    parser.add_argument("--fallback", required=True, metavar="MODEL", help=f"The original. {MODEL_HELP}")
    add_text(parser, f"Files whose first {_ROWS:,} rows both models label", required=True)
    parser.add_argument(
        "--agreement",
        type=number(0, 1, above=True),
        default=0.99,
        help="The share of the rows that is to get the fallback's label. (default: %(default)s)",
    )
    parser.add_argument(
        "--copies",
        type=integer(1),
        default=1,
        help="How many slots of a multiplexed model each row takes. (default: %(default)s)",
    )
    parser.add_argument(
        "--max_length", type=integer(1), help="The most tokens of a row. By default as many as the model has room for."
    )
    parser.add_argument("--truncation", action="store_true", help="Cut longer rows there; otherwise they are refused.")
    add_settings(parser, LabellingSettings, _PLACED)
    return parser


def run(options: argparse.Namespace) -> None:
    """Calibrate, and print what came of it."""
    found = fastmux.calibrate(
        options.model,
        list(itertools.islice(text_rows(options), _ROWS)),
        fallback=options.fallback,
        agreement=options.agreement,
        copies=options.copies,
        max_length=options.max_length,
        truncation=options.truncation,
        **{name: getattr(options, name) for name in _PLACED},
    )
    low, high = found.agreement_interval
    speeds = found.rows_per_second
    lines = {
        "same labels": f"{found.agreement:.2%} of {found.rows:,} rows, which did not choose the threshold "
        f"(95 % interval {low:.2%} to {high:.2%}); without the fallback {found.agreement_alone:.2%}",
        "go on": f"{found.fallback_share:.1%} of the rows, those below {found.min_confidence:.4f}",
        "rows a second": f"{speeds['cascade']:,.0f}, {found.speed_up:.2f} x the fallback alone "
        f"({speeds['fallback']:,.0f}); the fast model alone {speeds['model']:,.0f}",
    }
    for name, value in lines.items():
        print(f"{name:<{max(map(len, lines))}}  {value}")
    if found.speed_up < 1:
        print("This cascade is slower than the fallback alone. Ask for less --agreement, or use the fallback alone.")
    print(f"written: {options.model}/cascade.json")
