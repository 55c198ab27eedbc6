"""Text in, vectors out: rows a second of `fastmux.embed` beside ``SentenceTransformer.encode``, of one model.

    python bench/embed.py --model all-MiniLM-L6-v2 --data_dir DATA                        # minutes
    python bench/embed.py --model my-model --data_dir DATA --rows 200 --repeats 1         # a quick look

Texts are SNLI's and QQP's sentences, each once. All take turns; times are of the processor, with one thread, and count
tokenising, reading and writing. For each data set:

- ``embed``: `fastmux.embed` of a file of JSON lines to Parquet, with the defaults of the command.
- ``model only``: its passes, tokenised before. Embedding would reach this if all else were free.
- ``encode``: sentence-transformers, which sorts by characters, at the best of ``--batch_sizes``.
- ``embed, RUNTIME PRECISION``: `fastmux.embed` in the other ``--runtimes``, such as "onnxruntime int8".

``cosine`` is the least cosine of a row's vector with sentence-transformers' own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import pyarrow.parquet
import sentence_transformers
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

import fastmux
from bench.machine import CPU, machine_info, results_folder
from bench.timing import medians
from bench.workload import some
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.files import write_json
from fastmux.labelling.labelling_report import processor_seconds
from fastmux.labelling.placement import Placement
from fastmux.training.formatting import table
from fastmux.training.fronts.embedding_scores import cosines
from fastmux.training.programs import finish, options_of, positive

#: Data set -> its file.
TEXTS = {"snli": "test.tsv.gz", "qqp": "dev.tsv.gz"}


def texts_of(name: str, folder: Path, rows: int) -> list[str]:
    """So many different sentences of a data set."""
    found: dict[str, None] = {}
    path = folder / name / TEXTS[name]
    path = path if path.exists() else path.with_suffix("")
    for line in fastmux.read_texts([path], "sentence1", "sentence2"):
        found |= dict.fromkeys(text for text in line if text.strip())
        if len(found) >= rows:
            break
    return list(found)[:rows]


def embedded(model: str, texts: Sequence[str], **options) -> tuple[float, np.ndarray]:
    """The processor's seconds of `fastmux.embed` over a file, and the vectors that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.parquet")
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        report = fastmux.embed(model, source, output, num_workers=0, disable_tqdm=True, device="cpu", **options).report
        vectors = pyarrow.parquet.read_table(output)["embedding"].combine_chunks().flatten().to_numpy()
    return report.times.processor, vectors.reshape(len(texts), -1)


def seconds_of(call: Callable[[], object]) -> float:
    start = processor_seconds()
    call()
    return processor_seconds() - start


def compare(name: str, args) -> list[dict]:
    """Measure all on the texts of one data set."""
    texts = texts_of(name, args.data_dir, args.rows)
    theirs = SentenceTransformer(args.model, device="cpu")

    def encode(rows: Sequence[str], size: int) -> np.ndarray:
        return theirs.encode(list(rows), batch_size=size, show_progress_bar=False)

    few = some(texts, min(len(texts), 1000))
    encode(few[:8], 8)
    best = min(args.batch_sizes, key=lambda size: seconds_of(lambda: encode(few, size)))
    vectorizer = Vectorizer.of(args.model, None)
    engine, tokenizer = vectorizer.engine(Placement()), vectorizer.rows_tokenizer(vectorizer.max_length(None))
    tokenizer.start()
    tokens, _ = tokenizer.encode(texts)
    calls: dict[str, Callable[[], float]] = {
        "embed": lambda: embedded(args.model, texts)[0],
        "model only": lambda: seconds_of(lambda: engine.run(tokens)),
        "encode": lambda: seconds_of(lambda: encode(texts, best)),
    }
    expected = encode(texts, best)
    nearest = {"embed": float(cosines(embedded(args.model, texts)[1], expected).min())}
    for asked in args.runtimes:
        runtime, precision = asked.split()
        run = partial(embedded, args.model, texts, runtime=runtime, precision=precision)
        calls[f"embed, {asked}"] = lambda run=run: run()[0]
        nearest[f"embed, {asked}"] = float(cosines(run()[1], expected).min())
    rates = {way: len(texts) / seconds for way, seconds in medians(calls, args.repeats).items()}
    more = {"encode": {"batch_size": best}}
    rows = [
        {
            "data": name,
            "way": way,
            "rows": len(texts),
            "rows_per_second": rate,
            "x_encode": rate / rates["encode"],
            "of_model_only": rate / rates["model only"] if way in ("embed", "model only", "encode") else None,
            "cosine": nearest.get(way),
            **more.get(way, {}),
        }
        for way, rate in rates.items()
    ]
    for row in rows:
        print("{data:6} {way:28} {rows_per_second:9.1f} /s {x_encode:6.2f} x encode".format(**row), flush=True)
    return rows


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield (
        f"Text in, vectors out, of {result['model']}; processor time, medians of {result['repeats']} in turns, "
        f"sentence-transformers {result['sentence_transformers']} at its best batch size. `python bench/embed.py`."
    )
    columns = {
        "": "{data}, {way}",
        "rows": "{rows:,}",
        "rows/s": "{rows_per_second:,.0f}",
        "x encode": "{x_encode:.2f}",
    }
    yield table(result["embedding"], columns | {"of the model alone": "{of_model_only:.2f}", "cosine": "{cosine:.4f}"})


def main(argv: list[str] | None = None) -> list[dict]:
    parser = options_of(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="A model of sentence-transformers.")
    add("--data_dir", type=Path, required=True, help="The folder with snli and qqp.")
    add("--data", nargs="+", choices=list(TEXTS), default=list(TEXTS), help="The data sets.")
    add("--rows", type=positive, default=3000, help="The texts of each data set.")
    add("--batch_sizes", nargs="+", type=positive, default=[8, 16, 32, 64, 128], metavar="B", help="Of encode.")
    add("--runtimes", nargs="*", default=[], metavar="R", help='Other runtimes, as in "onnxruntime int8".')
    add("--repeats", type=positive, default=5, help="The turns.")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    args.output = args.output or results_folder(CPU) / "embed.json"
    rows: list[dict] = []
    result = {"machine": machine_info(CPU), "model": Path(args.model).name, "repeats": args.repeats}
    result |= {"sentence_transformers": sentence_transformers.__version__, "embedding": rows}
    for name in args.data:
        rows += compare(name, args)
        write_json(args.output, result)
    finish(result, section, args.output)
    return rows


if __name__ == "__main__":
    main()
