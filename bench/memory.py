"""Peak memory of a training step of T-MUX beside the plain encoder that runs the same number of encoder rows.

    python bench/memory.py                                   # the encoder of the task stdlib, N = 10, index and unbind
    python bench/memory.py --num_instances 2 10 40 --groups 8 64

A step is forward, backward and AdamW, on random tokens, for sequence classification; T-MUX with its auxiliary
retrieval loss. T-MUX has G * N rows in its batch, of which G groups reach the encoder; the plain encoder has G rows.
One step is run before the one that is measured, so that AdamW's moments exist. `index` gives the encoder L + N + 1
positions; a last row shows what the plain encoder takes with as many.

What is counted: the bytes of all tensor storages alive at one time, to the byte, by `StorageTracker`, which sees every
tensor that a PyTorch operator returns. Workspaces inside one operator are not tensors and not counted. On a GPU the
peak is `torch.cuda.max_memory_allocated`, which counts workspaces and rounds up; `StorageTracker` then only says what
holds it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import fastmux
from bench import random_bert
from bench.audit.storage import Scopes, StorageTracker
from bench.machine import default_device, machine_info, results_folder
from fastmux.files import write_json

MIB = 2**20
NUM_LABELS = 12
DEMULTIPLEXERS = ("index", "key", "unbind")
#: The recipe of the task stdlib.
STDLIB = SimpleNamespace(
    **yaml.safe_load((Path(__file__).resolve().parents[1] / "training" / "recipes" / "stdlib.yaml").read_text())
)


@dataclass
class Row:
    """One model's step."""

    model: str
    num_instances: int
    groups: int
    length: int
    rows: int
    parameter_bytes: int
    peak_bytes: int
    ratio_to_plain: float
    at_peak: dict[str, int]


def measure(
    model: nn.Module, batch: dict[str, torch.Tensor], parts: dict[str, tuple[object, str]]
) -> tuple[int, dict[str, int]]:
    """(peak bytes, bytes by holder at the peak) of one step of AdamW, after a first step that makes its moments.

    parts: see `bench.audit.storage.Scopes`.
    """
    device = batch["input_ids"].device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    step(model, batch, optimizer)
    gc.collect()
    tracker = StorageTracker()
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.adopt(tensor, "parameters and buffers")
    for state in optimizer.state.values():
        for tensor in state.values():
            tracker.adopt(tensor, "AdamW's moments")
    for tensor in batch.values():
        tracker.adopt(tensor, "batch")
    scopes = Scopes(tracker, parts)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    with tracker:
        step(model, batch, optimizer, tracker)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else tracker.peak
    scopes.remove()
    tracker.stop()
    return peak, tracker.at_peak()


def step(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    tracker: StorageTracker | None = None,
) -> None:
    """One step of training; a tracker is told which phase it is in."""
    tracker = tracker or StorageTracker()
    tracker.scope = "forward, the rest"
    loss = model(**batch).loss
    tracker.scope = "backward, gradients on their way"
    loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            tracker.name(parameter.grad, "gradients of parameters")
    tracker.scope = "AdamW, temporaries"
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def parts_of(model: nn.Module) -> dict[str, tuple[object, str]]:
    """The parts of a model that the report tells apart."""
    if not isinstance(model, fastmux.TMuxForSequenceClassification):
        return {
            "embeddings": (model.bert.embeddings, "forward"),
            "encoder": (model.bert.encoder, "forward"),
            "head": (model.classifier, "forward"),
        }
    return {
        "embeddings and multiplexer": (model.tmux, "encode"),
        "encoder": (model.tmux.backbone.encoder, "forward"),
        "retrieval loss": (model.retrieval, "loss"),
        "demultiplexer": (model.tmux.demultiplexer, "forward"),
        "head": (model.classifier, "forward"),
    }


def random_batch(rows: int, length: int, vocab_size: int, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(vocab_size, (rows, length), device=device),
        "attention_mask": torch.ones(rows, length, dtype=torch.long, device=device),
        "labels": torch.randint(NUM_LABELS, (rows,), device=device),
    }


