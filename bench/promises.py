"""Whether `fastmux search` keeps what it promises, on rows that it never saw.

    python bench/promises.py models/sst2=reviews.tsv --column sentence --agreement 0.98 --minutes 10
    python bench/promises.py models/qqp=pairs.tsv --column sentence1 --pair_column sentence2 --seeds 0 1 2

Each argument is a folder of a classifier and a file of rows, without labels or with labels that nobody reads. Of each
file a fifth of the different rows, at most 3,000, is put aside. The rest is searched on (`--agreement`, `--minutes`,
`--clock cpu`), and what was found labels the rows aside, as the search's own sentence says, beside the original. The
file of results gets an entry a search; one that is there already is not made again, so that several files, and a run
that was interrupted, come together.

- ``reported``: the share of the original's labels that the search reported, on its own rows.
- ``unseen``: the same share on the rows aside, rows or words, with its 95 % interval.
- ``kept``: whether that is at least the agreement that was asked for, less half a point of sampling.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import transformers

import fastmux
from bench.machine import CPU, machine_info, results_folder
from fastmux.distillation.texts import Row
from fastmux.files import read_json, write_json
from fastmux.passes.shares import Share
from fastmux.searching.forms import INT8, SMALL_ORIGINAL
from fastmux.training.formatting import table
from fastmux.training.programs import finish, fraction, natural, options_of, run_program

#: The share of the rows that no search sees, and the most of them.
_ASIDE, _MOST_ASIDE = 0.2, 3000
#: Half a point below the agreement that was asked for is still kept: as much is chance on some thousand rows.
SLACK = 0.005
#: What tells two searches apart.
_SEARCH = ("model", "rows", "seed", "agreement", "minutes")


def parted(texts: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Different rows in random order, in two parts: those that are searched on, and those that are put aside."""
    different = sorted(set(texts))
    random.Random(seed).shuffle(different)
    aside = min(_MOST_ASIDE, int(_ASIDE * len(different)))
    return different[aside:], different[:aside]


def answers(labeller: fastmux.Labeller, texts: Sequence[Row]) -> list[list]:
    """The labels of each row: one, a set of several, or one for each word."""
    rows: list = [
        dict(zip(("text", "text_pair"), row, strict=True)) if isinstance(row, tuple) else row for row in texts
    ]
    if labeller.per_token:
        return [answer["tags"] for answer in labeller([{"words": row.split()} for row in rows])]
    # Several labels are given in the order of their scores.
    return [[answer["label"] if "label" in answer else sorted(answer["labels"])] for answer in labeller(rows)]


def unseen(original: Path, found: Path, behind: str | None, texts: Sequence[Row]) -> Share:
    """The share of the rows, or words, that get the original's labels from what was found, as its sentence runs it.

    Args:
        behind: What stands behind the chosen model, see `fastmux.searching.points.Point`.
    """
    options = {"fallback": str(original)} if behind else {}
    options |= {"runtime": "onnxruntime", "precision": INT8} if behind == SMALL_ORIGINAL else {}
    expected = answers(fastmux.Labeller(str(original), truncation=True), texts)
    said = answers(fastmux.Labeller(str(found), truncation=True, **options), texts)
    same = [a == b for own, other in zip(expected, said, strict=True) for a, b in zip(own, other, strict=True)]
    row = np.repeat(np.arange(len(expected)), [len(own) for own in expected])
    return Share.of(np.array(same, float), row if len(row) > len(expected) else None)


def searched_for(model: Path, texts: Sequence[Row], folder: Path, options: dict) -> dict:
    """What a search found, as its ``search.json`` says it; one that was finished is not made again.

    Raises:
        ValueError: It was interrupted.
    """
    record = folder / "search.json"
    if not (record.is_file() and read_json(record)["finished"]):
        print(fastmux.search(str(model), texts, folder, **options).sentence, flush=True)
    found = read_json(record)
    if not found["finished"]:
        raise ValueError("interrupted: the same command goes on with this search")
    return found


