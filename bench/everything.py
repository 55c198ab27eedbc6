"""Everything that wants a device, step by step: tests, benchmarks of ops and of models, serving, tuning, the audit.

    python bench/everything.py                         # the first command on a device: tests, ops, throughput
    python bench/everything.py --steps second          # the second: training, text to label, serving, tuning
    python bench/everything.py --steps memory audit    # other steps; --steps all for every one
    python bench/everything.py --minutes 2             # the same in less time: every step gets its share
    python bench/everything.py --without datasets peft # as if packages were missing
    python -m bench.machine                            # before a tree is copied to a device without its .git

The first command needs torch, transformers, pytest, tqdm and psutil. Text to label wants datasets and orjson, too, and
serving what the extra `serve` brings. A machine without an index gets them as a folder (25 MB), on its PYTHONPATH:

    pip install --target packages --no-deps --python-version 3.12 --only-binary=:all: annotated-doc annotated-types \\
        datasets dill fastapi fastapi-offline httptools multiprocess orjson prometheus-client pydantic pydantic-core \\
        python-json-logger starlette typing-inspection uvicorn

Each step runs in a process of its own and prints as it goes. It is told 0.85 of the time after which it is killed; a
step that takes no such option is interrupted then, as by Ctrl+C, and has the rest to write what it found. A step that
fails or is out of time does not keep the others from running, and leaves what it had done. Results go to
bench/results/<device>/. ``everything.json`` there says how each step went, and ``everything.log`` has all that was
printed. ``--pack FOLDER`` writes three files for who has to fetch them: ``results.tar.gz``, packed again every few
seconds, so it is there whatever ends this program; ``everything.json``; and at the end ``summary.md``, with the tables
of all results. Exit status 1 if a step did not succeed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.machine import default_device, machine_info, results_folder
from bench.processes import GRACE, ROOT, environment, run
from fastmux.files import replacing, write_json
from fastmux.training.formatting import table
from fastmux.training.programs import options_of

#: The share of a step's time that the step is told of, or after which it is interrupted.
INNER = 0.85
#: An interrupted pytest waits ten seconds for its workers before it writes its outcomes.
ENDING = 15.0


@dataclass(frozen=True)
class Step:
    """Arguments of Python, and the seconds after which the step is stopped. In the arguments {out} is the folder for
    results, {data} that with data sets, and {seconds} the time that the step is told of."""

    seconds: float
    arguments: list[str]


def _tests() -> list[str]:
    """The ops and one model, in as many processes as compiling wants; past files that cannot be collected."""
    workers = max(2, min(14, (os.cpu_count() or 2) - 2))
    parallel = ["-n", str(workers)] if importlib.util.find_spec("xdist") else []
    reports = ["-v", "-rfE", "--tb=short", "--continue-on-collection-errors", "--junitxml", "{out}/tests.xml"]
    files = ["tests/functional", "tests/test_model_on_device.py"]
    return ["-m", "pytest", *parallel, "-p", "no:cacheprovider", *reports, *files]


OPS = ["-m", "bench.ops", "--budget", "{seconds}", "--output", "{out}/ops"]
THROUGHPUT = ["bench/throughput.py", "--disable_tqdm", "--budget", "{seconds}", "--output"]
BOTH = ["--demultiplexers", "unbind", "index"]
TUNE = ["-m", "bench.tune", "--budget", "{seconds}", "--output", "{out}/tuned.json"]
#: Captured models at every G; what matters most comes first. To compile the plain encoder takes as long as many rows.
SWEEP = [*BOTH, "--num_instances", "10", "40", "2", "20", "--every_group", "--repeats", "3"]
COMPILED = ["--execution", "compiled", "--tasks", "sequence", "--num_instances", "10", "40", "--batch_sizes", "256"]
TRAINING = ["--training", "--num_instances", "10", "40", "--demultiplexers", "unbind", "--batch_sizes", "64", "256"]
LABELLING = ["bench/predict.py", "--data_dir", "{data}", "--num_instances", "10", "40", "--rows_a_slot", "2000"]
SERVING = ["bench/serve.py", "--data_dir", "{data}", "--p99_ms", "100", "--first_rate", "200", "--processes", "4"]
SHORT = ["--seconds", "3", "--max_seconds", "6", "--requests", "200", "--runs", "5"]
#: All four dtypes take longer than a command may.
AUDIT = ["bench/audit/kernels.py", "--hidden_sizes", "768", "--dtypes", "bf16", "--output", "{out}/kernel_audit.json"]
STEPS = {
    "tests": Step(150, _tests()),
    "ops": Step(180, [*OPS, "--first_pass", "--case_seconds", "0.5"]),
    "throughput": Step(180, [*THROUGHPUT, "{out}/throughput.json", *SWEEP]),
    "training": Step(60, [*THROUGHPUT, "{out}/training.json", *TRAINING, "--group_counts", "64", "--repeats", "3"]),
    "text_to_label": Step(90, [*LABELLING, "--repeats", "1", "--output", "{out}/predict.json"]),
    "serving": Step(
        90, [*SERVING, *SHORT, "--batch_tokens", "8192", "--max_wait_ms", "5", "--output", "{out}/serve.json"]
    ),
    "tune_worst": Step(90, [*TUNE, "--worst", "{out}/ops/ratios.json"]),
    "compiled": Step(300, [*THROUGHPUT, "{out}/throughput_compiled.json", *COMPILED, "--group_counts", "64"]),
    "all_ops": Step(540, OPS),
    "memory": Step(120, ["bench/memory.py", "--disable_tqdm", "--output", "{out}/memory.json"]),
    "tune": Step(420, TUNE),
    "audit": Step(540, AUDIT),
}
COMMANDS = {
    "first": ["tests", "ops", "throughput"],
    "second": ["training", "text_to_label", "serving", "tune_worst"],
    "all": list(STEPS),
}


def pack(out: Path, folder: Path | None) -> None:
    """All results in one file of the folder, and how the steps went in another."""
    if folder is not None:
        with replacing(folder / "results.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as packed:
            packed.add(out, arcname=out.name)
        with replacing(folder / "everything.json") as temporary:
            shutil.copy(out / "everything.json", temporary)


def summarize(out: Path, folder: Path, env: dict[str, str]) -> None:
    """The tables of all results of a run, in ``summary.md``."""
    command = [sys.executable, "bench/results_page.py", "--folder", str(out)]
    written = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    (folder / "summary.md").write_text(written.stdout + written.stderr, encoding="utf-8")


def section(result: dict) -> Iterator[str]:
    """The page's section on ``everything.json``."""
    yield "The steps of a command on a device, and the seconds that each took and had: `python bench/everything.py`."
    rows = [{"step": name, **step} for name, step in result["steps"].items()]
    yield table(rows, {"step": "{step}", "outcome": "{outcome}", "took": "{seconds}", "had": "{budget}"})


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = options_of(__doc__, "The folder for results. Default: bench/results/<device>.", Path)
    add, data = parser.add_argument, os.environ.get("FASTMUX_DATA", "shared/data")
    help = f"What is run: {', '.join([*COMMANDS, *STEPS])}."
    add("--steps", nargs="+", choices=[*COMMANDS, *STEPS], default=["first"], metavar="STEP", help=help)
    add("--minutes", type=float, help="The time of all steps together. Default: the sum of their times.")
    add("--without", nargs="+", default=[], metavar="PACKAGE", help="Packages that are not to be found.")
    add("--data_dir", type=Path, default=data, help="The folder with data sets; $FASTMUX_DATA sets the default.")
    add("--pack", type=Path, metavar="FOLDER", help="A folder that gets the results as three files.")
    args = parser.parse_args(argv)
    if args.minutes is not None and args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")
    args.steps = list(dict.fromkeys(step for name in args.steps for step in COMMANDS.get(name, [name])))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    device = default_device()
    out = (args.output or results_folder(device)).resolve()
    for folder in filter(None, (out, args.pack)):
        folder.mkdir(parents=True, exist_ok=True)
    scale = 60 * args.minutes / sum(STEPS[name].seconds for name in args.steps) if args.minutes else 1.0
    result: dict[str, object] = {"machine": machine_info(device), "without": args.without, "steps": {}}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is stopped, and its results are kept
    with tempfile.TemporaryDirectory() as hiding, open(out / "everything.log", "wb") as log:
        env = environment(args.without, Path(hiding))
        for name in args.steps:
            seconds = scale * STEPS[name].seconds
            given = {"out": out, "data": args.data_dir.resolve(), "seconds": f"{INNER * seconds:.0f}"}
            arguments = [a.format(**given) for a in STEPS[name].arguments]
            step = result["steps"][name] = {"command": ["python", *STEPS[name].arguments], "budget": round(seconds, 1)}
            step["outcome"] = "stopped"  # in case nothing more is heard of it
            write_json(out / "everything.json", result)
            print(f"\n== {name}, {seconds:.0f} s", flush=True)
            try:
                told = any("{seconds}" in a for a in STEPS[name].arguments)
                limit, grace = (seconds, GRACE) if told else (INNER * seconds, max(ENDING, (1 - INNER) * seconds))
                keep = partial(pack, out, args.pack)
                status, taken = run([sys.executable, *arguments], limit, log, env, keep, grace)
                step["outcome"] = "out of time" if status is None else "ok" if status == 0 else f"exit {status}"
                step["seconds"] = round(taken, 1)
            finally:
                write_json(out / "everything.json", result)
                pack(out, args.pack)
            print(f"== {name}: {step['outcome']} in {step['seconds']} s", flush=True)
        if args.pack:
            summarize(out, args.pack, env)
    print("\n" + "\n\n".join(section(result)) + f"\n\nresults: {args.pack or out}")
    return 0 if all(step["outcome"] == "ok" for step in result["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
