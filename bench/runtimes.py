"""Runtimes on a CPU beside each other: torch, ONNX Runtime and others, in float32, bfloat16 and 8 bits.

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
whose scale is the whole tensor's, of the file that ``fastmux export`` writes or of torch's; the latter is what optimum
and sentence-transformers run; ``--onnx`` takes files that they wrote, as optimum may want another transformers.
CTranslate2 and OpenVINO run the plain encoder, if they are installed.
"""

from __future__ import annotations

import copy
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BertForSequenceClassification

import fastmux
from bench import workload
from bench.machine import CPU, machine_info, results_folder
from bench.runtime_peers import PEERS, WAYS, dynamic, floors, peers
from bench.workload import stored_tokenizer
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.fastest import leak
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes import Runtime
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.timer import rates
from fastmux.passes.tokens import Tokens
from fastmux.training.formatting import table
from fastmux.training.programs import finish, positive
from fastmux.training.tasks.readers import read_table

_PLAIN, _BY_ROW = "plain", "ONNX Runtime int8 by row"
#: Rows to measure, and rows to train on what is no encoder.
_FILES, _TRAINED = ("dev.tsv", "train.tsv"), 20_000
#: Groups whose companions are changed, and how many groups take part in each trial.
_TRIALS, _GROUPS = 20, 9


def runtimes(name: str, model, tokenizer, folder: Path, compiled: bool, files: dict[str, Path]) -> dict[str, Runtime]:
    """Everything that runs a model here, torch first; ``files`` are ONNX files of the plain encoder by name."""
    folder.mkdir()
    float32, int8 = folder / "float32", folder / "int8"
    fastmux.export(model, float32, tokenizer=tokenizer)
    fastmux.export(model, int8, tokenizer=tokenizer, precision="int8")
    found: dict[str, Runtime] = {"torch float32": TorchRuntime(model, tokenizer.pad_token_id)}
    if name == _PLAIN:
        found["torch float32, last layer spared"] = Classifier.of(model, tokenizer).engine(Placement()).runtime
    found["ONNX Runtime float32"], found[_BY_ROW] = OnnxRuntime(float32), OnnxRuntime(int8)
    found["ONNX Runtime dynamic int8"] = dynamic(float32, folder / "dynamic")
    if name == _PLAIN:
        found |= peers(model, tokenizer, float32, folder / "peers", files)
        if compiled:
            found["torch.compile float32"] = copy.copy(found["torch float32"])
            found["torch.compile float32"].model = torch.compile(model, dynamic=True)
    return found


def worst_leak(runtime: Runtime, tokens: Tokens, spread: float) -> float:
    """How far a group's logits move, at most, when other groups take the places of its companions."""
    draw, rows = np.random.default_rng(0), _GROUPS * runtime.layout.rows
    trials = (tokens.select(draw.choice(len(tokens.lengths), rows)) for _ in range(_TRIALS))
    return max(leak(runtime, some) for some in trials) / spread


def measure(models: dict[str, dict[str, Runtime]], tokens: Tokens, repeats: int) -> list[dict]:
    """All runtimes of all models on the same rows, in turns."""
    calls, rows, placement = {}, [], Placement()
    for name, found in models.items():
        expected: np.ndarray | None = None
        for kind, runtime in found.items():
            engine = Engine(runtime, placement.batch_tokens, pass_tokens=placement.pass_tokens)
            logits = engine.run(tokens).logits  # a warm-up, too
            expected = logits if expected is None else expected
            spread = float(expected.std(0).mean())
            error = float(np.sqrt(np.mean((logits - expected) ** 2))) / spread
            row = {"model": name, "runtime": kind, "error": error, "leak": worst_leak(runtime, tokens, spread)}
            rows.append(row | {"labels": float((logits.argmax(-1) == expected.argmax(-1)).mean())})
            calls[name, kind] = partial(engine.run, tokens, engine.plan(tokens.lengths))
            if name == _PLAIN and kind in ("torch float32", _BY_ROW):
                for way, batched in WAYS.items():
                    other, plan = batched(runtime, tokens.lengths)
                    rows.append({"model": name, "runtime": f"{kind}, {way}"})
                    calls[name, f"{kind}, {way}"] = partial(Engine(other, 1).run, tokens, plan)
    measured = rates(calls, len(tokens.lengths), repeats=repeats, clock="cpu")
    found = {key: rate.rows_per_second for key, rate in measured.items()}
    int8 = max(rate for (name, kind), rate in found.items() if name == _PLAIN and "int8" in kind)
    for row in rows:
        rate = found[row["model"], row["runtime"]]
        row |= {"rows_per_second": rate, "x_torch": rate / found[_PLAIN, "torch float32"], "x_int8": rate / int8}
    return rows


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder, floors = result["encoder"], result.get("floors", {})
    versions = ", ".join(f"{name} {version}" for name, version in result["runtime_versions"].items())
    yield (
        f"{encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, {result['weights']} weights; "
        f"{result['measured_rows']} rows of SST-2 at their own lengths; processor time, medians of "
        f"{result['repeats']} in turns; {versions}. "
        + "".join(f"Without an encoder, rows a second: {name} {rate:,.0f}. " for name, rate in floors.items())
        + "`python bench/runtimes.py`."
    )
    columns = {"model": "{model}", "runtime": "{runtime}", "rows/s": "{rows_per_second:,.0f}"}
    columns |= {"x torch": "{x_torch:.2f}", "x int8": "{x_int8:.2f}", "error": "{error:.4f}"}
    yield table(result["runtimes"], columns | {"same labels": "{labels:.4f}", "leak": _leak_cell})


