"""Rows a second that are made ready for the model: text by a thread and by processes, token ids, and kept tokens.

    python bench/tokenising.py --data_dir DATA                     # SST-2, a minute
    python bench/tokenising.py --data_dir DATA --words 90          # longer rows: so many words each

A file of JSON lines with text, or a Parquet file with token ids, is read in shards and prepared as `fastmux.predict`
does it, without a model. Ways take turns on the wall clock; the time begins when the first shard is ready, so that the
start of processes does not count.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import pyarrow
import pyarrow.parquet

from bench.machine import CPU, machine_info, results_folder
from bench.timing import medians
from bench.workload import some, stored_tokenizer, texts_of
from fastmux.labelling.ahead import Ahead
from fastmux.labelling.columns import choose_column
from fastmux.labelling.preparing import Preparation
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.labelling.token_cache import TokenCache
from fastmux.tables.opening import Source, open_source
from fastmux.tables.writers import WRITERS
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of, positive

_LENGTH, _SHARD = 512, 2048


def preparation_of(source: Source, rows: RowTokenizer) -> Preparation:
    """How `fastmux.predict` prepares a source's shards for an output of the same format."""
    column = choose_column(source, None, None, False, False)
    ending = ".parquet" if source.kind == "table" else ".jsonl"
    writer = WRITERS[ending](source.kind, source.schema if source.kind == "table" else None, ("label",), b"")
    return Preparation(source.kind, source.columns, column.names, column.places, False, rows, writer, column.ids)


def rate(path: Path, rows: RowTokenizer, num_workers: int, cache: TokenCache | None = None) -> float:
    """The rows a second of all shards behind the first one."""
    source = open_source(path)
    preparation = replace(preparation_of(source, rows), cache=cache)
    with closing(Ahead(preparation, num_workers)) as ahead:
        shards = ahead.prepared(source.shards(lambda index: _SHARD))
        next(shards)
        start, done = time.perf_counter(), 0
        for raw, shard in shards:
            assert not shard.problems
            done += len(raw.rows)
        return done / (time.perf_counter() - start)


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield (
        f"{result['tokens_a_row']:.1f} tokens a row, {result['count']:,} rows; the median of {result['repeats']} turns "
        "on the wall clock, without a model. `python bench/tokenising.py`."
    )
    yield table(
        result["prepared"], {"": "{way}", "rows/s": "{rows_per_second:,.0f}", "x one process": "{x_one_process:.2f}"}
    )


def main(argv: list[str] | None = None) -> dict:
    parser = options_of(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="The folder with sst2 and tokenizer.")
    add("--rows", type=positive, default=60_000, help="The rows.")
    add("--words", type=positive, help="The words of a row. Default: each row's own.")
    add("--num_workers", nargs="+", type=int, default=[0, 1, 2], metavar="W", help="Processes; 0 for a thread.")
    add("--repeats", type=positive, default=5, help="The turns.")
    args = parser.parse_args(argv)
    texts = some(texts_of("sequence", args.data_dir), args.rows)
    if args.words:
        words = itertools.cycle(" ".join(texts).split())
        texts = [" ".join(itertools.islice(words, args.words)) for _ in texts]
    tokenizer = stored_tokenizer(args.data_dir)
    rows = RowTokenizer(tokenizer.backend_tokenizer.to_str(), _LENGTH, True, None, False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, ids = folder / "rows.jsonl", folder / "ids.parquet"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        encoded = tokenizer(texts, truncation=True, max_length=_LENGTH)["input_ids"]
        pyarrow.parquet.write_table(pyarrow.table({"input_ids": encoded}), ids)
        calls = {f"text, {_named(number)}": partial(rate, lines, rows, number) for number in args.num_workers}
        calls["token ids, a thread"] = partial(rate, ids, rows, 0)
        calls["kept tokens, a thread"] = partial(rate, lines, rows, 0, TokenCache(folder / "kept"))
        calls["kept tokens, a thread"]()  # keeps them
        found = medians(calls, args.repeats)
    one = found.get("text, 1 process", next(iter(found.values())))
    result = {
        "machine": machine_info(CPU),
        "count": len(texts),
        "tokens_a_row": sum(map(len, encoded)) / len(texts),
        "repeats": args.repeats,
        "prepared": [{"way": way, "rows_per_second": rate, "x_one_process": rate / one} for way, rate in found.items()],
    }
    finish(result, section, args.output or results_folder(CPU) / "tokenising.json")
    return result


def _named(workers: int) -> str:
    return "a thread" if workers == 0 else f"{workers} process{'es' * (workers > 1)}"


if __name__ == "__main__":
    main()
