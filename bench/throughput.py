"""Instances per second of T-MUX beside the plain encoder, and how much of the arithmetic limit is reached.

    python bench/throughput.py                                     # base-size encoder, both tasks, index and unbind
    python bench/throughput.py --preset small --num_instances 2 10 # a quick look
    python bench/throughput.py --training --num_instances 10 40    # steps of training in place of forward passes
    python bench/throughput.py --compiled_plain --every_group      # on a GPU: see below

Both sides run the same encoder (random weights from one config) in eval mode under `torch.inference_mode`, on random
tokens without padding: ids and mask in, logits out. The plain encoder runs at the best of several batch sizes, T-MUX
at the best of several group counts, both found in the run, or, with ``--every_group``, at each of them. Every T-MUX
measurement lies between two of the plain encoder, and the ratio is taken to the mean of these two, so that a machine
that slows down slows both; figures are medians over repeats.

On a GPU models run in bfloat16 and each pass is a captured CUDA graph, so that what launches cost the host is in
neither side. ``--execution compiled`` compiles both with `torch.compile` first (seconds to minutes for each number of
rows), and ``--compiled_plain`` measures the compiled and captured plain encoder in the same turns: the strongest there
is.

The limit is what counting encoder work allows, with everything around the encoder free:

- ``index`` runs L + N + 1 positions for N instances of L: limit N * L / (L + N + 1).
- ``key`` and ``unbind`` have no prefix: limit N on sequence tasks, where one position of each instance is
  demultiplexed.
- ``unbind`` on token tasks applies a linear layer of its own, 2 d^2 FLOPs, for every instance at every position. With
  E the FLOPs of the encoder for one position, E = layers * (8 d^2 + 4 d f + 4 L d) (four d x d projections; two of
  the feed-forward layer of width f; scores and weighted values over L positions; two FLOPs a multiply-add), N
  instances take E + N * 2 d^2 where the plain encoder takes N * E: limit N * E / (E + N * 2 d^2).

Task heads, embeddings, normalisation and elementwise work are in no limit: what they cost shows as a fraction below 1.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import fastmux
from bench import random_bert
from bench.machine import default_device, machine_info, results_folder
from bench.random_bert import positive
from bench.runner import Runner, TrainingRunner, fastest, measure
from bench.throughput_report import DEMULTIPLEXERS, Row, plot, table
from fastmux.files import replacing, write_json
from fastmux.functional import holding

# (plain model, multiplexed model, labels): a sentence-pair task and CoNLL-2003
TASKS = {
    "sequence": (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification, 2),
    "token": (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification, 9),
}
EXECUTIONS = ("eager", "graphed", "compiled")


def encoder_flops(config: PreTrainedConfig, length: int) -> int:
    """FLOPs of the encoder's matrix products, two a multiply-add, for one position of a sequence of ``length``."""
    d, f = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (8 * d * d + 4 * d * f + 4 * length * d)


def limit(task: str, demultiplexer: str, num_instances: int, length: int, config: PreTrainedConfig) -> float:
    """Speed-up over the plain encoder if everything but encoder positions, and unbind's linear layer, were free."""
    n = num_instances
    if demultiplexer == "index":
        return n * length / (length + n + 1)
    if demultiplexer == "unbind" and task == "token":
        encoder = encoder_flops(config, length)
        return n * encoder / (encoder + n * 2 * config.hidden_size**2)
    return float(n)


