"""The main job: train, search and label on text that every Python carries; no download, no GPU, minutes on two cores.

  1. A plain encoder and a T-MUX learn to say which package of Python's own library a passage comes from, as
     training/train.py trains them.
  2. fastmux.search looks for a faster model that answers as the plain one does, from passages without labels.
  3. fastmux.predict labels passages that were kept apart with what was found.

It ends with a table, a picture (demo.png) and a sentence, all of the passages that were kept apart. Arguments that are
not listed below are train.py's.

examples:
  python training/demo.py
  python training/demo.py --agreement 0.98 --search_steps 500 --output_dir runs/longer
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import fastmux
from fastmux.files import read_json
from fastmux.passes.timer import rates
from fastmux.searching.search import RESULT as SEARCHED
from fastmux.training import train
from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.folders import RunFolder, numbered
from fastmux.training.formatting import table
from fastmux.training.models import PLAIN
from fastmux.training.programs import environment, finish, options_of, positive, run_program
from fastmux.training.run import say
from fastmux.training.tasks.stdlib import StdlibTask

#: The T-MUX, and what search found, in table and picture.
MUX, FOUND = "unbind", "found"
#: What this program ends with.
RESULT = "demo.json"


def main(argv: list[str] | None = None) -> dict:
    """Run the program; returns what it writes to ``demo.json``.

    Raises:
        ValueError: An argument is wrong; found before anything is trained.
    """
    started = time.perf_counter()
    parser = options_of(__doc__, None, prog="demo.py", allow_abbrev=False)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("runs/demo"), help="A folder; one that was begun goes on.")
    add("--agreement", type=float, default=0.95, help="What to search for.")
    add("--search_steps", type=positive, default=150, help="The steps of the longest candidate.")
    options, others = parser.parse_known_args(argv)
    *_, options.output_dir = numbered(options.output_dir, lambda folder: (folder / RESULT).is_file())
    run, data = RunFolder(options.output_dir / "training"), StdlibTask().load(None)

    say("1. train a plain encoder and a T-MUX: which package is a passage from?")
    resume = ["--resume"] if run.settings.is_file() else []
    task = ["--task", StdlibTask.name, "--variants", PLAIN, MUX, "--output_dir", str(run.path)]
    # It starts from the plain encoder, whose head reads the first position: its own does, too, which is the fastest.
    task += ["--sequence_summary", "first", "--mux_task_epochs", "8", "--groupings", "3"]
    trained = train.main([*task, *resume, *others])

    say("2. search: a faster model that answers as the plain one does, from text without labels")
    folder = options.output_dir / FOUND
    if not (folder / SEARCHED).is_file():
        fastmux.search(
            run.model(PLAIN),
            data.train["text"],
            folder,
            agreement=options.agreement,
            max_steps=options.search_steps,
            max_length=trained.settings["recipe"]["max_length"],
        )
    searched = read_json(folder / SEARCHED)
    say(searched["sentence"])

    say("3. label passages that were kept apart")
    apart = data.evaluation["validation"]
    as_trained = {"truncation": True, "num_workers": 0, "disable_tqdm": True}
    labelled = fastmux.predict(folder, apart.select_columns("text"), **as_trained).dataset["label"]
    right = [data.labels[true] == said for true, said in zip(apart["label"], labelled, strict=True)]
    accuracies = {name: found.scores["validation"][trained.metric].mean for name, found in trained.variants.items()}
    accuracies[FOUND] = sum(right) / len(right)
    folders = {PLAIN: run.model(PLAIN), MUX: run.model(MUX), FOUND: folder}
    speeds = _speeds(folders, apart["text"])
    instances = trained.settings["recipe"]["num_instances"]
    what = {PLAIN: "the plain encoder", MUX: f"a T-MUX, {instances} rows in one pass"}
    what[FOUND] = f"found by search: {searched['chosen']['words']}, {searched['chosen']['precision']}"
    result = {
        "environment": environment(),
        "rows": len(apart),
        "models": {
            name: {"what": what[name], "accuracy": accuracies[name], "rows_per_second": speeds[name]} for name in what
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    result["sentence"] = sentence(result)
    _plot(options.output_dir / "demo.png", result)
    beside = f", demo.png; {folder} loads with fastmux predict and serve"
    finish(result, section, options.output_dir / RESULT, beside)
    return result


def _speeds(folders: dict[str, Path], texts: list[str]) -> dict[str, float]:
    """The rows a second of each model through the engine of `fastmux.predict`, in turns, without tokenising."""
    calls = {}
    for name, folder in folders.items():
        labeller = fastmux.Labeller(folder, truncation=True)
        calls[name] = partial(labeller.engine.run, labeller.tokens(texts))
    return {name: rate.rows_per_second for name, rate in rates(calls, len(texts), repeats=3).items()}


def sentence(result: dict) -> str:
    """What the T-MUX and the search bought over the plain encoder."""
    plain, mux, found = (result["models"][name] for name in (PLAIN, MUX, FOUND))

    def beside(model: dict) -> str:
        times = model["rows_per_second"] / plain["rows_per_second"]
        return f"{model['accuracy']:.3f} at {times:.1f} times the speed"

    return (
        f"On {result['rows']:,} passages that were kept apart the plain encoder has an accuracy of "
        f"{plain['accuracy']:.3f}; {mux['what']}, has {beside(mux)}; what search found from text without labels, "
        f"{found['what'].partition(': ')[2]}, has {beside(found)}."
    )


def section(result: dict):
    """``demo.json`` in Markdown."""
    plain = result["models"][PLAIN]["rows_per_second"]
    rows = [{"name": name, "times": m["rows_per_second"] / plain, **m} for name, m in result["models"].items()]
    columns = {"model": "{name}", "what it is": "{what}", "accuracy": "{accuracy:.4f}"}
    yield table(rows, columns | {"rows/s": "{rows_per_second:,.0f}", "x plain": "{times:.2f}"})
    yield f"**{result['sentence']}**"


def _plot(path: Path, result: dict) -> None:
    plain = result["models"][PLAIN]["rows_per_second"]
    lines = [
        Line([(m["rows_per_second"] / plain, m["accuracy"])], names=[name], style={"marker": "o", "ms": 6})
        for name, m in result["models"].items()
    ]
    axis = {"xlabel": "rows a second, times the plain encoder's", "ylabel": f"accuracy on {result['rows']:,} rows"}
    draw(path, "Passages of Python's library", [Panel(lines, axis)])


if __name__ == "__main__":
    run_program(main)
