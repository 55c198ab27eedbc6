"""``fastmux predict``: label the rows of a file."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import fastmux
from fastmux.cli.parser import Parser
from fastmux.cli.settings import MODEL_HELP, add_settings, given
from fastmux.labelling.settings import LabellingSettings
from fastmux.tables.kinds import INPUT_FORMATS

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
    parser.add_argument(
        "input",
        metavar="INPUT",
        help=f"A file that ends in {', '.join(INPUT_FORMATS)}, perhaps with .gz behind it; or a data set of the hub.",
    )
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="A new file that ends in .jsonl, .csv, .tsv or .parquet."
    )
    parser.add_argument(
        "--fallback",
        metavar="MODEL",
        help="The model for rows below --min_confidence, usually the original; see fastmux calibrate.",
    )
    add_settings(parser, LabellingSettings)
    parser.add_argument("--disable_tqdm", action="store_true", help="Show no progress bar.")
    return parser


def _told_to_end(number: int, frame: object) -> None:
    raise KeyboardInterrupt("told to end")


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Print what the library logs, for example that it exports a model, which takes a while."""
    library, handler = logging.getLogger("fastmux"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fastmux predict: %(message)s"))
    library.addHandler(handler)
    level = library.level
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def run(options: argparse.Namespace) -> None:
    """Label the rows and print a summary. A process that torchrun started labels its share."""
    from fastmux.labelling.shard_folder import rows_done

    settings = given(options, LabellingSettings)
    signal.signal(signal.SIGTERM, _told_to_end)
    group = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's
        import torch
        import torch.distributed as dist

        # Wait for the others as long as they take; if one dies, its connections are closed.
        dist.init_process_group("gloo", timeout=timedelta(days=100))
        group = dist.group.WORLD
        if settings.device is None and torch.cuda.is_available():
            settings = replace(settings, device=f"cuda:{os.environ['LOCAL_RANK']}")
    try:
        with _telling():
            found = fastmux.predict(
                options.model,
                options.input,
                options.output,
                fallback=options.fallback,
                settings=settings,
                disable_tqdm=options.disable_tqdm,
                process_group=group,
            )
    except KeyboardInterrupt as stop:
        rows, what = rows_done(Path(options.output)), str(stop) or "interrupted"
        print(
            f"fastmux predict: {what} after {rows:,} rows, which are kept in {options.output}.parts; the same command "
            "goes on from there",
            file=sys.stderr,
        )
        sys.exit(130 if what == "interrupted" else 143)
    if group is None or dist.get_rank() == 0:
        print("\n".join(found.report.lines()))
    if group is not None:
        dist.barrier(group)  # all leave together, as a process that left alone has been seen to abort
        dist.destroy_process_group()
