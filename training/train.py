"""Trains multiplexed transformers beside the same encoder without multiplexing; ``--help`` explains."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, so that both ways of starting
    # it import the same modules and none of them can hide a package of the same name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import datasets
import transformers
from accelerate import PartialState

from fastmux.files import write_json
from fastmux.training.arguments import parse
from fastmux.training.folders import choose_folder
from fastmux.training.inputs import prepare
from fastmux.training.programs import run_program
from fastmux.training.regression import spread
from fastmux.training.report import write_report
from fastmux.training.run import Run, device_arguments, say
from fastmux.training.run_result import RunResult
from fastmux.training.threads import choose_threads


def main(argv: list[str] | None = None) -> RunResult | None:
    """Runs the program; returns what it writes to ``metrics.json``, and None but in the main process.

    Raises:
        ValueError: The input is bad. This is found before anything is written.
        OSError: A file could not be written.
    """
    started = time.perf_counter()
    settings = parse(argv)
    _ = device_arguments(settings).device  # brings the processes of torchrun together
    state = PartialState()
    # The Trainer's progress bars stay; those for loading a small file say nothing.
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

    say(choose_threads())
    folder = choose_folder(settings)
    inputs = prepare(settings)
    run = Run(settings, folder, inputs)
    state.wait_for_everyone()
    # Only now, when all input is known to be good and every process has the folder, is anything written.
    if state.is_main_process:
        folder.remove_leftovers()
        write_json(folder.settings, settings.identity())
    state.wait_for_everyone()
    counts = inputs.counts()
    say(
        f"{inputs.task.name}: {counts['train_rows']} training rows, {len(inputs.labels)} labels, "
        f"{counts['packed_text_rows']} packed rows of text, {counts['vocabulary']} tokens; writing to {folder.path}"
    )
    if inputs.task.kind == "regression":
        say(spread(inputs.labels[0], inputs.train["labels"]))
    cut = [f"{count} of {split}" for split, count in counts["cut_rows"].items() if count]
    if cut:
        say(f"rows longer than max_length = {settings.recipe.max_length} tokens, which are cut: {', '.join(cut)}")
    result = run.result(started)
    if result is not None:
        write_report(result, folder)
    state.wait_for_everyone()
    return result


if __name__ == "__main__":
    run_program(main)
