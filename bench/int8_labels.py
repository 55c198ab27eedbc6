"""What 8 bits change of trained models' labels: their own in float32, and accuracy.

    python bench/int8_labels.py models/sst2=DATA/sst2/dev.tsv models/conll2003=DATA/conll2003/valid.txt

Each argument is a folder of a classifier and a file of rows that were not trained on: tab-separated with a header and
the label last, after one text or two, or CoNLL's columns in .txt. All rows count, or all of their words. Both
precisions are what ``fastmux export`` writes.

- ``changed``: the share of rows or words with another label than in float32.
- ``float32`` and ``int8``: the share that agrees with the file.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import transformers

import fastmux
from bench.machine import CPU, machine_info, results_folder
from fastmux.tables.opening import open_source
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of
from fastmux.training.tasks.conll import read_conll
from fastmux.training.tasks.readers import read_table

_PRECISIONS = ("float32", "int8")


def read_rows(path: Path) -> tuple[list, list[str]]:
    """The rows of a file as a `fastmux.Labeller` takes them, and the labels of all rows or words."""
    if path.suffix == ".txt":
        table = read_conll(path)
        return [{"words": row} for row in table.columns["tokens"]], list(itertools.chain(*table.columns["tags"]))
    *texts, label = open_source(path).columns
    columns = read_table(path, [*texts, label]).columns
    pairs = zip(*(columns[name] for name in texts), strict=True)
    rows = [pair[0] if len(texts) == 1 else dict(zip(("text", "text_pair"), pair, strict=True)) for pair in pairs]
    return rows, columns[label]


def labels_of(model: Path, rows: list) -> np.ndarray:
    """The labels of all rows, or of all their words."""
    answers = fastmux.Labeller(model, truncation=True)(rows)
    return np.array([label for answer in answers for label in answer.get("tags") or [answer["label"]]], dtype=object)


def compared(model: Path, file: Path) -> dict:
    """One model in both precisions."""
    rows, expected = read_rows(file)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for precision in _PRECISIONS:
            fastmux.export(model, Path(folder, precision), precision=precision)
            found[precision] = labels_of(Path(folder, precision), rows)
    accuracy = {name: float((labels == np.array(expected, dtype=object)).mean()) for name, labels in found.items()}
    changed = float((found["float32"] != found["int8"]).mean())
    return {"model": model.name, "labels": len(expected), "changed": changed, **accuracy}


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield "Labels in float32 and in 8 bits, each of all development rows. `python bench/int8_labels.py`."
    columns = {"task": "{model}", "labels": "{labels:,}", "changed": "{changed:.2%}"}
    yield table(result["int8_labels"], columns | {name: f"{{{name}:.4f}}" for name in _PRECISIONS})


def main(argv: list[str] | None = None) -> list[dict]:
    parser = options_of(__doc__)
    parser.add_argument("pairs", nargs="+", metavar="MODEL=ROWS", help="A classifier's folder, and labelled rows.")
    args = parser.parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    pairs = [pair.partition("=") for pair in args.pairs]
    if missing := [path for model, _, rows in pairs for path in (model, rows) if not Path(path or ".").exists()]:
        parser.error(f"{missing[0]} is not there; expected MODEL=ROWS")
    found = []
    for model, _, rows in pairs:
        found.append(compared(Path(model), Path(rows)))
        print(found[-1], flush=True)
    result = {"machine": machine_info(CPU), "int8_labels": found}
    finish(result, section, args.output or results_folder(CPU) / "int8_labels.json")
    return found


if __name__ == "__main__":
    main()