def compare(config: PreTrainedConfig, args: argparse.Namespace) -> list[Row]:
    """For every G: the plain encoder, T-MUX in all its forms, the plain encoder on as many positions as `index`."""
    rows: list[Row] = []

    def add(
        name: str, model: nn.Module, groups: int, n: int = 1, length: int = args.length, plain: Row | None = None
    ) -> Row:
        model = model.to(args.device).train()
        batch = random_batch(groups * n, length, config.vocab_size, args.device)
        peak, holders = measure(model, batch, parts_of(model))
        parameters = sum(p.numel() * p.element_size() for p in model.parameters())
        ratio = peak / (plain.peak_bytes if plain else peak)
        rows.append(Row(name, n, groups, length, groups * n, parameters, peak, ratio, holders))
        progress.update()
        return rows[-1]

    def plain_model() -> nn.Module:
        return AutoModelForSequenceClassification.from_config(copy.deepcopy(config))

    cases = [(name, n) for name in args.demultiplexers for n in args.num_instances]
    prefixes = args.num_instances if "index" in args.demultiplexers else []
    total = len(args.groups) * (1 + len(cases) + len(prefixes))
    with tqdm(total=total, unit="model", disable=args.disable_tqdm) as progress:
        for groups in args.groups:
            plain = add("plain", plain_model(), groups)
            for name, n in cases:
                model = fastmux.TMuxForSequenceClassification.from_backbone(
                    copy.deepcopy(config), n, demultiplexer=name, num_labels=NUM_LABELS
                )
                add(name, model, groups, n, plain=plain)
            for n in prefixes:
                add("plain", plain_model(), groups, length=args.length + n + 1, plain=plain)
    return rows


def table(rows: list[Row]) -> str:
    """Peaks and ratios; below them, for each model, what holds the peak."""
    head = f"{'model':8}{'N':>4}{'G':>5}{'L':>5}{'rows':>7}{'parameters':>13}{'peak':>12}{'ratio':>8}"
    lines = [head, "-" * len(head)]
    for r in rows:
        lines.append(
            f"{r.model:8}{r.num_instances:>4}{r.groups:>5}{r.length:>5}{r.rows:>7}{r.parameter_bytes / MIB:>9.1f} MiB"
            f"{r.peak_bytes / MIB:>8.1f} MiB{r.ratio_to_plain:>8.3f}"
        )
    for r in rows:
        lines += ["", f"{r.model}, N = {r.num_instances}, G = {r.groups}, L = {r.length}, at the peak:"]
        lines += [f"{size / MIB:10.2f} MiB  {holder}" for holder, size in r.at_peak.items() if size >= 0.005 * MIB]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--num_instances", nargs="+", type=random_bert.positive, default=[10], metavar="N", help="(default: 10)")
    add("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=["index", "unbind"])
    add(
        "--groups",
        nargs="+",
        type=random_bert.positive,
        default=[8],
        metavar="G",
        help="rows of the encoder (default: 8)",
    )
    add("--length", type=random_bert.positive, default=64, metavar="L", help="tokens of a row (default: 64)")
    add("--dropout", type=float, default=0.1, help="(default: 0.1)")
    random_bert.add_arguments(parser, preset="embedded", vocab_size=4096)
    add("--device", type=torch.device, default=default_device(), help="(default: the accelerator, else cpu)")
    add("--seed", type=int, default=0)
    add("--output_dir", type=Path, help="for memory.json (default: bench/results/<device>)")
    add("--disable_tqdm", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    args.config = random_bert.config(
        parser,
        args,
        positions=args.length + max(args.num_instances) + 1,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        num_labels=NUM_LABELS,
    )
    args.output_dir = args.output_dir or results_folder(args.device)
    return args


def main(argv: list[str] | None = None) -> list[Row]:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    rows = compare(args.config, args)
    print(table(rows))
    result = {
        "machine": machine_info(args.device),
        "encoder": random_bert.sizes(args.config) | {"dropout": args.dropout},
        "rows": [asdict(row) for row in rows],
    }
    write_json(args.output_dir / "memory.json", result)
    print(f"\nwritten to {args.output_dir / 'memory.json'}")
    return rows


if __name__ == "__main__":
    main()
