"""Writes docs/results.md from the JSON files below bench/results/: nothing on that page is typed by hand.

    python bench/results_page.py            # write the page
    python bench/results_page.py --check    # say whether it is up to date
    python bench/results_page.py --folder F # print the sections on the files below a folder

Each program writes the section on its own files; here they are found by what a file holds, and joined, subject by
subject. A picture is shown in the section on the file with whose name its own begins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

if not __package__:
    # Run as a file: the repository root, and not this folder, on the path.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fastmux.files import read_json
from fastmux.training.programs import options_of, run_program

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "results.md"
INTRODUCTION = """\
# Results

Made by `python bench/results_page.py` from the JSON files in `bench/results/`, one folder a device. What is not here
has not been measured. A ± is the standard deviation over random groupings of the evaluation rows.
"""
#: Subject -> (what the top of such a file has, heading, the function that writes its section). A file is of the kind
#: that asks for most of what it has. The functions are named, because some of their modules need packages of others.
SUBJECTS: dict[str, list[tuple[set[str], str, str]]] = {
    "Accuracy against speed": [
        ({"task", "entries", "sentence"}, "Models of one task", "fastmux.training.fronts.verdict:section"),
        ({"task", "curves", "sentences"}, "Curves of training", "fastmux.training.fronts.curve_verdict:section"),
        ({"sentence", "chosen", "points"}, "A search for a faster model", "bench.searches:section"),
        ({"embedding_points"}, "Vectors of one model", "fastmux.training.fronts.embedding_verdict:section"),
        ({"promises"}, "Searches, on rows that they never saw", "bench.promises:section"),
        ({"records"}, "One checkpoint, several speeds", "fastmux.training.copies:section"),
        ({"early_exits"}, "Early exit", "bench.early_exit:section"),
        ({"same_tokens"}, "Shared feed-forward passes", "bench.same_tokens:section"),
    ],
    "Speed of whole models": [
        ({"encoder", "batch_tokens", "num_workers", "rows"}, "Text in, labels out", "bench.predict:section"),
        ({"prepared", "tokens_a_row"}, "Tokenising", "bench.tokenising:section"),
        ({"embedding", "sentence_transformers"}, "Text in, vectors out", "bench.embed:section"),
        ({"encoder", "options", "rows"}, "Throughput", "bench.throughput:section"),
        ({"encoder", "runtimes", "measured_rows"}, "Runtimes on a CPU", "bench.runtimes:section"),
        ({"int8_labels"}, "Labels in 8 bits", "bench.int8_labels:section"),
        ({"bf16_steps"}, "A training step in bfloat16", "bench.bf16_steps:section"),
        ({"encoder", "p99_ms", "rows"}, "Serving", "bench.serve:rates_section"),
        ({"encoder", "clients", "rounds"}, "A crowd of clients", "bench.serve:crowd_section"),
        ({"encoder", "overload", "open_load"}, "More requests than can be answered", "bench.open_load:section"),
    ],
    "Memory, files and start-up": [
        ({"encoder", "rows"}, "Memory of training", "bench.memory:section"),
        ({"few", "many", "beyond_the_model_bytes"}, "Memory in the number of rows", "bench.rows:section"),
        ({"formats", "baseline"}, "Rows in and out of one format", "bench.rows:baseline_section"),
        ({"imports", "loading"}, "Start-up", "bench.loading:section"),
        ({"first_labels"}, "The first label", "bench.first_label:section"),
    ],
    "Training on text": [
        ({"task", "variants"}, "Training run", "fastmux.training.report:section"),
        ({"superposed", "gains"}, "Superposed at first", "fastmux.training.superposed_run:section"),
        ({"environment", "tasks"}, "Training runs beside each other", "fastmux.training.report:comparison_section"),
    ],
    "Experiments of the papers": [
        ({"experiment", "cells", "table"}, "Experiment", "fastmux.training.tables.table:section"),
    ],
    "Ops and kernels": [
        ({"to_compiled", "clock"}, "Ops beside the compiled reference", "bench.ops.__main__:section"),
        ({"op", "clock", "rows"}, "Op", "bench.harness:section"),
        ({"findings", "triton"}, "Kernels, compiled for GPUs that are not there", "bench.audit.findings:section"),
        ({"launchers", "found"}, "Launch parameters", "bench.tune:section"),
    ],
    "Runs on a device": [
        ({"steps", "without"}, "A run of everything", "bench.everything:section"),
    ],
}
#: Subject -> the function that writes what several of its files say together, in front of them.
SUMMARIES = {"Accuracy against speed": "fastmux.training.fronts.winners:summary"}
#: Every kind by its place on the page.
KINDS = [(subject, *kind) for subject, kinds in SUBJECTS.items() for kind in kinds]


def environment(result: dict) -> str:
    """Where and with what a file was measured, in one sentence."""
    e = result.get("environment") or result.get("machine") or {}
    cpu = f"{e['cpu']} ({e.get('cpu_cores', '?')} cores)" if e.get("cpu") else ""
    parts = [e["device"] if e.get("device", "cpu") != "cpu" or not cpu else "", cpu] if e else []
    parts += [f"{e['threads']} thread{'s' * (e['threads'] > 1)}"] if "threads" in e else []
    parts += [f"{name} {e[name]}" for name in ("python", "torch", "triton", "transformers") if e.get(name)]
    commit = f" Commit `{e['commit']}`." if e.get("commit") else ""
    return ", ".join(part for part in parts if part) + "." + commit if e else ""


def kind_of(result: object, name: str) -> int:
    """The place in `KINDS` of a file's kind.

    Raises:
        ValueError: No program knows such a file.
    """
    top = set(result) if isinstance(result, dict) else set()
    fitting = [place for place, (_, keys, *_) in enumerate(KINDS) if keys <= top]
    if not fitting:
        raise ValueError(f"{name} has {', '.join(sorted(top)) or 'nothing'} at its top, which no section here knows")
    return max(fitting, key=lambda place: len(KINDS[place][1]))


def section(path: Path, result: dict, kind: int, name: str) -> str:
    """The section on one file, with its pictures."""
    _, _, heading, written = KINDS[kind]
    own = [picture for picture in sorted(path.parent.glob(f"{path.stem}*.png")) if _owner(picture) == path]
    pictures = [f"![{heading}: {picture.stem}](../{picture.relative_to(ROOT).as_posix()})" for picture in own]
    last = f"{environment(result)} `{name}`"
    first, *rest = resolve_name(written)(result)
    parts = [f"### {heading}: `{path.stem}`", first, *pictures, *rest, last]
    return "\n\n".join(part.strip() for part in parts)


def _owner(picture: Path) -> Path:
    """The file that a picture belongs to: of those with whose name its own begins, the one with the longest."""
    files = (file for file in picture.parent.glob("*.json") if picture.stem.startswith(file.stem))
    return max(files, key=lambda file: len(file.stem))


def sections(folder: Path, whole: bool = True) -> Iterator[str]:
    """The headings of subjects, and below each the sections on its files. Where not the whole folder has to be shown, a
    line says what is left out."""
    files = []
    for path in folder.rglob("*.json"):
        name = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.relative_to(folder)).as_posix()
        try:
            result = read_json(path)
            files.append((kind_of(result, name), name, path, result))
        except ValueError as error:
            if whole:
                raise
            yield f"Left out: {error}."
    subject = None
    for kind, name, path, result in sorted(files, key=lambda file: file[:2]):
        if KINDS[kind][0] != subject:
            subject = KINDS[kind][0]
            yield f"## {subject}"
            if summary := SUMMARIES.get(subject):
                yield from resolve_name(summary)([one for own, _, _, one in files if KINDS[own][0] == subject])
        yield section(path, result, kind, name)


def page() -> str:
    """The whole page."""
    return "\n\n".join([INTRODUCTION.strip(), *sections(RESULTS)]) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = options_of(__doc__, None)
    parser.add_argument("--check", action="store_true", help="Write nothing, and fail if the page is out of date.")
    parser.add_argument("--folder", type=Path, help="Print the sections on the JSON files below this folder.")
    options = parser.parse_args(argv)
    if options.folder:
        print(*sections(options.folder.resolve(), whole=False), sep="\n\n")
        return
    text = page()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/results.md is out of date: run `python bench/results_page.py`")


if __name__ == "__main__":
    run_program(main)
