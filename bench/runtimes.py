"""Runtimes on a CPU beside each other: torch, ONNX Runtime and CTranslate2, in float32 and in 8 bits.

They run plain, joined and T-MUX models of one size. Measured are their speed, how near their logits are to the
original's, and what the other rows of a batch change.

    python bench/runtimes.py --data_dir DATA                        # MiniLM's size, minutes
    python bench/runtimes.py --data_dir DATA --preset base --rows 200
    python bench/runtimes.py --data_dir DATA --preset tiny --num_hidden_layers 3 --rows 100 --repeats 1   # a quick look

Rows are SST-2's validation rows, tokenised before, in the passes that `fastmux.predict` plans. Models have random
weights, which cost what trained ones do, or ``--model``'s; errors of random weights say little, as their logits hardly
differ from row to row. All take turns; times are of the processor, with one thread. For each runtime
of each model:

- ``x torch``: its speed over the plain encoder in torch float32, and ``x int8``: over the fastest 8 bits of the plain
  encoder in any runtime here.
- ``error``: the root mean square difference of logits to those of the same model in torch float32, in units of their
  standard deviation over the rows.
- ``leak``: how far a group's logits move, at most, in the same units, when the other groups of its batch change.

``int8 by row`` is what ``fastmux export --int8`` writes. ``dynamic int8`` is ONNX Runtime's own ``quantize_dynamic``,
whose scale is the whole tensor's; CTranslate2 runs plain encoders alone, and needs ``pip install ctranslate2``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import transformers
from onnxruntime.quantization import quantize_dynamic
from transformers import BertForSequenceClassification

import fastmux
from bench import workload
from bench.machine import machine_info, results_folder
from bench.record import positive
from bench.workload import stored_tokenizer
from fastmux.files import write_json
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.placement import Placement
from fastmux.lines import read_lines
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes import Runtime
from fastmux.passes.runtimes.ctranslate2 import CTranslate2Runtime
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime
from fastmux.passes.runtimes.record import MODEL, digest
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens
from training.formatting import markdown

_DYNAMIC, _BY_ROW = "ONNX Runtime dynamic int8", "ONNX Runtime int8 by row"
_PLAIN = "plain"
#: Groups whose companions are changed, and the companions of each.
_TRIALS, _COMPANIONS = 20, 7


def translated(model: BertForSequenceClassification, tokenizer, folder: Path) -> dict[str, Runtime]:
    """CTranslate2's runtimes of a plain encoder."""
    found: dict[str, Runtime] = {}
    for precision in ("float32", "int8"):
        path = folder / f"ctranslate2-{precision}"
        fastmux.export(model, path, tokenizer=tokenizer, runtime="ctranslate2", precision=precision)
        found[f"CTranslate2 {precision}"] = CTranslate2Runtime(path)
    return found


def dynamic(exported: Path, folder: Path) -> Runtime:
    """ONNX Runtime's own 8 bits of a model that was exported in float32."""
    record = OnnxRuntime(exported).record
    folder.mkdir()
    quantize_dynamic(exported / MODEL, folder / MODEL)
    replace(record, files={MODEL: digest(folder / MODEL)}).save(folder)
    return OnnxRuntime(folder)


def runtimes(name: str, model, tokenizer, folder: Path, peers: bool) -> dict[str, Runtime]:
    """Everything that runs a model here, torch first."""
    folder.mkdir()
    float32, int8 = folder / "float32", folder / "int8"
    fastmux.export(model, float32, tokenizer=tokenizer)
    fastmux.export(model, int8, tokenizer=tokenizer, precision="int8")
    found: dict[str, Runtime] = {"torch float32": TorchRuntime(model, tokenizer.pad_token_id)}
    if name == _PLAIN:
        found["torch float32, last layer spared"] = Classifier.of(model, tokenizer).engine(Placement()).runtime
    found["ONNX Runtime float32"], found[_BY_ROW] = OnnxRuntime(float32), OnnxRuntime(int8)
    found[_DYNAMIC] = dynamic(float32, folder / "dynamic")
    if name == _PLAIN and peers:
        found |= translated(model, tokenizer, folder)
    return found


def leak(runtime: Runtime, tokens: Tokens, spread: float) -> float:
    """How far a group's logits move, at most, when other groups take the places of its companions."""
    draw, size = np.random.default_rng(0), runtime.layout.rows
    moved = 0.0
    for _ in range(_TRIALS):
        group, *others = (draw.choice(len(tokens.lengths), size * count) for count in (1, _COMPANIONS, _COMPANIONS))
        width = max(runtime.layout.least, *(int(tokens.lengths[rows].max()) for rows in (group, *others)))
        one, other = (
            runtime.start(tokens.padded(np.concatenate([group, rows]), width, runtime.pad_token_id))()[:size]
            for rows in others
        )
        moved = max(moved, float(np.abs(one - other).max()) / spread)
    return moved


