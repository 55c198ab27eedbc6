"""Memory and speed of `fastmux.predict` on many rows through a tiny model, alone or beside another checkout.

    python bench/rows.py --rows 200000              # memory, and how long the first rows take: about a minute
    python bench/rows.py --rows 10000000            # shows its progress; needs 4 GB of disk
    python bench/rows.py --rows 2000000 --embed     # the same of fastmux.embed

    git worktree add --detach ../base d2678c0
    python bench/rows.py --baseline ../base --rows 1000000      # speed, beside that of a former commit: minutes; 1 GB

The model has d = 16 and N = 10. Memory is the peak of the process that runs the model and of those that tokenise.

Alone, rows are JSON lines of a number and a few words, and the model has two layers. A run of 1,000 rows also holds the
library and the model, so the difference to it is what more rows cost. The peaks of the run's quarters say whether the
first process still grows.

With ``--baseline`` rows have eight columns, the model has one layer, and both checkouts label the same files in turns:
JSON lines to JSON lines, and Parquet to Parquet. A ratio is the baseline's seconds over ours: of processor time, in all
processes, and on the clock, which other work on the machine lengthens. What a run of 1,000 rows takes, imports and all,
is not in them.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import pyarrow
import pyarrow.parquet
from transformers import BertConfig, BertModel, BertTokenizerFast

import fastmux
from bench.machine import default_device, machine_info, results_folder
from bench.processes import ROOT, watched
from bench.timing import turn_by_turn
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of, positive

_FEW, _BATCH = 1_000, 50_000
_WORDS = [f"word{number}" for number in range(1000)]
_SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
#: No file of a program: processes that tokenise would run it first, and load torch.
_RUN = """
import json, pathlib, fastmux, transformers
transformers.utils.logging.set_verbosity_error()
report = fastmux.{call}({model!r}, {source!r}, {output!r}, num_workers={num_workers}).report
peak = 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({{"rows": report.labelled, "stages": vars(report.times), "peak_bytes": peak}}))
"""


def store_model(folder: Path, num_instances: int, layers: int, embeds: bool = False) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate([*special, *_WORDS])})
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_hidden_layers=layers, **_SIZES)
    if embeds:
        EmbeddingModel(BertModel(config), EmbeddingConfig("mean")).save_pretrained(folder, tokenizer)
        return
    model = fastmux.TMuxForSequenceClassification.from_backbone(config, num_instances, num_labels=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, rows: int, wide: bool = False) -> None:
    """Rows of a number and a text of one to eight words; wide ones also have text, numbers, truth values, lists and
    nulls."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(_WORDS, k=draw.randint(1, 8))) for _ in range(10_000)]

    def row(i: int) -> dict:
        made = {"id": i, "text": texts[i % len(texts)]}
        more = {"title": f"title {i % 997}", "stars": i % 5, "price": i / 7, "sold": i % 3 == 0}
        more |= {"tags": ["a", f"t{i % 11}"], "note": None if i % 2 else "a few words"}
        return made | more if wide else made

    made = map(row, range(rows))
    if path.suffix == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in made)
        return
    schema = pyarrow.Table.from_pylist([row(0), row(1)]).schema
    with pyarrow.parquet.ParquetWriter(path, schema) as file:
        while some := list(itertools.islice(made, _BATCH)):
            file.write_table(pyarrow.Table.from_pylist(some, schema))


def measured(checkout: Path, model: Path, source: Path, num_workers: int, embeds: bool = False) -> dict:
    """What a process that calls a checkout's `fastmux.predict`, or `fastmux.embed`, reports and takes, with those that
    tokenise for it."""
    output = Path(source.with_name("out.parquet" if embeds else f"labelled{source.suffix}"))
    places = {"model": str(model), "source": str(source), "output": str(output)}
    code = _RUN.format(call="embed" if embeds else "predict", num_workers=num_workers, **places)
    found = watched(code, checkout)
    output.unlink()
    times = found["stages"]
    speed = {"rows_per_second": found["rows"] / times["total"], "until_first_rows_seconds": times["starting"]}
    return found | speed