def sweep(args: argparse.Namespace, report: Callable[[list[Row]], object] = lambda rows: None) -> list[Row]:
    """All rows, task by task, as far as the budget goes; ``report`` is given those there are after every model."""
    end = time.perf_counter() + args.budget
    cases = [(name, n) for name in args.demultiplexers for n in args.num_instances]
    chosen = len(args.group_counts) if args.every_group else 1
    tried = len(args.group_counts) * (1 if args.every_group else args.tune_repeats + 1)
    runs = (args.tune_repeats + 1) * len(args.batch_sizes) + len(cases) * (tried + chosen * args.repeats)
    rows: list[Row] = []
    with tqdm(total=runs * len(args.tasks), unit="run", smoothing=0, disable=args.disable_tqdm) as progress:
        for task in args.tasks:
            plain_class, tmux_class, num_labels = TASKS[task]
            config = copy.deepcopy(args.config)
            config.num_labels = num_labels
            progress.set_description(f"{task}, plain")
            model = _ready(plain_class.from_config(config, attn_implementation=args.attn_implementation), args)
            make = partial(TrainingRunner, per_position=task == "token") if args.training else Runner
            sizes = [make(model, b, b, args, args.execution) for b in args.batch_sizes]
            # Of the time that is left, no more than half: what it is for is the models beside it.
            half = (time.perf_counter() + end) / 2
            plain = fastest(sizes, args.tune_repeats, progress, half)
            del sizes
            beside = {}
            if args.compiled_plain:
                beside["plain"] = make(model, plain.rows, plain.rows, args, "compiled")
                beside["plain"].warm_up()
            for demultiplexer, n in cases:
                if time.perf_counter() > end:
                    print(f"out of time before {task}, {demultiplexer}, N = {n}", flush=True)
                    return rows
                progress.set_description(f"{task}, {demultiplexer}, N = {n}")
                # From a config of its own, and not around the plain encoder: no state of one side reaches the other.
                config = copy.deepcopy(args.config)
                config._attn_implementation = args.attn_implementation
                options = {"num_labels": num_labels, "retrieval_loss_weight": 0.0}  # as the plain one: the task's loss
                model = tmux_class.from_backbone(config, n, demultiplexer=demultiplexer, **options)
                model = _ready(model, args)
                runners = [make(model, g * n, g, args, args.execution) for g in args.group_counts]
                if args.every_group:
                    for runner in runners:
                        runner.warm_up()
                        progress.update()
                else:
                    runners = [fastest(runners, args.tune_repeats, progress, end)]
                samples = measure(plain, dict(enumerate(runners)) | beside, args.repeats, progress)
                for i, runner in enumerate(runners):
                    rows.append(_row(task, demultiplexer, n, runner, plain, samples[i], samples.get("plain"), args))
                del runners
                report(rows)
    return rows


def _ready(model: PreTrainedModel, args: argparse.Namespace) -> PreTrainedModel:
    """The model as it is measured.

    Raises:
        RuntimeError: if its encoder runs another attention than the one asked for, which would be what is compared.
    """
    encoder = model.tmux.backbone if hasattr(model, "tmux") else model.base_model
    attention = encoder.config._attn_implementation
    if attention != args.attn_implementation:
        raise RuntimeError(
            f"the encoder of {type(model).__name__} runs attention {attention!r}, expected {args.attn_implementation!r}"
        )
    return model.to(args.device, args.torch_dtype).train(args.training)