def entry(found: dict, share: Share, asked: float) -> dict:
    """What is recorded of a search, of which ``found`` is the ``search.json``."""
    chosen = found["chosen"]
    low, high = share.interval()
    return {
        "chosen": chosen["name"],
        "speed_up": chosen["speed_up"],
        "speed_up_forward": chosen["speed_up_forward"],
        "met": found["met"],
        "reported": chosen["agreement"]["mean"],
        "unseen": share.mean,
        "unseen_low": low,
        "unseen_high": high,
        "labels": share.count,
        "kept": share.mean >= asked - SLACK,
        "steps": max((history[-1][0] for history in found["history"].values() if history), default=0),
    }


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    entries = result["promises"]
    met = [one for one in entries if one["met"]]
    kept, speeds = sum(one["kept"] for one in met), sorted(one["speed_up"] for one in entries)
    yield (
        f"{len(entries)} searches on text of which a part was put aside: rows that nothing was trained, chosen or "
        "reported on. `python bench/promises.py MODEL=ROWS ...`."
    )
    columns = {"original": "{model}", "seed": "{seed}", "asked": "{agreement:.3f}", "minutes": "{minutes:g}"}
    columns |= {"longest training, steps": "{steps}", "found": "{chosen}", "x original": "{speed_up:.2f}"}
    columns |= {"x Hugging Face's": "{speed_up_forward:.2f}", "reported": "{reported:.4f}", "unseen": "{unseen:.4f}"}
    columns |= {"between": "{unseen_low:.4f} to {unseen_high:.4f}", "labels": "{labels:,}"}
    yield table(entries, columns | {"kept": lambda row: "yes" if row["kept"] else "no"})
    yield (
        f"**{kept} of the {len(met)} searches that promised an agreement kept it on unseen rows, less at most half a "
        f"point; what they found is {speeds[0]:.1f} to {speeds[-1]:.1f} times as fast as the original.**"
    )


def _recorded(output: Path) -> list[dict]:
    """The entries of a file that this program wrote before.

    Raises:
        ValueError: Another one did.
    """
    entries = read_json(output).get("promises") if output.is_file() else []
    if entries is None or any(set(_SEARCH) - set(one) for one in entries):
        raise ValueError(f"--output {output} holds something else than searches of this program; give another file")
    return entries


def _digest(model: Path, texts: Sequence[Row]) -> str:
    """Tells models and rows apart whose files have the same names."""
    found = hashlib.sha256(repr(texts).encode())
    for path in sorted(model.glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def main(argv: list[str] | None = None) -> list[dict]:
    parser = options_of(__doc__)
    parser.add_argument("pairs", nargs="+", metavar="MODEL=ROWS", help="A classifier's folder, and a file of rows.")
    parser.add_argument("--column", help="The column of the text.")
    parser.add_argument("--pair_column", help="The column of the second text of a pair.")
    parser.add_argument("--agreement", type=fraction, default=0.98, help="What is asked for.")
    parser.add_argument("--minutes", type=float, default=10.0, help="How long each search takes.")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0], help="One search each.")
    parser.add_argument("--work", type=Path, default=Path("runs/promises"), help="A folder for what is found.")
    args = parser.parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    pairs = [tuple(map(Path, pair.partition("=")[::2])) for pair in args.pairs]
    if missing := [path for pair in pairs for path in pair if not path.exists() or path == Path()]:
        parser.error(f"{missing[0]} is not there; expected MODEL=ROWS")
    output = args.output or results_folder(CPU) / "promises.json"
    entries = _recorded(output)
    result = {"machine": machine_info(CPU), "promises": entries}
    for model, _ in pairs:
        fastmux.Labeller(str(model), truncation=True)  # raises what is wrong, before the first search
    read = {pair: fastmux.read_texts([pair[1]], args.column, args.pair_column) for pair in pairs}
    for (model, file), texts in read.items():
        for seed in args.seeds:
            own = dict(zip(_SEARCH, (model.name, file.name, seed, args.agreement, args.minutes), strict=True))
            digest = _digest(model, texts)
            if any(all(one[k] == own[k] for k in _SEARCH) and one.get("digest", digest) == digest for one in entries):
                continue
            own["digest"] = digest
            searched, aside = parted(texts, seed)
            folder = args.work / "-".join(map(str, own.values()))
            options = {"agreement": args.agreement, "minutes": args.minutes, "clock": "cpu", "seed": seed}
            found = searched_for(model, searched, folder, options)
            share = unseen(model, folder, found["chosen"]["behind"], aside)
            entries.append(own | entry(found, share, args.agreement))
            write_json(output, result)
    finish(result, section, output)
    return entries


if __name__ == "__main__":
    run_program(main)
