"""Text in, labels out: rows a second of `fastmux.predict`, plain encoder and T-MUX, beside the model alone and peers.

    python bench/predict.py --data_dir DATA                        # base size, 200 rows a slot, a few minutes a model
    python bench/predict.py --data_dir DATA --rows_a_slot 120 --repeats 1 --onnx --clock cpu --num_workers 0
                                                                   # both tasks, all N and the peers, within 10 minutes
    python bench/predict.py --rows 200000 --rows_a_slot 0          # every model on the same 200,000 rows: days on a CPU
    python bench/predict.py --preset tiny --num_instances 2 4      # a quick look

Text is SST-2's (labels of rows) or CoNLL-2003's (tags), with its own lengths, repeated until there are enough rows.
Models have random weights, which cost what trained ones do. For every model these take turns:

- ``text to label``: `fastmux.predict` of a file of JSON lines to another one, with the defaults of the command.
- ``model only``: the same batches, tokenised before. The pipeline would reach this if all else were free.
- ``padded``: the model only, with rows padded, where it packs them (on a GPU).
- ``pipeline``: Hugging Face's ``pipeline(batch_size=...)`` of the plain encoder, at the best of ``--batch_sizes``.
- ``onnx int8``: the plain encoder in ONNX Runtime, with ONNX Runtime's own weights of 8 bits, through the same
  tokeniser and in the same batches; for labels of rows, if onnxruntime is installed (``--onnx``).

On a machine that others use too, ``--clock cpu --num_workers 0`` with OMP_NUM_THREADS=1 counts processor time, with
that of tokenising. Every row of the table is stored as soon as it is known. Its seconds say when the first rows were
ready (``starting``); a short run spends a good part of its time on them, and a long one does not.

A model that serves N rows a pass gets N times ``--rows_a_slot`` rows, at most ``--rows``, so that all models take about
as long. Ratios are to the plain encoder through the same pipeline.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import transformers
from transformers import PreTrainedModel, pipeline

import fastmux
from bench import workload
from bench.machine import machine_info, results_folder
from bench.timing import turn_by_turn
from bench.workload import TASKS, some, texts_of
from fastmux.files import write_json
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.devices import torch_placement
from fastmux.labelling.labelling_report import processor_seconds
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens
from fastmux.training.formatting import table
from fastmux.training.programs import finish, positive

#: A function that answers all rows of a text, and returns at least ``rows_per_second``.
Run = Callable[[], dict]


class Contest:
    """The ways to label the same rows with one model.

    Args:
        texts: The rows.
        args: The program's options, with ``task``.
    """

    def __init__(self, model: PreTrainedModel, tokenizer, texts: Sequence[str], args: argparse.Namespace):
        self.model, self.tokenizer, self.texts, self.args = model, tokenizer, texts, args
        self.words = args.task == "token"
        self.classifier = Classifier(model, tokenizer, self.words)
        self.placement = torch_placement(str(args.device), None, args.batch_tokens, False)
        self.encoder = self.classifier.row_tokenizer(args.max_length, True, "given" if self.words else None, False)
        self.encoder.start()

    def text_to_label(self) -> dict:
        """Runs the library over a file, and returns what it reports."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in.jsonl")
            source.write_text("".join(json.dumps({"text": text}) + "\n" for text in self.texts), encoding="utf-8")
            options = {"is_split_into_words": self.words, "truncation": True, "num_workers": self.args.num_workers}
            options |= {"max_length": self.args.max_length, "batch_tokens": self.args.batch_tokens}
            options |= {"tokenizer": self.tokenizer, "device": str(self.args.device), "disable_tqdm": True}
            times = fastmux.predict(self.model, source, Path(folder, "out.jsonl"), **options).report.times
        took = times.processor if self.args.clock == "cpu" else times.total
        return {"rows_per_second": len(self.texts) / took, **vars(times)}

    def model_only(self) -> dict[str, Run]:
        """Functions that run the model on the same rows in the same batches, tokenised before."""
        tokens, engine = self.tokens(), self.classifier.engine(self.placement)
        engines = {"model only": engine}
        if engine.layout.packed:
            runtime = cast(TorchRuntime, engine.runtime)
            types = self.classifier.takes_types()
            padding = TorchRuntime(runtime.model, runtime.pad_token_id, takes_types=types, packed=False)
            engines["padded"] = replace(engine, runtime=padding)
        return {name: lambda own=own: self.rate(lambda: own.run(tokens)) for name, own in engines.items()}

    def huggingface(self) -> tuple[int, Run]:
        """The batch size at which HF's pipeline is fastest on a quarter of the rows, and a run at that size."""
        model = self.model.to(self.args.device, getattr(torch, self.placement.dtype))
        task = f"{'token' if self.words else 'text'}-classification"
        pipe = pipeline(task, model=model, tokenizer=self.tokenizer, device=self.args.device)
        options = {} if self.words else {"truncation": True, "max_length": self.args.max_length}

        def run(size: int, texts: Sequence[str]) -> dict:
            return self.rate(
                lambda: sum(1 for _ in pipe((text for text in texts), batch_size=size, **options)), len(texts)
            )

        few = some(self.texts, -(-len(self.texts) // 4))
        best = max(self.args.batch_sizes, key=lambda size: run(size, few)["rows_per_second"])
        return best, lambda: run(best, self.texts)

    def onnx_int8(self, folder: Path) -> Run:
        """A function that tokenises and runs the encoder in ONNX Runtime, with ONNX Runtime's own 8 bits."""
        from bench.runtime_peers import dynamic

        fastmux.export(self.model.float(), folder / "float32", tokenizer=self.tokenizer)
        engine = Engine(dynamic(folder / "float32", folder / "int8"), self.placement.batch_tokens)
        return lambda: self.rate(lambda: engine.run(self.tokens()))

    def tokens(self) -> Tokens:
        return self.encoder.encode([text.split(" ") for text in self.texts] if self.words else list(self.texts))[0]

    def rate(self, call: Callable[[], object], rows: int | None = None) -> dict:
        now = processor_seconds if self.args.clock == "cpu" else time.perf_counter
        start = now()
        call()
        return {"rows_per_second": (rows or len(self.texts)) / (now() - start)}


def measure(calls: dict[str, Run], repeats: int) -> dict[str, dict]:
    """Each call's run with the median rate. The calls take turns."""
    runs = turn_by_turn(calls, repeats)
    return {
        name: sorted(found, key=lambda run: run["rows_per_second"])[len(found) // 2] for name, found in runs.items()
    }


def compare(task: str, tokenizer, args: argparse.Namespace, found: Callable[[dict], None]) -> None:
    """Measures the plain encoder, its peers and every T-MUX of a task, and tells ``found`` of each."""
    args.task, plain_rate = task, 0.0
    texts, wanted = texts_of(task, args.data_dir), args.rows_a_slot or args.rows

    def row(kind: str, contest: Contest, calls: dict[str, Run], **more) -> None:
        nonlocal plain_rate
        runs = measure(calls, args.repeats)
        rate = runs["text to label"].pop("rows_per_second")
        plain_rate = plain_rate or rate
        entry = {"task": task, "model": kind, "num_instances": getattr(contest.model.config, "num_instances", 1)}
        entry |= {"rows": len(contest.texts), "rows_per_second": rate, "x_plain": rate / plain_rate, **more}
        told = "{task:8} {model:12} {num_instances:3} {rows:7} rows {rows_per_second:9.1f} /s {x_plain:6.2f} x"
        if "model only" in runs:
            only = runs["model only"]["rows_per_second"]
            stages = {name: round(seconds, 3) for name, seconds in runs["text to label"].items()}
            entry |= {"model_only": only, "of_model_only": rate / only, "seconds": stages}
            told += "  {of_model_only:.2f} of the model alone"
            if "padded" in runs:
                entry["packed_x_padded"] = only / runs["padded"]["rows_per_second"]
                told += ", which is {packed_x_padded:.2f} x as fast as padded"
        print(told.format(**entry), flush=True)
        found(entry)

    def both(kind: str, model: PreTrainedModel, rows: int) -> Contest:
        contest = Contest(model.eval(), tokenizer, some(texts, min(args.rows, rows)), args)
        few = some(contest.texts, 8 * getattr(model.config, "num_instances", 1))
        for run in Contest(model, tokenizer, few, args).model_only().values():
            run()  # warm-up
        row(kind, contest, contest.model_only() | {"text to label": contest.text_to_label})
        return contest

    plain = both("plain", workload.model(task, args.config), wanted)
    size, run = plain.huggingface()
    row("HF pipeline", plain, {"text to label": run}, batch_size=size)
    if args.onnx and task == "sequence":
        with tempfile.TemporaryDirectory() as folder:
            run = plain.onnx_int8(Path(folder))
            run()
            row("ONNX int8", plain, {"text to label": run})
    for demultiplexer, n in itertools.product(args.demultiplexers, args.num_instances):
        both(demultiplexer, workload.model(task, args.config, demultiplexer, n), n * wanted)


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder = result["encoder"]
    yield (
        f"Text in, labels out, at the rows' own lengths: {encoder['num_hidden_layers']} layers, d = "
        f"{encoder['hidden_size']}, random weights; {result['clock']} clock, medians of {result['repeats']} in turns. "
        "`python bench/predict.py`."
    )
    columns = {"": "{task}, {model}", "N": "{num_instances}", "rows": "{rows:,}", "rows/s": "{rows_per_second:,.1f}"}
    yield table(result["rows"], columns | {"x plain": "{x_plain:.2f}", "of the model alone": "{of_model_only:.2f}"})


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = workload.parser(__doc__, "base", num_instances=[2, 4, 10, 20, 40], demultiplexers=["unbind"])
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="The folder with sst2, conll2003 and tokenizer.")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="Labels of rows, or of tokens.")
    add("--rows", type=positive, default=200_000, help="The most rows of a model.")
    add("--rows_a_slot", type=int, default=200, help="The rows for each of N; 0 stands for --rows.")
    add("--max_length", type=positive, default=128, help="The most tokens of a row.")
    add("--batch_tokens", type=positive, help="The most positions of a pass. Default: that of `fastmux predict`.")
    add("--num_workers", type=int, default=1, help="The processes that tokenise.")
    help = "Hugging Face's pipeline runs at the best."
    add("--batch_sizes", nargs="+", type=positive, default=[1, 8, 32], metavar="B", help=help)
    add("--onnx", action="store_true", help="Measure ONNX Runtime with 8-bit weights as well.")
    help = "The time on the clock, or the processor's, tokenising included, for a machine that others use too."
    add("--clock", choices=["wall", "cpu"], default="wall", help=help)
    add("--repeats", type=positive, default=3, help="The turns.")
    args = parser.parse_args(argv)
    args.batch_tokens = torch_placement(str(args.device), None, args.batch_tokens, False).batch_tokens
    args.config = workload.config(parser, args, 512)
    args.output = args.output or results_folder(args.device) / "predict.json"
    return args


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    tokenizer, rows = workload.stored_tokenizer(args.data_dir), []
    names = ("max_length", "batch_tokens", "num_workers", "clock", "repeats")
    result = {"machine": machine_info(args.device), "encoder": workload.sizes(args.config)}
    result |= {name: getattr(args, name) for name in names} | {"rows": rows}

    def found(row: dict) -> None:
        rows.append(row)
        write_json(args.output, result)

    for task in args.tasks:
        compare(task, tokenizer, args, found)
    finish(result, section, args.output)
    return rows


if __name__ == "__main__":
    main()