def figures(many: list[dict], few: list[dict]) -> dict[str, float]:
    """Medians over a checkout's runs; of times, of what many rows take longer than few."""

    def middle(runs: list[dict], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    found = {name: middle(many, name) - middle(few, name) for name in ("processor_seconds", "seconds")}
    return found | {"peak_bytes": statistics.median(map(_memory, many))}


def _memory(run: dict) -> int:
    return run["peak_bytes"] + run["peak_bytes_of_other_processes"]


def _model(result: dict) -> str:
    if result.get("embeds"):
        return "`fastmux embed` and a model of 2 layers, d = 16"
    return f"a model of 2 layers, d = 16, N = {result['num_instances']}"


def section(result: dict) -> Iterator[str]:
    """The page's section on a run without a baseline."""
    many, quarters = result["many"], [f"{size / 2**20:.0f}" for size in result["many"]["bytes_by_quarter"]]
    yield (
        f"A file of {many['rows']:,} short rows through {_model(result)}: "
        f"{many['rows_per_second']:,.0f} rows/s, the first ready after {many['until_first_rows_seconds']:.1f} s; "
        f"{result['beyond_the_model_bytes'] / 2**20:.0f} MiB more, in all processes, than {result['few']['rows']:,} "
        f"rows take; in the quarters of the run the first process held at most {', '.join(quarters)} MiB. "
        f"`python bench/rows.py{' --embed' if result.get('embeds') else ''}`."
    )


def baseline_section(result: dict) -> Iterator[str]:
    """The page's section on a run with ``--baseline``."""
    yield (
        f"{result['rows']:,} short rows of eight columns through a model of one layer, d = 16, N = "
        f"{result['num_instances']}, beside commit `{result['baseline'][:12]}`, medians of {result['repeats']} in "
        "turns. "
        "`python bench/rows.py --baseline CHECKOUT`."
    )
    rows = []
    for ending, found in result["formats"].items():
        ratios = {name: found["baseline"][name] / value for name, value in found["ours"].items()}
        speed = result["rows"] / found["ours"]["processor_seconds"]
        rows.append({"ending": ending, "speed": speed, **ratios})
    columns = {"rows": "`{ending}` to `{ending}`", "rows a second of a processor": "{speed:,.0f}"}
    columns |= {"baseline / ours: processor": "{processor_seconds:.2f}", "clock": "{seconds:.2f}"}
    yield table(rows, columns | {"memory": "{peak_bytes:.2f}"})


def main(argv: list[str] | None = None) -> dict:
    parser = options_of(__doc__)
    parser.add_argument("--rows", type=positive, default=200_000, help="The number of rows.")
    parser.add_argument("--baseline", type=Path, metavar="PATH", help="Another checkout of fastmux to compare with.")
    parser.add_argument("--repeats", type=positive, default=1, help="The runs of each checkout.")
    parser.add_argument("--num_instances", type=positive, default=10, metavar="N", help="The model's N.")
    parser.add_argument("--num_workers", type=int, default=1, help="The processes that tokenise.")
    parser.add_argument("--embed", action="store_true", help="Through fastmux.embed and a model that embeds.")
    parser.add_argument("--work_dir", type=Path, help="A folder for 1 KB a row. Default: a temporary one.")
    args = parser.parse_args(argv)
    if args.embed and args.baseline:
        parser.error("--embed goes without --baseline")
    device, beside = default_device(), args.baseline is not None
    result = {"machine": machine_info(device), "num_instances": args.num_instances, "num_workers": args.num_workers}
    result |= {"embeds": True} if args.embed else {}
    checkouts = {"ours": ROOT} | ({"baseline": args.baseline.resolve()} if beside else {})
    sizes = {"few": min(_FEW, args.rows), "many": args.rows}
    with tempfile.TemporaryDirectory(dir=args.work_dir) as name:
        folder = Path(name)
        store_model(folder / "model", args.num_instances, layers=1 if beside else 2, embeds=args.embed)
        found = {}
        for ending in (".jsonl", ".parquet") if beside else (".jsonl",):
            calls = {}
            for (part, rows), (who, checkout) in itertools.product(sizes.items(), checkouts.items()):
                source = folder / f"{part}{ending}"
                write_rows(source, rows, wide=beside)
                calls[part, who] = partial(measured, checkout, folder / "model", source, args.num_workers, args.embed)
            found[ending] = turn_by_turn(calls, args.repeats)
            source.unlink()
    if beside:
        git = ["git", "-C", str(args.baseline), "rev-parse", "HEAD"]
        commit = subprocess.run(git, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        result |= {"rows": args.rows, "repeats": args.repeats, "baseline": commit}
        result["formats"] = {
            ending: {who: figures(runs["many", who], runs["few", who]) for who in checkouts}
            for ending, runs in found.items()
        }
    else:
        result |= {part: found[".jsonl"][part, "ours"][-1] for part in sizes}
        result["beyond_the_model_bytes"] = _memory(result["many"]) - _memory(result["few"])
    name = "row_formats.json" if beside else "rows_embedded.json" if args.embed else "rows.json"
    output = args.output or results_folder(device) / name
    finish(result, baseline_section if beside else section, output)
    return result


if __name__ == "__main__":
    main()