def _leak_cell(row: dict) -> str:
    return "-" if row.get("leak") is None else f"{row['leak']:.1e}" if row["leak"] else "0"


def main(argv: list[str] | None = None) -> list[dict]:
    parser = workload.parser(__doc__, preset="minilm", vocab_size=30522, num_instances=[4, 10])
    parser.add_argument("--data_dir", type=Path, required=True, help="The folder with sst2 and tokenizer.")
    parser.add_argument("--model", type=Path, help="A folder of a BERT whose sizes, weights and tokenizer are taken.")
    parser.add_argument("--rows", type=positive, default=872, help="Of the 872 validation rows, so many.")
    parser.add_argument("--repeats", type=positive, default=5, help="Turns, whose medians count.")
    parser.add_argument("--torch_compile", action="store_true", help="torch.compile is measured too: minutes.")
    parser.add_argument("--onnx", nargs="+", default=[], metavar="NAME=FILE", help="Others' ONNX files of --model's.")
    args = parser.parse_args(argv)
    files = {name: Path(file) for name, _, file in (pair.partition("=") for pair in args.onnx)}
    if missing := [name for name, file in files.items() if not file.is_file()]:
        parser.error(f"argument --onnx: {missing[0]!r} has no file {str(files[missing[0]])!r}; expected NAME=FILE")
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    if args.model is None:
        tokenizer, weights = stored_tokenizer(args.data_dir), "random"
        plain = BertForSequenceClassification(workload.config(parser, args, 512, num_labels=2)).eval()
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        plain, info = BertForSequenceClassification.from_pretrained(args.model, num_labels=2, output_loading_info=True)
        weights = "trained, but for the head's," if info["missing_keys"] else "trained"
        plain.eval()
    config = plain.config
    tables = [read_table(args.data_dir / "sst2" / file, ["sentence", "label"]).columns for file in _FILES]
    texts, train = tables[0]["sentence"][: args.rows], list(zip(*tables[1].values(), strict=True))
    tokens = Tokens.of_rows(tokenizer(texts)["input_ids"])
    joined, tmux = fastmux.JoinedForSequenceClassification, fastmux.TMuxForSequenceClassification
    made = {_PLAIN: plain, "joined, N = 2": joined.from_backbone(plain, 2).eval()}
    for n in args.num_instances:
        made[f"T-MUX, N = {n}"] = tmux.from_backbone(plain, n, demultiplexer="unbind", num_labels=2).eval()
    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: runtimes(name, model, tokenizer, Path(folder, str(number)), args.torch_compile, files)
            for number, (name, model) in enumerate(made.items())
        }
        rows = measure(models, tokens, args.repeats)
    calls = dict(floors(texts, train[:_TRAINED], tokenizer, plain))
    found = {name: r.rows_per_second for name, r in rates(calls, len(texts), repeats=1, clock="cpu").items()}
    result = {"machine": machine_info(CPU), "encoder": workload.sizes(config), "runtimes": rows}
    result |= {"weights": weights, "floors": found}
    result |= {"measured_rows": len(texts), "repeats": args.repeats}
    names = ("onnxruntime", *PEERS)
    result |= {"runtime_versions": {name: importlib.metadata.version(name) for name in names}}
    preset = args.preset if args.model is None else args.model.name
    output = args.output or results_folder(CPU) / f"runtimes_{preset}.json"
    finish(result, section, output)
    return rows


if __name__ == "__main__":
    main()
