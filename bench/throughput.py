"""Instances per second of T-MUX beside the plain encoder, and how much of the arithmetic limit is reached.

    python bench/throughput.py                                     # base-size encoder, both tasks, index and unbind
    python bench/throughput.py --preset small --num_instances 2 10 # a quick look

Both sides run the same encoder (random weights from one config) in eval mode under `torch.inference_mode`, on random
tokens without padding: ids and mask in, logits out. The plain encoder runs at the best of several batch sizes, T-MUX
at the best of several group counts, both found in the run. Every T-MUX measurement lies between two of the plain
encoder, and the ratio is taken to the mean of these two, so that a machine that slows down slows both; figures are
medians over repeats.

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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

if not __package__:
    # Run as a file: the repository root, and not this folder, goes on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import fastmux
from bench.machine import default_device, machine_info, results_folder, synchronize
from fastmux.files import replacing, write_json

PRESETS = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "small": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
}
# (plain model, multiplexed model, labels): a sentence-pair task and CoNLL-2003
TASKS = {
    "sequence": (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification, 2),
    "token": (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification, 9),
}
DEMULTIPLEXERS = ("index", "key", "unbind")
INPUT_SETS = 4


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


class Runner:
    """One model on batches of one size: forward passes, timed.

    Args:
        model: takes ids and mask (rows, length), returns logits.
        rows: of a batch, which are the instances that one pass serves.
        encoder_rows: sequences the encoder sees in one pass.
    """

    def __init__(self, model: Callable, rows: int, encoder_rows: int, args: argparse.Namespace):
        self.model, self.rows, self.encoder_rows, self.device = model, rows, encoder_rows, args.device
        shape = (rows, args.length)
        self.inputs = [
            (
                torch.randint(args.vocab_size, shape, device=self.device),
                torch.ones(shape, dtype=torch.long, device=self.device),
            )
            for _ in range(INPUT_SETS)
        ]
        self.passes = 1
        self.min_seconds = args.min_seconds
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter

    def warm_up(self) -> None:
        """Runs once for caches, compilation and allocators, then sees how many passes make a measurement."""
        self._seconds()
        if self.min_seconds:
            self.passes = max(1, round(self.min_seconds / self._seconds()))

    def seconds_per_instance(self) -> float:
        return self._seconds() / (self.passes * self.rows)

    @torch.inference_mode()
    def _seconds(self) -> float:
        synchronize(self.device)
        start = self.clock()
        for i in range(self.passes):
            ids, mask = self.inputs[i % INPUT_SETS]
            self.model(input_ids=ids, attention_mask=mask)
        synchronize(self.device)
        return self.clock() - start


@dataclass
class Row:
    """One line of the result: T-MUX with N instances, beside the plain encoder that ran around it."""

    task: str
    demultiplexer: str
    num_instances: int
    groups: int
    plain_batch_size: int
    instances_per_second: float
    plain_instances_per_second: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    limit: float
    fraction_of_limit: float


def fastest(runners: list[Runner], repeats: int, progress: tqdm) -> Runner:
    """The runner with the least time for an instance; measured in turns, the best of ``repeats`` each."""
    for runner in runners:
        runner.warm_up()
        progress.update()
    best = dict.fromkeys(range(len(runners)), float("inf"))
    for _ in range(repeats):
        for i, runner in enumerate(runners):
            best[i] = min(best[i], runner.seconds_per_instance())
            progress.update()
    return runners[min(best, key=best.get)]


def measure(
    plain: Runner, others: dict[tuple, Runner], repeats: int, progress: tqdm
) -> dict[tuple, list[tuple[float, float]]]:
    """By key, for every repeat: (seconds per instance, those of the plain encoder around it). The order rotates."""
    samples = {key: [] for key in others}
    keys = list(others)
    before = plain.seconds_per_instance()
    for repeat in range(repeats):
        shift = repeat * len(keys) // repeats
        for key in keys[shift:] + keys[:shift]:
            ours = others[key].seconds_per_instance()
            after = plain.seconds_per_instance()
            samples[key].append((ours, (before + after) / 2))
            before = after
            progress.update()
    return samples


def sweep(args: argparse.Namespace) -> list[Row]:
    """All rows, task by task."""
    cases = [(name, n) for name in args.demultiplexers for n in args.num_instances]
    runs = (args.tune_repeats + 1) * (len(args.batch_sizes) + len(cases) * len(args.group_counts)) + args.repeats * len(
        cases
    )
    rows = []
    with tqdm(total=runs * len(args.tasks), unit="run", smoothing=0, disable=args.disable_tqdm) as progress:
        for task in args.tasks:
            plain_class, tmux_class, num_labels = TASKS[task]
            config = copy.deepcopy(args.config)
            config.num_labels = num_labels
            progress.set_description(f"{task}, plain")
            model = _ready(plain_class.from_config(config, attn_implementation=args.attn_implementation), args)
            plain = fastest([Runner(model, b, b, args) for b in args.batch_sizes], args.tune_repeats, progress)
            chosen = {}
            for demultiplexer, n in cases:
                progress.set_description(f"{task}, {demultiplexer}, N = {n}")
                # From a config of its own, and not around the plain encoder: no state of one side reaches the other.
                config = copy.deepcopy(args.config)
                config._attn_implementation = args.attn_implementation
                model = tmux_class.from_backbone(config, n, demultiplexer=demultiplexer, num_labels=num_labels)
                model = _ready(model, args)
                runners = [Runner(model, g * n, g, args) for g in args.group_counts]
                chosen[demultiplexer, n] = fastest(runners, args.tune_repeats, progress)
            progress.set_description(f"{task}, in turns")
            samples = measure(plain, chosen, args.repeats, progress)
            rows += [_row(task, *key, chosen[key], plain, samples[key], args) for key in cases]
    return rows


def _ready(model: PreTrainedModel, args: argparse.Namespace) -> Callable:
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
    model = model.to(args.device, args.torch_dtype).eval()
    return torch.compile(model) if args.compile else model


def _row(task, demultiplexer, n, runner, plain, samples, args) -> Row:
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
    )


def table(rows: list[Row]) -> str:
    """The rows as text, one line each."""
    head = f"{'task':9}{'demux':8}{'N':>3}{'G':>5}{'inst/s':>10}{'plain':>10}{'ratio':>8}{'quartiles':>15}"
    head += f"{'limit':>8}{'reached':>9}"
    lines = [head, "-" * len(head)]
    for r in rows:
        quartiles = f"{r.ratio_quartiles[0]:.2f}-{r.ratio_quartiles[1]:.2f}"
        lines.append(
            f"{r.task:9}{r.demultiplexer:8}{r.num_instances:>3}{r.groups:>5}{r.instances_per_second:>10.2f}"
            f"{r.plain_instances_per_second:>10.2f}{r.ratio:>8.2f}{quartiles:>15}{r.limit:>8.2f}{r.fraction_of_limit:>9.3f}"
        )
    return "\n".join(lines)


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Speed-up over N, measured and limit, one panel a task; below it the fraction of the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(r.task for r in rows))
    figure, axes = plt.subplots(
        2, len(tasks), figsize=(5.2 * len(tasks), 6.4), sharex=True, squeeze=False, height_ratios=[2, 1]
    )
    colours = dict(zip(DEMULTIPLEXERS, ("tab:blue", "tab:green", "tab:orange"), strict=True))
    for (top, bottom), task in zip(axes.T, tasks, strict=True):
        for name in DEMULTIPLEXERS:
            own = sorted((r for r in rows if (r.task, r.demultiplexer) == (task, name)), key=lambda r: r.num_instances)
            if not own:
                continue
            n = [r.num_instances for r in own]
            top.plot(n, [r.limit for r in own], "--", color=colours[name], linewidth=1, label=f"{name}, limit")
            ratios = [r.ratio for r in own]
            errors = [
                [r.ratio - r.ratio_quartiles[0] for r in own],
                [r.ratio_quartiles[1] - r.ratio for r in own],
            ]
            top.errorbar(n, ratios, errors, fmt="o-", color=colours[name], markersize=4, label=f"{name}, measured")
            bottom.plot(n, [r.fraction_of_limit for r in own], "o-", color=colours[name], markersize=4)
        top.set(title=f"{task} classification", ylabel="instances per second, over plain")
        top.legend(fontsize=8)
        bottom.axhline(1, color="grey", linewidth=0.8)
        bottom.set(xlabel="instances N", ylabel="fraction of limit", ylim=(min(0.8, *bottom.get_ylim()), None))
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="sequence: 2 labels; token: 9 labels"
    )
    what.add_argument("--demultiplexers", nargs="+", choices=DEMULTIPLEXERS, default=["index", "unbind"])
    what.add_argument("--num_instances", nargs="+", type=_positive, default=[1, 2, 5, 10, 20, 40], metavar="N")
    what.add_argument("--length", type=_positive, default=128, metavar="L", help="tokens of an instance (default: 128)")
    encoder = parser.add_argument_group("encoder (BERT, random weights)")
    encoder.add_argument("--preset", choices=PRESETS, default="base", help="sizes to start from (default: base)")
    for name in PRESETS["base"]:
        encoder.add_argument(f"--{name}", type=_positive, help="instead of the preset's")
    encoder.add_argument("--vocab_size", type=_positive, default=30522)
    encoder.add_argument("--attn_implementation", default="sdpa", help="of both sides (default: sdpa)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--device", type=torch.device, default=default_device(), help="(default: the accelerator, else cpu)"
    )
    how.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    how.add_argument("--compile", action="store_true", help="torch.compile both sides")
    how.add_argument(
        "--batch_sizes",
        nargs="+",
        type=_positive,
        metavar="B",
        help="the plain encoder runs at the best of these (default: 1 2 4 8 16 32 on a CPU, 32 to 512 on a GPU)",
    )
    how.add_argument(
        "--group_counts",
        nargs="+",
        type=_positive,
        metavar="G",
        help="T-MUX runs at the best of these (default: 2 4 8 on a CPU, 16 to 128 on a GPU)",
    )
    how.add_argument("--repeats", type=_positive, default=7, help="measurements of each row, in turns (default: 7)")
    how.add_argument("--tune_repeats", type=_positive, default=1, help="measurements of each batch size to choose from")
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
    how.add_argument("--num_threads", type=_positive, help="of torch on a CPU (default: torch's choice)")
    how.add_argument("--seed", type=int, default=0)
    out = parser.add_argument_group("output")
    out.add_argument("--output_dir", type=Path, help="for throughput.json and .png (default: bench/results/<device>)")
    out.add_argument("--disable_tqdm", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)

    gpu = args.device.type != "cpu"
    if args.clock == "cpu":
        if gpu or args.num_threads not in (None, 1):
            parser.error("--clock cpu is for one thread of a CPU; leave out --device and --num_threads")
        args.num_threads = 1
    args.batch_sizes = args.batch_sizes or ([32, 64, 128, 256, 512] if gpu else [1, 2, 4, 8, 16, 32])
    args.group_counts = args.group_counts or ([16, 32, 64, 128] if gpu else [2, 4, 8])
    if args.min_seconds is None:
        args.min_seconds = 0.2 if gpu else 0.0
    args.output_dir = args.output_dir or results_folder(args.device)
    args.torch_dtype = getattr(torch, args.dtype)
    sizes = {name: getattr(args, name) or size for name, size in PRESETS[args.preset].items()}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        parser.error(
            "--hidden_size {hidden_size} is no multiple of --num_attention_heads {num_attention_heads}".format(**sizes)
        )
    # Room for the longest prefix too, as an encoder that is to be multiplexed must have.
    positions = max(512, args.length + max(args.num_instances) + 1)
    args.config = BertConfig(vocab_size=args.vocab_size, max_position_embeddings=positions, **sizes)
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected an integer of at least 1")
    return value


def main(argv: list[str] | None = None) -> list[Row]:
    args = parse_args(argv)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    machine = machine_info(args.device)
    rows = sweep(args)
    print(table(rows))
    encoder = {name: getattr(args.config, name) for name in (*PRESETS["base"], "vocab_size")}
    options = (
        "length",
        "dtype",
        "compile",
        "clock",
        "attn_implementation",
        "batch_sizes",
        "group_counts",
        "repeats",
        "seed",
    )
    result = {
        "machine": machine,
        "encoder": encoder,
        "options": {name: getattr(args, name) for name in options},
        "rows": [asdict(row) for row in rows],
    }
    sizes = f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, L = {args.length}, {args.dtype}"
    where = (
        machine["device"]
        if args.device.type != "cpu"
        else f"{machine['cpu']}, threads: {machine['threads']}, {args.clock} time"
    )
    write_json(args.output_dir / "throughput.json", result)
    with replacing(args.output_dir / "throughput.png") as picture:
        plot(rows, f"{sizes}; {where}; torch {machine['torch']}", picture)
    print(f"\nwritten to {args.output_dir}/throughput.json and throughput.png")
    return rows


if __name__ == "__main__":
    main()
