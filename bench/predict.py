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
- ``pipeline``: Hugging Face's ``pipeline(batch_size=...)`` of the plain encoder, at the best of ``--batch_sizes``.
- ``onnx int8``: the plain encoder in ONNX Runtime with weights of 8 bits, in batches of rows of like length; for labels
  of rows, if onnxruntime is installed (``--onnx``).

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
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
)

import fastmux
from bench import random_bert
from bench.machine import machine_info, results_folder
from bench.random_bert import positive
from fastmux.files import write_json
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.labelling_report import processor_seconds
from fastmux.labelling.placement import Placement
from fastmux.lines import read_lines
from fastmux.passes.plan import plan_passes
from training.formatting import markdown

TASKS = {
    "sequence": (AutoModelForSequenceClassification, fastmux.TMuxForSequenceClassification, 2),
    "token": (AutoModelForTokenClassification, fastmux.TMuxForTokenClassification, 9),
}
_PIPELINES = {"sequence": "text-classification", "token": "token-classification"}


def texts_of(task: str, folder: Path) -> list[str]:
    """The rows of SST-2, or the sentences of CoNLL-2003 with single spaces between words."""
    if task == "sequence":
        return [line.split("\t")[0] for line in itertools.islice(read_lines(folder / "sst2" / "train.tsv"), 1, None)]
    sentences: list[list[str]] = [[]]
    for line in read_lines(folder / "conll2003" / "train.txt"):
        if line:
            sentences[-1].append(line.split(" ")[0])
        elif sentences[-1]:
            sentences.append([])
    return [" ".join(words) for words in sentences if words]


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """BERT's tokenizer, with the vocabulary in the folder ``tokenizer``."""
    vocabulary = next(iter(sorted((folder / "tokenizer").glob("*.txt"))))
    return transformers.BertTokenizerFast(
        vocab={entry: index for index, entry in enumerate(read_lines(vocabulary))}, model_max_length=512
    )


def some(texts: Sequence[str], rows: int) -> list[str]:
    """So many rows, spread evenly over all texts; texts are repeated if there are too few."""
    if rows >= len(texts):
        return list(itertools.islice(itertools.cycle(texts), rows))
    return [texts[i] for i in np.linspace(0, len(texts) - 1, rows).round().astype(int)]


def seconds(call: Callable[[], object], clock: str) -> float:
    now = processor_seconds if clock == "cpu" else time.perf_counter
    start = now()
    call()
    return now() - start


def text_to_label(model: PreTrainedModel, tokenizer, texts: Sequence[str], args) -> Callable[[], dict]:
    """A function that runs the pipeline over a file and returns what it reports."""

    def run() -> dict:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in.jsonl")
            source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            words = args.task == "token"
            options = {"is_split_into_words": words, "truncation": True, "num_workers": args.num_workers}
            options |= {"max_length": args.max_length, "batch_tokens": args.batch_tokens, "disable_tqdm": True}
            report = fastmux.predict(model, source, Path(folder, "out.jsonl"), tokenizer=tokenizer, **options).report
        times = report.times
        return {
            "rows_per_second": len(texts) / (times.processor if args.clock == "cpu" else times.total),
            **vars(times),
        }

    return run


def model_only(model: PreTrainedModel, tokenizer, texts: Sequence[str], args) -> Callable[[], dict]:
    """A function that runs the model on the same rows in the same batches, tokenised before."""
    classifier = Classifier(model, tokenizer, args.task == "token")
    words = "given" if args.task == "token" else None
    encoder = classifier.row_tokenizer(args.max_length, True, words, pairs=False)
    encoder.start()
    tokens, _ = encoder.encode([text.split(" ") for text in texts] if words else list(texts))
    engine = classifier.engine(Placement(str(args.device), str(args.dtype).removeprefix("torch."), args.batch_tokens))

    def run() -> dict:
        took = seconds(lambda: engine.run(tokens), args.clock)
        return {"rows_per_second": len(texts) / took}

    return run


