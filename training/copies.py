"""Accuracy against speed from one checkpoint: the models of a finished run, with 1, 2, ... N copies of every row.

    python training/copies.py runs/stdlib                 # prints a table, writes copies.json and copies.png in the run

A group of N slots serves N // copies rows, each in several slots, and averages their logits (MUX-PLM, "ensembling").
Every figure is over all evaluation rows: accuracy over several random groupings, instances per second over the same
passes, the plain encoder's in between.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastmux
from fastmux.files import read_json, write_json
from training.features import encode_sequences
from training.figures import measured
from training.folders import RunFolder
from training.models import PLAIN
from training.report import new_figure, save_figure
from training.results import environment
from training.tasks import make_task


def load_rows(run: RunFolder, settings: dict, data_dir: str | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The run's first evaluation split: (input_ids, attention_mask and, for pairs, token_type_ids; labels)."""
    task = make_task(settings)
    if task.kind != "sequence":
        raise ValueError(f"{run.path} holds a run of {task.name!r}; copies are measured on sequence tasks")
    split = next(iter(task.load(data_dir).evaluation.values()))
    tokenizer = AutoTokenizer.from_pretrained(run.model(PLAIN))
    rows = encode_sequences(tokenizer, split, settings["recipe"]["max_length"])
    padding = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    inputs = {
        name: pad_sequence([torch.tensor(row) for row in rows[name]], True, value)
        for name, value in padding.items()
        if name in rows.column_names
    }
    return inputs, torch.tensor(rows["labels"][:])


@torch.no_grad()
def predict_plain(model: torch.nn.Module, rows: dict[str, torch.Tensor], batch: int) -> torch.Tensor:
    """Logits of all rows, ``batch`` rows a pass: as many sequences as the multiplexed models' passes have."""
    parts = zip(*(t.split(batch) for t in rows.values()), strict=True)
    return torch.cat([model(**dict(zip(rows, part, strict=True))).logits for part in parts])


def measure(run: RunFolder, variants: list[str], groupings: int, batch: int, data_dir: str | None) -> list[dict]:
    """A record for the plain encoder and for every variant and number of copies."""
    settings = read_json(run.settings)
    rows, labels = load_rows(run, settings, data_dir)
    n = settings["recipe"]["num_instances"]
    plain = AutoModelForSequenceClassification.from_pretrained(run.model(PLAIN)).eval()
    calls = {(PLAIN, 1): lambda seed: predict_plain(plain, rows, batch)}
    for name in variants:
        model = fastmux.TMuxForSequenceClassification.from_pretrained(run.model(name)).eval()
        for copies in sorted({n // distinct for distinct in range(1, n + 1)}):
            calls[name, copies] = lambda seed, model=model, copies=copies: model.predict(
                **rows, copies=copies, grouping="random", seed=seed, groups_per_batch=batch
            )
    found: dict = {key: ([], []) for key in calls}
    for call in calls.values():
        call(0)  # warm-up
    for seed in range(groupings):
        for key, call in calls.items():
            start = time.perf_counter()
            logits = call(seed)
            rates, scores = found[key][0], found[key][1]
            rates.append(len(labels) / (time.perf_counter() - start))
            scores.append((logits.argmax(-1) == labels).double().mean().item())
    return [
        {
            "variant": name,
            "copies": copies,
            "rows_per_group": 1 if name == PLAIN else n // copies,
            "accuracy": statistics.fmean(scores),
            "accuracy_std": 0.0 if name == PLAIN or groupings < 2 else statistics.stdev(scores),
            "instances_per_second": statistics.median(rates),
        }
        for (name, copies), (rates, scores) in found.items()
    ]


def plot_copies(path: Path, records: list[dict]) -> None:
    """Draws accuracy over instances per second, a line for each variant; records as `measure` has them."""
    figure, axis = new_figure(figsize=(5.4, 3.8))
    for color, name in enumerate(dict.fromkeys(record["variant"] for record in records)):
        own = [record for record in records if record["variant"] == name]
        rates, scores, spread = (
            [record[key] for record in own] for key in ("instances_per_second", "accuracy", "accuracy_std")
        )
        axis.errorbar(rates, scores, yerr=spread, color=f"C{color}", marker="o", capsize=3, label=name)
        for record in own:
            point = (record["instances_per_second"], record["accuracy"])
            axis.annotate(f"{record['copies']}x", point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axis.set_xlabel("instances per second")
    axis.set_ylabel("accuracy")
    axis.set_title("copies of each row in a group", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of train.py")
    parser.add_argument("--variants", nargs="+", default=["index", "unbind"], metavar="NAME")
    parser.add_argument("--groupings", type=int, default=5, help="random groupings, and repeats of the timing")
    parser.add_argument("--batch", type=int, default=32, help="sequences that one pass of the encoder takes")
    parser.add_argument("--data-dir", help="as given to train.py")
    args = parser.parse_args(argv)
    run = RunFolder(args.run)
    for needed in (run.settings, *(run.model(name) for name in (PLAIN, *args.variants))):
        if not needed.exists():
            missing = needed.relative_to(args.run)
            raise ValueError(f"{args.run} holds no {missing}; expected the folder of a finished run of train.py")
    if args.groupings < 1 or args.batch < 1:
        raise ValueError(f"--groupings and --batch must be at least 1, got {args.groupings} and {args.batch}")
    records = measure(run, args.variants, args.groupings, args.batch, args.data_dir)
    first = records[0]["instances_per_second"]
    print(f"{'':10}{'copies':>7}{'rows/group':>12}{'accuracy':>18}{'instances/s':>13}{'x plain':>9}")
    for r in records:
        accuracy = measured(r["accuracy"], r["accuracy_std"])
        rate = r["instances_per_second"]
        print(
            f"{r['variant']:10}{r['copies']:>7}{r['rows_per_group']:>12}{accuracy:>18}{rate:>13.0f}{rate / first:>9.2f}"
        )
    write_json(args.run / "copies.json", {"environment": environment(), "records": records})
    plot_copies(args.run / "copies.png", records)
    print(f"\nwritten: {args.run}/copies.json, copies.png")
    return records


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
