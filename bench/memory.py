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
import gc
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import workload
from bench.machine import machine_info, results_folder
from bench.timing import peak_bytes
from fastmux.files import write_json
from fastmux.training.formatting import table
from fastmux.training.programs import finish, positive

NUM_LABELS = 12


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


def listed(args: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """(model, N, encoder rows, length) of all that is measured. For each G the plain encoder comes first, and last the
    plain encoder on as many positions as `index` has."""
    for groups in args.groups:
        yield "plain", 1, groups, args.length
        for name, n in itertools.product(args.demultiplexers, args.num_instances):
            yield name, n, groups, args.length
        for n in args.num_instances if "index" in args.demultiplexers else []:
            yield "plain", 1, groups, args.length + n + 1


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder = result["encoder"]
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}. Peak memory of a training step: "
        "`python bench/memory.py`."
    )
    columns = {
        "": lambda row: row["model"] if row["model"] == "plain" else f"`{row['model']}`",
        "N": "{num_instances}",
        "encoder rows": "{groups}",
        "L": "{length}",
        "MiB": lambda row: f"{row['peak_bytes'] / 2**20:.1f}",
        "x plain": "{ratio_to_plain:.3f}",
    }
    yield table(result["rows"], columns)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = workload.parser(__doc__, "embedded", 4096, num_instances=[10], demultiplexers=["index", "unbind"])
    add = parser.add_argument
    add("--groups", nargs="+", type=positive, default=[8], metavar="G", help="The rows of the encoder.")
    add("--length", type=positive, default=64, metavar="L", help="The tokens of a row.")
    add("--dropout", type=float, default=0.1, help="The probability of dropout.")
    add("--disable_tqdm", action="store_true", help="Show no progress bar.")
    args = parser.parse_args(argv)
    dropout = {"hidden_dropout_prob": args.dropout, "attention_probs_dropout_prob": args.dropout}
    args.config = workload.config(parser, args, args.length + max(args.num_instances) + 1, **dropout)
    args.output = args.output or results_folder(args.device) / "memory.json"
    return args


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    encoder = workload.sizes(args.config) | {"dropout": args.dropout}
    rows: list[dict] = []
    result = {"machine": machine_info(args.device), "encoder": encoder, "rows": rows}
    for name, n, groups, length in tqdm(list(listed(args)), unit="model", disable=args.disable_tqdm):
        demultiplexer = None if name == "plain" else name
        model = workload.model("sequence", args.config, demultiplexer, n, NUM_LABELS).to(args.device).train()
        batch = {
            "input_ids": torch.randint(args.vocab_size, (groups * n, length), device=args.device),
            "labels": torch.randint(NUM_LABELS, (groups * n,), device=args.device),
        }
        peak = measure(model, batch)
        plain = next((row for row in rows if row["groups"] == groups), {"peak_bytes": peak})
        row = {"model": name, "num_instances": n, "groups": groups, "length": length, "rows": groups * n}
        row |= {"parameter_bytes": sum(p.nbytes for p in model.parameters()), "peak_bytes": peak}
        rows.append(row | {"ratio_to_plain": peak / plain["peak_bytes"]})
        write_json(args.output, result)
    finish(result, section, args.output)
    return rows


if __name__ == "__main__":
    main()