def best_pipeline(model: PreTrainedModel, tokenizer, texts: Sequence[str], args) -> tuple[int, Callable[[], dict]]:
    """The best batch size of Hugging Face's pipeline, found on a quarter of the rows, and a function that runs it."""
    pipe = pipeline(_PIPELINES[args.task], model=model, tokenizer=tokenizer, device=args.device)
    options = {"truncation": True, "max_length": args.max_length} if args.task == "sequence" else {}

    def run(size: int, rows: Sequence[str]) -> dict:
        took = seconds(lambda: sum(1 for _ in pipe((text for text in rows), batch_size=size, **options)), args.clock)
        return {"rows_per_second": len(rows) / took}

    few = some(texts, -(-len(texts) // 4))
    best = max(args.batch_sizes, key=lambda size: run(size, few)["rows_per_second"])
    return best, lambda: run(best, texts)


def onnx_int8(model: PreTrainedModel, tokenizer, texts: Sequence[str], args, folder: Path) -> Callable[[], dict]:
    """A function that tokenises and runs the encoder in ONNX Runtime, its matrices quantised to 8 bits."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    example = dict(tokenizer(["one", "two three"], padding=True, return_tensors="pt"))
    names = list(example)
    rows, length = torch.export.Dim("rows", max=4096), torch.export.Dim("length", max=args.max_length)
    exported = torch.onnx.export(
        model,
        kwargs=example,
        dynamo=True,
        dynamic_shapes={name: {0: rows, 1: length} for name in names},
        input_names=names,
    )
    exported.save(folder / "model.onnx")
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])

    def run() -> dict:
        def label() -> None:
            coded = tokenizer(list(texts), truncation=True, max_length=args.max_length)
            for batch in plan_passes(np.array([len(ids) for ids in coded["input_ids"]]), args.batch_tokens):
                some = {name: [coded[name][row] for row in batch] for name in names}
                part = tokenizer.pad(some, padding_side="right", return_tensors="np")
                session.run(None, dict(part))

        return {"rows_per_second": len(texts) / seconds(label, args.clock)}

    return run


def measure(calls: dict[str, Callable[[], dict]], repeats: int) -> dict[str, dict]:
    """Each call's run with the median rate. The calls take turns."""
    runs: dict[str, list[dict]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            runs[name].append(call())
    middle = {}
    for name, found in runs.items():
        middle[name] = sorted(found, key=lambda run: run["rows_per_second"])[len(found) // 2]
    return middle


def compare(task: str, tokenizer: PreTrainedTokenizerBase, args, found: Callable[[dict], None]) -> None:
    """Measures the plain encoder, its peers and every T-MUX of a task, and tells ``found`` of each."""
    args.task = task
    plain_class, tmux_class, labels = TASKS[task]
    texts = texts_of(task, args.data_dir)
    plain_rate = 0.0

    def row(kind: str, instances: int, runs: dict[str, dict], rows: int, **more) -> None:
        nonlocal plain_rate
        rates = {name: run["rows_per_second"] for name, run in runs.items()}
        rate = rates["text to label"]
        plain_rate = plain_rate or rate
        entry = {"task": task, "model": kind, "num_instances": instances, "rows": rows, "rows_per_second": rate}
        entry |= {"x_plain": rate / plain_rate, **more}
        if "model only" in rates:
            stages = {k: round(v, 3) for k, v in runs["text to label"].items() if k != "rows_per_second"}
            entry |= {"model_only": rates["model only"], "of_model_only": rate / rates["model only"], "seconds": stages}
        only = f"{entry['of_model_only']:.2f} of the model alone" if "model_only" in entry else ""
        print(
            f"{task:8} {kind:12} {instances:3} {rows:7} rows {rate:9.1f} /s {entry['x_plain']:6.2f} x  {only}",
            flush=True,
        )
        found(entry)

    def both(model, some_texts) -> dict[str, dict]:
        calls = {"model only": model_only(model, tokenizer, some_texts, args)}
        calls["text to label"] = text_to_label(model, tokenizer, some_texts, args)
        model_only(model, tokenizer, some(some_texts, 8 * getattr(model.config, "num_instances", 1)), args)()  # warm-up
        return measure(calls, args.repeats)

    args.config.num_labels = labels
    plain = plain_class.from_config(args.config).eval()
    wanted = args.rows_a_slot or args.rows
    few = some(texts, min(args.rows, wanted))
    row("plain", 1, both(plain, few), len(few))
    size, run = best_pipeline(plain.to(args.device, args.dtype), tokenizer, few, args)
    row("HF pipeline", 1, measure({"text to label": run}, args.repeats), len(few), batch_size=size)
    if args.onnx and task == "sequence":
        with tempfile.TemporaryDirectory() as folder:
            run = onnx_int8(plain.float(), tokenizer, few, args, Path(folder))
            run()
            row("ONNX int8", 1, measure({"text to label": run}, args.repeats), len(few))
    for demultiplexer, n in itertools.product(args.demultiplexers, args.num_instances):
        model = tmux_class.from_backbone(args.config, n, demultiplexer=demultiplexer, num_labels=labels).eval()
        many = some(texts, min(args.rows, n * wanted))
        row(demultiplexer, n, both(model, many), len(many))


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    encoder = result["encoder"]
    yield (
        f"Text in, labels out, at the rows' own lengths: {encoder['num_hidden_layers']} layers, d = "
        f"{encoder['hidden_size']}, random weights; {result['clock']} clock, medians of {result['repeats']} in turns. "
        "`python bench/predict.py`."
    )
    rows = []
    for r in result["rows"]:
        cells = [f"{r['task']}, {r['model']}", str(r["num_instances"])]
        cells += [f"{r['rows']:,}", f"{r['rows_per_second']:,.1f}", f"{r['x_plain']:.2f}"]
        rows.append([*cells, f"{r['of_model_only']:.2f}" if "of_model_only" in r else "-"])
    yield markdown(["", "N", "rows", "rows/s", "x plain", "of the model alone"], rows)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = random_bert.parser(__doc__, preset="base", vocab_size=30522)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with sst2, conll2003 and tokenizer")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--demultiplexers", nargs="+", default=["unbind"])
    parser.add_argument("--num_instances", nargs="+", type=positive, default=[2, 4, 10, 20, 40], metavar="N")
    parser.add_argument("--rows", type=positive, default=200_000, help="most rows of a model (default: 200000)")
    parser.add_argument("--rows_a_slot", type=int, default=200, help="rows for each of N; 0: --rows (default: 200)")
    parser.add_argument("--max_length", type=positive, default=128)
    parser.add_argument("--batch_tokens", type=positive, help="(default: that of `fastmux predict`)")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--batch_sizes", nargs="+", type=positive, default=[1, 8, 32], metavar="B", help="pipeline's")
    parser.add_argument("--onnx", action="store_true", help="measure ONNX Runtime with 8-bit weights as well")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, tokenising included, for a machine that others use too (default: wall)",
    )
    parser.add_argument("--repeats", type=positive, default=3)
    args = parser.parse_args(argv)
    gpu = args.device.type != "cpu"
    args.dtype = torch.bfloat16 if gpu else torch.float32
    args.batch_tokens = args.batch_tokens or (65536 if gpu else 1024)
    args.config = random_bert.config(parser, args, 512)
    return args


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    tokenizer = stored_tokenizer(args.data_dir)
    rows: list[dict] = []
    names = ("max_length", "batch_tokens", "num_workers", "clock", "repeats")
    result = {"machine": machine_info(args.device), "encoder": random_bert.sizes(args.config)}
    result |= {name: getattr(args, name) for name in names}

    def found(row: dict) -> None:
        rows.append(row)
        write_json(args.output or results_folder(args.device) / "predict.json", result | {"rows": rows})

    for task in args.tasks:
        compare(task, tokenizer, args, found)
    print("\n" + "\n\n".join(section(result | {"rows": rows})))
    return rows


if __name__ == "__main__":
    main()
