"""Instances per second of T-MUX beside the plain encoder, and how much of the arithmetic limit is reached.

    python bench/throughput.py                                     # base-size encoder, both tasks, index and unbind
    python bench/throughput.py --preset small --num_instances 2 10 # a quick look
    python bench/throughput.py --training --num_instances 10 40    # steps of training in place of forward passes
    python bench/throughput.py --compiled_plain --every_group      # on a GPU: see below

Both sides run the same encoder (random weights from one config) in eval mode under `torch.inference_mode`, on random
tokens without padding and without a mask: ids in, logits out. The plain encoder runs at the best of several batch
sizes, T-MUX at the best of several group counts, both found in the run; with ``--every_group``, at each of them. Every
measurement of T-MUX lies between two of the plain encoder, and the ratio is to the mean of these two: if the machine
slows down, both slow down. Figures are medians over repeats. The first of ``--num_instances`` is measured first, for
every task and demultiplexer.

On a GPU models run in bfloat16 and each pass is a captured CUDA graph, so neither side pays the host for launches.
``--execution compiled`` compiles both with `torch.compile` first (seconds to minutes for each number of rows).
``--compiled_plain`` measures the compiled and captured plain encoder in the same turns, which is the strongest
baseline.

The limit counts the encoder's work, as if everything around the encoder were free:

- ``index`` runs L + N + 1 positions for N instances of L: limit N * L / (L + N + 1).
- ``key`` and ``unbind`` have no prefix: limit N on sequence tasks, where one position of each instance is
  demultiplexed.
- ``unbind`` on token tasks applies a linear layer of its own, 2 d^2 FLOPs, to every instance at every position. With
  E = layers * (8 d^2 + 4 d f + 4 L d), the FLOPs of the encoder for one position (four d x d projections; two of the
  feed-forward layer of width f; scores and weighted values over L positions; two FLOPs a multiply-add), N instances
  take E + N * 2 d^2 where the plain encoder takes N * E: limit N * E / (E + N * 2 d^2).

No limit counts task heads, embeddings, normalisation and elementwise work. They show as a fraction below 1.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
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
from bench.machine import machine_info, results_folder
from bench.random_bert import positive
from bench.runner import Runner, TrainingRunner, fastest, measure
from bench.timing import CLOCKS, quartiles
from fastmux.files import write_json
from fastmux.functional import fixed_weights
from training.formatting import markdown, number

#: (plain model, multiplexed model, labels), as of a sentence-pair task and of CoNLL-2003
TASKS = {
    "sequence": (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification, 2),
    "token": (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification, 9),
}
EXECUTIONS = ("eager", "graphed", "compiled")
DEMULTIPLEXERS = ("index", "key", "unbind")


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


def sweep(args: argparse.Namespace, report: Callable[[dict], object]) -> None:
    """Measures every N, task and demultiplexer, as far as the budget goes; ``report`` gets each row."""
    end = time.perf_counter() + args.budget
    cases = [(n, task, name) for n in args.num_instances for task in args.tasks for name in args.demultiplexers]
    chosen = len(args.group_counts) if args.every_group else 1
    tried = len(args.group_counts) * (1 if args.every_group else args.tune_repeats + 1)
    runs = (args.tune_repeats + 1) * len(args.batch_sizes) * len(args.tasks)
    plains: dict[str, Runner] = {}
    compiled: dict[str, dict[str, Runner]] = {}
    with tqdm(
        total=runs + len(cases) * (tried + chosen * args.repeats), unit="run", smoothing=0, disable=args.disable_tqdm
    ) as progress:
        for n, task, demultiplexer in cases:
            if time.perf_counter() > end:
                print(f"out of time before {task}, {demultiplexer}, N = {n}", flush=True)
                return
            plain_class, tmux_class, num_labels = TASKS[task]
            make = partial(TrainingRunner, per_position=task == "token") if args.training else Runner
            if task not in plains:
                progress.set_description(f"{task}, plain")
                config = copy.deepcopy(args.config)
                config.num_labels = num_labels
                model = _ready(plain_class.from_config(config, attn_implementation=args.attn_implementation), args)
                sizes = [make(model, b, b, args, args.execution) for b in args.batch_sizes]
                # A quarter of the remaining time at most: the rest is for the models beside it.
                now = time.perf_counter()
                plains[task] = fastest(sizes, args.tune_repeats, progress, now + (end - now) / 4)
                compiled[task] = {}
                if args.compiled_plain:
                    rows = plains[task].rows
                    compiled[task] = {"plain": make(model, rows, rows, args, "compiled")}
                    compiled[task]["plain"].warm_up()
            plain = plains[task]
            progress.set_description(f"{task}, {demultiplexer}, N = {n}")
            # Made from a config of its own, and not around the plain encoder: the two sides share no state.
            config = copy.deepcopy(args.config)
            config._attn_implementation = args.attn_implementation
            options = {"num_labels": num_labels, "retrieval_loss_weight": 0.0}  # as the plain one: the task's loss
            model = _ready(tmux_class.from_backbone(config, n, demultiplexer=demultiplexer, **options), args)
            runners = [make(model, g * n, g, args, args.execution) for g in args.group_counts]
            if args.every_group:
                for runner in runners:
                    runner.warm_up()
                    progress.update()
            else:
                runners = [fastest(runners, args.tune_repeats, progress, end)]
            samples = measure(plain, dict(enumerate(runners)) | compiled[task], args.repeats, progress)
            for i, runner in enumerate(runners):
                report(_row(task, demultiplexer, n, runner, plain, samples[i], samples.get("plain"), args))


def _ready(model: PreTrainedModel, args: argparse.Namespace) -> PreTrainedModel:
    """Puts the model on the device, in its dtype and mode.

    Raises:
        RuntimeError: if its encoder runs another attention than the one that was asked for.
    """
    encoder = model.tmux.backbone if hasattr(model, "tmux") else model.base_model
    attention = encoder.config._attn_implementation
    if attention != args.attn_implementation:
        raise RuntimeError(
            f"the encoder of {type(model).__name__} runs attention {attention!r}, expected {args.attn_implementation!r}"
        )
    return model.to(args.device, args.torch_dtype).train(args.training)


def _row(task, demultiplexer, n, runner, plain, samples, compiled, args) -> dict:
    """T-MUX with N instances, beside the plain encoder that ran around it."""
    ratios = [around / ours for ours, around in samples]
    ratio, bound = statistics.median(ratios), limit(task, demultiplexer, n, args.length, args.config)
    return {
        "task": task,
        "demultiplexer": demultiplexer,
        "num_instances": n,
        "groups": runner.encoder_rows,
        "plain_batch_size": plain.rows,
        "instances_per_second": 1 / statistics.median(ours for ours, _ in samples),
        "plain_instances_per_second": 1 / statistics.median(around for _, around in samples),
        "ratio": ratio,
        "ratio_quartiles": quartiles(ratios)[::2],
        "limit": bound,
        "fraction_of_limit": ratio / bound,
        # Both compared with the plain encoder that ran around them.
        "ratio_to_compiled_plain": ratio / statistics.median(b / a for a, b in compiled) if compiled else None,
    }


def best_groups(rows: list[dict]) -> list[dict]:
    """For each task, demultiplexer and N the row with the number of groups that serves most, in that order."""
    best: dict[tuple, dict] = {}
    for row in sorted(rows, key=lambda row: row["instances_per_second"]):
        best[row["task"], row["demultiplexer"], row["num_instances"]] = row
    return [best[key] for key in sorted(best)]


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote; of several numbers of groups, the best."""
    encoder, options = result["encoder"], result["options"]
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, L = {options['length']}, "
        f"{options['dtype']}, {options['attn_implementation']}, {options.get('execution', 'eager')}; "
        f"{options['clock']} clock, medians of {options['repeats']}, each beside plain "
        f"{'steps of training' if options.get('training') else 'passes'} at their best batch size. "
        f"`python bench/throughput.py{' --training' if options.get('training') else ''}`."
    )
    compiled = any(row.get("ratio_to_compiled_plain") for row in result["rows"])
    rows = []
    for r in best_groups(result["rows"]):
        low, high = r["ratio_quartiles"]
        cells = [f"{r['task']}, `{r['demultiplexer']}`", str(r["num_instances"]), f"{r['instances_per_second']:,.1f}"]
        cells += [f"{r['ratio']:.2f} ({low:.2f} to {high:.2f})", f"{r['limit']:.2f}", f"{r['fraction_of_limit']:.2f}"]
        rows.append(cells + ([number(r["ratio_to_compiled_plain"])] if compiled else []))
    head = ["", "N", "instances/s", "x plain (quartiles)", "limit", "of the limit"]
    yield markdown(head + (["x compiled plain"] if compiled else []), rows)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = random_bert.parser(__doc__, preset="base", vocab_size=30522)
    add, many = parser.add_argument, {"nargs": "+", "type": positive}
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="sequence: 2 labels; token: 9 labels")
    add("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=["index", "unbind"])
    add("--num_instances", **many, default=[1, 2, 5, 10, 20, 40], metavar="N")
    add("--length", type=positive, default=128, metavar="L", help="tokens of an instance (default: 128)")
    add("--training", action="store_true", help="measure steps of training, with the task's loss alone")
    dtypes = ["float32", "bfloat16", "float16"]
    add("--dtype", choices=dtypes, help="(default: float32 on a CPU, bfloat16 on a GPU)")
    add("--attn_implementation", default="sdpa", help="attention of both sides (default: sdpa)")
    add("--execution", choices=EXECUTIONS, help="how both sides run (default: eager on a CPU, graphed on a GPU)")
    add("--compiled_plain", action="store_true", help="measure the plain encoder compiled as well")
    help = "the plain encoder runs at the best of these (default: 1 2 4 8 16 32 on a CPU, 32 to 512 on a GPU)"
    add("--batch_sizes", **many, metavar="B", help=help)
    help = "T-MUX runs at the best of these numbers of groups (default: 2 4 8 on a CPU, 1 to 256 on a GPU)"
    add("--group_counts", **many, metavar="G", help=help)
    add("--every_group", action="store_true", help="a row for each of --group_counts, not the best alone")
    add("--budget", type=float, default=float("inf"), help="seconds after which no model is begun")
    add("--repeats", type=positive, default=7, help="measurements of each row, in turns (default: 7)")
    add("--tune_repeats", type=positive, default=1, help="measurements of each batch size to choose from (default: 1)")
    add("--min_seconds", type=float, help="least time of a measurement (default: one pass on a CPU, 0.2 on a GPU)")
    help = "cpu: processor time of one thread, for a machine that others use too (default: wall)"
    add("--clock", choices=CLOCKS, default="wall", help=help)
    add("--num_threads", type=positive, help="threads of torch on a CPU (default: torch's choice)")
    add("--disable_tqdm", action="store_true", help="no progress bar")
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
    args.output = args.output or results_folder(args.device) / "throughput.json"
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


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    names = ["training", "length", "dtype", "execution", "compiled_plain", "clock", "attn_implementation"]
    names += ["batch_sizes", "group_counts", "repeats", "seed"]
    rows: list[dict] = []
    result = {"machine": machine_info(args.device), "encoder": random_bert.sizes(args.config)}
    result |= {"options": {name: getattr(args, name) for name in names}, "rows": rows}

    def report(row: dict) -> None:
        """Keeps a row as soon as it is known, whatever comes then."""
        rows.append(row)
        write_json(args.output, result)
        told = "{task}, {demultiplexer}, N = {num_instances}, G = {groups}: {instances_per_second:.1f} instances/s, "
        tqdm.write((told + "{ratio:.2f} x plain, limit {limit:.2f}").format(**row), file=sys.stdout)
        sys.stdout.flush()

    with nullcontext() if args.training else fixed_weights():
        sweep(args, report)
    print("\n" + "\n\n".join(section(result)) + f"\n\nwritten to {args.output}")
    return rows


if __name__ == "__main__":
    main()
