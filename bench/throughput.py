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
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import workload
from bench.machine import machine_info, results_folder
from bench.runner import Runner, TrainingRunner, fastest, measure
from bench.timing import quartiles
from bench.workload import TASKS
from fastmux.files import write_json
from fastmux.functional import fixed_weights
from fastmux.passes.timer import CLOCKS
from fastmux.training.formatting import table
from fastmux.training.programs import finish, positive

MANY = {"nargs": "+", "type": positive}
#: Options whose defaults are others on a GPU: their kind, help, and default on a CPU and on a GPU.
USUAL = {
    "dtype": ({"choices": ["float32", "bfloat16", "float16"]}, "The dtype of the weights.", "float32", "bfloat16"),
    "execution": ({"choices": ["eager", "graphed", "compiled"]}, "How both sides run.", "eager", "graphed"),
    "batch_sizes": (
        MANY,
        "The plain encoder runs at the best of these.",
        [1, 2, 4, 8, 16, 32],
        [32, 64, 128, 256, 512],
    ),
    "group_counts": (MANY, "The best is taken for T-MUX.", [2, 4, 8], [1, 4, 16, 64, 256]),
    "min_seconds": ({"type": float}, "The shortest time of a measurement; 0 stands for one pass.", 0.0, 0.2),
}


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
    plains: dict[str, Runner] = {}
    compiled: dict[str, dict[str, Runner]] = {}
    for n, task, demultiplexer in tqdm(cases, unit="model", smoothing=0, disable=args.disable_tqdm):
        if time.perf_counter() > end:
            print(f"out of time before {task}, {demultiplexer}, N = {n}", flush=True)
            return
        make = partial(TrainingRunner, per_position=task == "token") if args.training else Runner
        if task not in plains:
            model = _ready(workload.model(task, args.config), args)
            sizes = [make(model, b, b, args, args.execution) for b in args.batch_sizes]
            # A quarter of the remaining time at most: the rest is for the models beside it.
            now = time.perf_counter()
            plain = plains[task] = fastest(sizes, args.tune_repeats, now + (end - now) / 4)
            compiled[task] = {}
            if args.compiled_plain:
                compiled[task] = {"plain": make(model, plain.rows, plain.rows, args, "compiled")}
                compiled[task]["plain"].warm_up()
        plain = plains[task]
        # As the plain one's, the loss is the task's alone.
        model = _ready(workload.model(task, args.config, demultiplexer, n, retrieval_loss_weight=0.0), args)
        runners = [make(model, g * n, g, args, args.execution) for g in args.group_counts]
        if args.every_group:
            for runner in runners:
                runner.warm_up()
        else:
            runners = [fastest(runners, args.tune_repeats, end)]
        samples = measure(plain, dict(enumerate(runners)) | compiled[task], args.repeats)
        for i, runner in enumerate(runners):
            report(_row(task, demultiplexer, n, runner, plain, samples[i], samples.get("plain"), args))


def _ready(model: PreTrainedModel, args: argparse.Namespace) -> PreTrainedModel:
    """Puts the model on the device, in its dtype and mode."""
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
    columns = {
        "": "{task}, `{demultiplexer}`",
        "N": "{num_instances}",
        "instances/s": "{instances_per_second:,.1f}",
        "x plain (quartiles)": "{ratio:.2f} ({ratio_quartiles[0]:.2f} to {ratio_quartiles[1]:.2f})",
        "limit": "{limit:.2f}",
        "of the limit": "{fraction_of_limit:.2f}",
    }
    if any(row.get("ratio_to_compiled_plain") for row in result["rows"]):
        columns["x compiled plain"] = "{ratio_to_compiled_plain:.4f}"
    yield table(best_groups(result["rows"]), columns)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = workload.parser(__doc__, "base", num_instances=[1, 2, 5, 10, 20, 40], demultiplexers=["index", "unbind"])
    add = parser.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="Labels of rows (2), or of tokens (9).")
    add("--length", type=positive, default=128, metavar="L", help="The tokens of an instance.")
    add("--training", action="store_true", help="Measure steps of training, with the task's loss alone.")
    add("--attn_implementation", default="sdpa", help="The attention of both sides.")
    add("--compiled_plain", action="store_true", help="Measure the plain encoder compiled as well.")
    for name, (kind, help, cpu, gpu) in USUAL.items():
        add(f"--{name}", **kind, help=f"{help} Default: {cpu} on a CPU, {gpu} on a GPU.")
    add("--every_group", action="store_true", help="Give a row for each of --group_counts, not the best alone.")
    add("--budget", type=float, default=float("inf"), help="The seconds after which no model is begun.")
    add("--repeats", type=positive, default=7, help="The measurements of each row, in turns.")
    add("--tune_repeats", type=positive, default=1, help="The measurements of each batch size to choose from.")
    help = "The time on the clock, or the processor's of one thread, for a machine that others use too."
    add("--clock", choices=CLOCKS, default="wall", help=help)
    add("--num_threads", type=positive, help="The threads of torch on a CPU. Default: torch's choice.")
    add("--disable_tqdm", action="store_true", help="Show no progress bar.")
    args = parser.parse_args(argv)

    gpu, asked = args.device.type != "cpu", args.execution
    if args.clock == "cpu":
        if gpu or args.num_threads not in (None, 1):
            parser.error("--clock cpu is for one thread of a CPU; leave out --device and --num_threads")
        args.num_threads = 1
    for name, (_, _, *defaults) in USUAL.items():
        if getattr(args, name) is None:
            setattr(args, name, defaults[gpu])
    if args.training and args.execution == "graphed":
        if asked:
            parser.error("--execution graphed captures forward passes; give eager or compiled with --training")
        args.execution = "eager"
    if args.execution == "graphed" and not gpu:
        parser.error("--execution graphed needs a GPU, whose graphs it is about")
    args.output = args.output or results_folder(args.device) / "throughput.json"
    args.torch_dtype = getattr(torch, args.dtype)
    # Room for the longest prefix too, as an encoder that is to be multiplexed must have.
    positions = max(512, args.length + max(args.num_instances) + 1)
    args.config = workload.config(parser, args, positions)
    args.config._attn_implementation = args.attn_implementation
    return args


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    names = ["training", "length", "dtype", "execution", "compiled_plain", "clock", "attn_implementation"]
    names += ["batch_sizes", "group_counts", "repeats", "seed"]
    rows: list[dict] = []
    result = {"machine": machine_info(args.device), "encoder": workload.sizes(args.config)}
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
    finish(result, section, args.output)
    return rows


if __name__ == "__main__":
    main()