def _row(task, demultiplexer, n, runner, plain, samples, compiled, args) -> Row:
    ratios = [around / ours for ours, around in samples]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    ratio, bound = statistics.median(ratios), limit(task, demultiplexer, n, args.length, args.config)
    return Row(
        task=task,
        demultiplexer=demultiplexer,
        num_instances=n,
        groups=runner.encoder_rows,
        plain_batch_size=plain.rows,
        instances_per_second=1 / statistics.median(ours for ours, _ in samples),
        plain_instances_per_second=1 / statistics.median(around for _, around in samples),
        ratio=ratio,
        ratio_quartiles=(low, high),
        limit=bound,
        fraction_of_limit=ratio / bound,
        # both over the plain encoder that ran around them
        ratio_to_compiled_plain=ratio / statistics.median(b / a for a, b in compiled) if compiled else None,
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="sequence: 2 labels; token: 9 labels"
    )
    what.add_argument("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=["index", "unbind"])
    what.add_argument("--num_instances", nargs="+", type=positive, default=[1, 2, 5, 10, 20, 40], metavar="N")
    what.add_argument("--length", type=positive, default=128, metavar="L", help="tokens of an instance (default: 128)")
    what.add_argument("--training", action="store_true", help="steps of training, with the task's loss alone")
    random_bert.add_arguments(parser, preset="base", vocab_size=30522)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--device", type=torch.device, default=default_device(), help="(default: the accelerator, else cpu)"
    )
    how.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="(default: float32 on a CPU, bfloat16 on a GPU)"
    )
    how.add_argument("--attn_implementation", default="sdpa", help="of both sides (default: sdpa)")
    how.add_argument(
        "--execution", choices=EXECUTIONS, help="of both sides (default: eager on a CPU, graphed on a GPU)"
    )
    how.add_argument("--compiled_plain", action="store_true", help="measure the plain encoder compiled as well")
    how.add_argument(
        "--batch_sizes",
        nargs="+",
        type=positive,
        metavar="B",
        help="the plain encoder runs at the best of these (default: 1 2 4 8 16 32 on a CPU, 32 to 512 on a GPU)",
    )
    how.add_argument(
        "--group_counts",
        nargs="+",
        type=positive,
        metavar="G",
        help="T-MUX runs at the best of these (default: 2 4 8 on a CPU, 1 to 256 on a GPU)",
    )
    how.add_argument("--every_group", action="store_true", help="a row for each of --group_counts, not the best alone")
    how.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no model is begun")
    how.add_argument("--repeats", type=positive, default=7, help="measurements of each row, in turns (default: 7)")
    how.add_argument("--tune_repeats", type=positive, default=1, help="measurements of each batch size to choose from")
    how.add_argument(
        "--min_seconds",
        type=float,
        help="a measurement repeats passes for so long (default: one pass on a CPU, 0.2 on a GPU)",
    )
    how.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time of one thread, for a machine that others use too (default: wall)",
    )
    how.add_argument("--num_threads", type=positive, help="of torch on a CPU (default: torch's choice)")
    how.add_argument("--seed", type=int, default=0)
    out = parser.add_argument_group("output")
    out.add_argument("--output_dir", type=Path, help="of the results (default: bench/results/<device>)")
    out.add_argument("--name", default="throughput", help="of NAME.json and NAME.png (default: throughput)")
    out.add_argument("--disable_tqdm", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)

    gpu = args.device.type != "cpu"
    if args.clock == "cpu":
        if gpu or args.num_threads not in (None, 1):
            parser.error("--clock cpu is for one thread of a CPU; leave out --device and --num_threads")
        args.num_threads = 1
    args.batch_sizes = args.batch_sizes or ([32, 64, 128, 256, 512] if gpu else [1, 2, 4, 8, 16, 32])
    args.group_counts = args.group_counts or ([1, 4, 16, 64, 256] if gpu else [2, 4, 8])
    if args.min_seconds is None:
        args.min_seconds = 0.2 if gpu else 0.0
    args.output_dir = args.output_dir or results_folder(args.device)
    args.execution = args.execution or ("graphed" if gpu and not args.training else "eager")
    if args.training and args.execution == "graphed":
        parser.error("--execution graphed captures forward passes; give eager or compiled with --training")
    if args.execution == "graphed" and not gpu:
        parser.error("--execution graphed needs a GPU, whose graphs it is about")
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    args.torch_dtype = getattr(torch, args.dtype)
    # Room for the longest prefix too, as an encoder that is to be multiplexed must have.
    positions = max(512, args.length + max(args.num_instances) + 1)
    args.config = random_bert.config(parser, args, positions)
    return args


def main(argv: list[str] | None = None) -> list[Row]:
    args = parse_args(argv)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    machine = machine_info(args.device)
    encoder = random_bert.sizes(args.config)
    options = (
        "training",
        "length",
        "dtype",
        "execution",
        "compiled_plain",
        "clock",
        "attn_implementation",
        "batch_sizes",
        "group_counts",
        "repeats",
        "seed",
    )

    def report(rows: list[Row]) -> None:
        """Kept after every model, whatever comes then."""
        result = {
            "machine": machine,
            "encoder": encoder,
            "options": {name: getattr(args, name) for name in options},
            "rows": [asdict(row) for row in rows],
        }
        write_json(args.output_dir / f"{args.name}.json", result)
        if args.disable_tqdm and rows:
            print(table(rows[-1:] if len(rows) > 1 else rows).splitlines()[-1], flush=True)

    with nullcontext() if args.training else holding():
        rows = sweep(args, report)
    print(f"\n{table(rows)}")
    sizes = f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, L = {args.length}, {args.dtype}"
    where = (
        machine["device"]
        if args.device.type != "cpu"
        else f"{machine['cpu']}, threads: {machine['threads']}, {args.clock} time"
    )
    if not rows:
        return rows
    with replacing(args.output_dir / f"{args.name}.png") as picture:
        plot(rows, f"{sizes}, {args.execution}; {where}; torch {machine['torch']}", picture)
    print(f"\nwritten to {args.output_dir}/{args.name}.json and {args.name}.png")
    return rows


if __name__ == "__main__":
    main()
