"""Commands that answer the rows of a file: their input and output, torchrun's processes, and what is said at an end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastmux.cli.parser import Parser
from fastmux.cli.settings import given
from fastmux.labelling.settings import RowSettings
from fastmux.tables.kinds import INPUT_FORMATS


def add_rows(parser: Parser, output: str) -> None:
    """Add the input, the output, of which ``output`` says what it may be, and the switch of the progress bar."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        help=f"A file that ends in {', '.join(INPUT_FORMATS)}, perhaps with .gz behind it; or a data set of the hub.",
    )
    parser.add_argument("--output", required=True, metavar="OUT", help=output)
    parser.add_argument("--disable_tqdm", action="store_true", help="Show no progress bar.")


def _told_to_end(number: int, frame: object) -> None:
    raise KeyboardInterrupt("told to end")


@contextlib.contextmanager
def _telling(command: str) -> Iterator[None]:
    """Print what the library logs, for example that it exports a model, which takes a while."""
    library, handler = logging.getLogger("fastmux"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"fastmux {command}: %(message)s"))
    library.addHandler(handler)
    level = library.level
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def run_rows(
    command: str, call: Callable[..., Any], options: argparse.Namespace, kind: type[RowSettings], **more: object
) -> None:
    """Answer the rows and print a summary. A process that torchrun started answers its share.

    Args:
        command: The command's name.
        call: `fastmux.predict` or `fastmux.embed`.
        kind: Its settings.
        more: Further arguments of it.
    """
    from fastmux.labelling.shard_folder import rows_done

    settings = given(options, kind)
    signal.signal(signal.SIGTERM, _told_to_end)
    group = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's
        import torch
        import torch.distributed as dist
        import torch.distributed.nn  # now, as later its functions would have the group as a default, which never ends

        # Wait for the others as long as they take; if one dies, its connections are closed.
        dist.init_process_group("gloo", timeout=timedelta(days=100))
        group = dist.group.WORLD
        if settings.device is None and torch.cuda.is_available():
            settings = replace(settings, device=f"cuda:{os.environ['LOCAL_RANK']}")
    try:
        with _telling(command):
            found = call(
                options.model,
                options.input,
                options.output,
                settings=settings,
                disable_tqdm=options.disable_tqdm,
                process_group=group,
                **more,
            )
    except KeyboardInterrupt as stop:
        rows, what = rows_done(Path(options.output)), str(stop) or "interrupted"
        print(
            f"fastmux {command}: {what} after {rows:,} rows, which are kept in {options.output}.parts; the same "
            "command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130 if what == "interrupted" else 143)
    if group is None or dist.get_rank() == 0:
        print("\n".join(found.report.lines()))
    if group is not None:
        dist.barrier(group)  # all leave together, as a process that left alone has been seen to abort
        dist.destroy_process_group()
