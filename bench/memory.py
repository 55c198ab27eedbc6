"""Peak memory of a training step of T-MUX beside that of the plain encoder that runs the same number of encoder rows.

    python bench/memory.py                                   # the encoder of the task stdlib, N = 10, index and unbind
    python bench/memory.py --num_instances 2 10 40 --groups 8 64

A step is forward, backward and AdamW, on random tokens, for sequence classification. T-MUX has its auxiliary retrieval
loss. The batch of T-MUX has G * N rows, which the encoder sees as G groups; the batch of the plain encoder has G rows.
A first step, which is not measured, makes AdamW's moments. `index` gives the encoder L + N + 1 positions, so a last row
shows what the plain encoder takes with as many.

The peak is the memory of parameters, buffers, moments and batch, and the most that the allocator adds to it during the
step: by the profiler's count on a CPU, by `torch.cuda.max_memory_allocated` on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import fastmux
from bench import random_bert
from bench.machine import machine_info, results_folder
from bench.random_bert import positive
from bench.timing import peak_bytes
from fastmux.files import write_json
from training.formatting import markdown

NUM_LABELS = 12
DEMULTIPLEXERS = ("index", "key", "unbind")


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One step of training."""
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """The peak, in bytes, of a step of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    step(model, batch, optimizer)
    gc.collect()
    held = tree_leaves([list(model.parameters()), list(model.buffers()), list(optimizer.state.values()), batch])
    stays = sum(t.nbytes for t in held if isinstance(t, Tensor))
    return stays + peak_bytes(partial(step, model, batch, optimizer), batch["labels"].device)


def compare(args: argparse.Namespace, report) -> None:
    """For every G: the plain encoder, T-MUX in all its forms, and the plain encoder on as many positions as `index`."""
    plain_peak = 0

    def add(model: nn.Module, groups: int, name: str = "plain", n: int = 1, length: int = args.length) -> None:
        nonlocal plain_peak
        model = model.to(args.device).train()
        rows = groups * n
        batch = {
            "input_ids": torch.randint(args.vocab_size, (rows, length), device=args.device),
            "labels": torch.randint(NUM_LABELS, (rows,), device=args.device),
        }
        peak = measure(model, batch)
        plain_peak = plain_peak or peak
        row = {"model": name, "num_instances": n, "groups": groups, "length": length, "rows": rows}
        row["parameter_bytes"] = sum(p.nbytes for p in model.parameters())
        report(row | {"peak_bytes": peak, "ratio_to_plain": peak / plain_peak})

    def plain() -> nn.Module:
        return AutoModelForSequenceClassification.from_config(copy.deepcopy(args.config))

    for groups in args.groups:
        plain_peak = 0
        add(plain(), groups)
        for name in args.demultiplexers:
            for n in args.num_instances:
                config, options = copy.deepcopy(args.config), {"demultiplexer": name, "num_labels": NUM_LABELS}
                add(fastmux.TMuxForSequenceClassification.from_backbone(config, n, **options), groups, name, n)
        for n in args.num_instances if "index" in args.demultiplexers else []:
            add(plain(), groups, length=args.length + n + 1)


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder = result["encoder"]
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}. Peak memory of a training step: "
        "`python bench/memory.py`."
    )
    rows = []
    for r in result["rows"]:
        cells = [r["model"] if r["model"] == "plain" else f"`{r['model']}`"]
        cells += [str(r[name]) for name in ("num_instances", "groups", "length")]
        rows.append([*cells, f"{r['peak_bytes'] / 2**20:.1f}", f"{r['ratio_to_plain']:.3f}"])
    yield markdown(["", "N", "encoder rows", "L", "MiB", "x plain"], rows)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = random_bert.parser(__doc__, preset="embedded", vocab_size=4096)
    add = parser.add_argument
    add("--num_instances", nargs="+", type=positive, default=[10], metavar="N", help="(default: 10)")
    add("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=["index", "unbind"])
    add("--groups", nargs="+", type=positive, default=[8], metavar="G", help="rows of the encoder (default: 8)")
    add("--length", type=positive, default=64, metavar="L", help="tokens of a row (default: 64)")
    add("--dropout", type=float, default=0.1, help="(default: 0.1)")
    add("--disable_tqdm", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    dropout = {"hidden_dropout_prob": args.dropout, "attention_probs_dropout_prob": args.dropout}
    positions = args.length + max(args.num_instances) + 1
    args.config = random_bert.config(parser, args, positions, num_labels=NUM_LABELS, **dropout)
    args.output = args.output or results_folder(args.device) / "memory.json"
    return args


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    encoder = random_bert.sizes(args.config) | {"dropout": args.dropout}
    rows: list[dict] = []
    result = {"machine": machine_info(args.device), "encoder": encoder, "rows": rows}
    models = len(args.demultiplexers) + ("index" in args.demultiplexers)
    with tqdm(
        total=len(args.groups) * (1 + models * len(args.num_instances)), unit="model", disable=args.disable_tqdm
    ) as bar:

        def report(row: dict) -> None:
            rows.append(row)
            write_json(args.output, result)
            bar.update()

        compare(args, report)
    print("\n\n".join(section(result)) + f"\n\nwritten to {args.output}")
    return rows


if __name__ == "__main__":
    main()
