"""How much a program costs that labels a single text: in torch, and exported, in 32 and in 8 bits.

    python bench/first_label.py MODEL        # a classifier's folder; writes bench/results/<device>/first_label.json

Each process is a fresh one. `Labeller` is one that makes a `fastmux.Labeller` and labels a text, `predict` is
`fastmux predict` of three rows. *seconds* are the processor's, of a process and of those that it starts, from its
start to its end; *MiB* are the most memory that one of them held. Figures are medians of turns.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import transformers

import fastmux
from bench.machine import CPU, machine_info, results_folder
from bench.timing import turn_by_turn
from fastmux.searching.forms import FLOAT32, INT8
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of, positive, run_program

#: What ru_maxrss counts in, in bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024
#: Runs a command and prints what it took. A process of its own, and a small one: the most memory that a process held
#: begins, on Linux, at what the one that started it held.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""
_LABELLER = "import sys, fastmux; fastmux.Labeller(sys.argv[1])(['a gorgeous, witty film'])"
_ROWS = "text\na gorgeous, witty film\nmost of it given to children\n|\n"


def cost(command: list[str]) -> tuple[float, float]:
    """The processor's seconds of a command, and the most MiB of memory that one of its processes held.

    Raises:
        OSError: The command failed.
    """
    done = subprocess.run([sys.executable, "-S", "-c", _MEASURE, *command], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-300:]}")
    seconds, most = map(float, done.stdout.split()[-2:])
    return seconds, most * _UNIT / 2**20


def calls_of(form: str, model: str | Path, folder: Path) -> dict[tuple[str, str], Callable[[], tuple[float, float]]]:
    """The processes of a form of the model, by the form and what they do."""
    rows, outputs = folder / "rows.tsv", itertools.count()
    rows.write_text(_ROWS)
    word = form.replace(", ", "-")
    predict = [sys.executable, "-m", "fastmux.cli.main", "predict", str(model), str(rows), "--output"]
    return {
        (form, "Labeller"): lambda: cost([sys.executable, "-c", _LABELLER, str(model)]),
        (form, "predict"): lambda: cost([*predict, str(folder / f"{word}-{next(outputs)}.csv")]),
    }


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield (
        f"A classifier (`{result['model']}`), fresh processes, medians of {result['repeats']}: "
        "`python bench/first_label.py MODEL`."
    )
    columns = {
        "model": "{form}",
        "process": "{process}",
        "processor, s": "{seconds:.2f}",
        "memory, MiB": "{mebibytes:.0f}",
    }
    yield table(result["first_labels"], columns)


def main(argv: list[str] | None = None) -> dict:
    parser = options_of(__doc__)
    parser.add_argument("model", help="A classifier of rows: its folder, or its name on the hub.")
    parser.add_argument("--repeats", type=positive, default=5, help="The turns that count.")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = calls_of("torch, float32", args.model, folder)
        for precision in (FLOAT32, INT8):
            fastmux.export(args.model, folder / precision, precision=precision)
            calls |= calls_of(f"exported, {precision}", folder / precision, folder)
        found = turn_by_turn(calls, args.repeats + 1)  # the first one reads files from the disk
    entries = []
    for (form, process), values in found.items():
        seconds, mebibytes = np.median(values[1:], axis=0)
        entries.append({"form": form, "process": process, "seconds": seconds, "mebibytes": mebibytes})
    result = {"machine": machine_info(CPU), "model": Path(args.model).name, "repeats": args.repeats}
    result["first_labels"] = entries
    finish(result, section, args.output or results_folder(CPU) / "first_label.json")
    return result


if __name__ == "__main__":
    run_program(main)