def measure(models: dict[str, dict[str, Runtime]], tokens: Tokens, repeats: int) -> list[dict]:
    """All runtimes of all models on the same rows, in turns."""
    engines, rows = {}, []
    placement = Placement()
    for name, found in models.items():
        expected: np.ndarray | None = None
        for kind, runtime in found.items():
            engine = Engine(runtime, placement.batch_tokens, pass_tokens=placement.pass_tokens)
            logits = engine.run(tokens).logits  # a warm-up, too
            expected = logits if expected is None else expected
            spread = float(expected.std(0).mean())
            error = float(np.sqrt(np.mean((logits - expected) ** 2))) / spread
            row = {"model": name, "runtime": kind, "error": error, "leak": leak(runtime, tokens, spread)}
            rows.append(row | {"labels": float((logits.argmax(-1) == expected.argmax(-1)).mean())})
            engines[name, kind] = (engine, engine.plan(tokens.lengths))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
    for _ in range(repeats):
        for key, (engine, plan) in engines.items():
            start = time.process_time()
            engine.run(tokens, plan)
            times[key].append(time.process_time() - start)
    middle = {key: float(np.median(found)) for key, found in times.items()}
    plain = middle[_PLAIN, "torch float32"]
    int8 = min(took for (name, kind), took in middle.items() if name == _PLAIN and "int8" in kind)
    for row in rows:
        took = middle[row["model"], row["runtime"]]
        row |= {"rows_per_second": len(tokens.lengths) / took, "x_torch": plain / took, "x_int8": int8 / took}
    return rows


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder = result["encoder"]
    versions = ", ".join(f"{name} {version}" for name, version in result["runtime_versions"].items())
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, {result['weights']} weights; "
        f"{result['measured_rows']} rows of SST-2 at their own lengths; processor time, medians of "
        f"{result['repeats']} in turns; {versions}. "
        "`python bench/runtimes.py`."
    )
    rows = []
    for r in result["runtimes"]:
        cells = [r["model"], r["runtime"], f"{r['rows_per_second']:,.0f}", f"{r['x_torch']:.2f}", f"{r['x_int8']:.2f}"]
        rows.append([*cells, f"{r['error']:.4f}", f"{r['labels']:.4f}", f"{r['leak']:.1e}" if r["leak"] else "0"])
    yield markdown(["model", "runtime", "rows/s", "x torch", "x int8", "error", "same labels", "leak"], rows)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = workload.parser(__doc__, preset="minilm", vocab_size=30522)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with sst2 and tokenizer")
    parser.add_argument("--model", type=Path, help="folder of a BERT whose sizes and weights are taken")
    parser.add_argument("--num_instances", nargs="+", type=positive, default=[4, 10], metavar="N", help="of T-MUXes")
    parser.add_argument("--rows", type=positive, default=872, help="(default: 872, all)")
    parser.add_argument("--repeats", type=positive, default=5)
    args = parser.parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    tokenizer = stored_tokenizer(args.data_dir)
    if args.model is None:
        plain = BertForSequenceClassification(workload.config(parser, args, 512, num_labels=2)).eval()
    else:
        plain = BertForSequenceClassification.from_pretrained(args.model, num_labels=2).eval()
    config = plain.config
    lines = list(read_lines(args.data_dir / "sst2" / "dev.tsv"))[1 : args.rows + 1]
    tokens = Tokens.of_rows(tokenizer([line.split("\t")[0] for line in lines])["input_ids"])
    joined, tmux = fastmux.JoinedForSequenceClassification, fastmux.TMuxForSequenceClassification
    made = {_PLAIN: plain, "joined, N = 2": joined.from_backbone(plain, 2).eval()}
    for n in args.num_instances:
        made[f"T-MUX, N = {n}"] = tmux.from_backbone(plain, n, demultiplexer="unbind", num_labels=2).eval()
    peers = importlib.util.find_spec("ctranslate2") is not None
    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: runtimes(name, model, tokenizer, Path(folder, str(number)), peers)
            for number, (name, model) in enumerate(made.items())
        }
        rows = measure(models, tokens, args.repeats)
    names = ["onnxruntime"] + ["ctranslate2"] * peers
    result = {"machine": machine_info(torch.device("cpu")), "encoder": workload.sizes(config), "runtimes": rows}
    result |= {"weights": "random" if args.model is None else "trained"}
    result |= {"measured_rows": len(tokens.lengths), "repeats": args.repeats}
    result |= {"runtime_versions": {name: importlib.metadata.version(name) for name in names}}
    write_json(args.output or results_folder(torch.device("cpu")) / f"runtimes_{args.preset}.json", result)
    print("\n\n".join(section(result)))
    return rows


if __name__ == "__main__":
    main()
