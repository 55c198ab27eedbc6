"""Label many files on a cluster with Ray Data: several models at once, resumed after an interruption.

    python examples/ray_batch.py                # a tiny model on a few rows, to see it work on this machine
    python examples/ray_batch.py --model my-model --input rows/ --output labels/ --id_column id --models 8 --gpus 1

The input is a file or a folder of JSON lines or Parquet, and each row has its own id. The output is a folder of
Parquet: the same rows with the columns that `fastmux predict` would add, and `error` for a row that cannot be labelled.
Ray Data keeps the ids that are done in OUTPUT.checkpoint; started again, it labels the others. Leave Ray some CPUs
besides those of the models, to read, filter and write: without any it waits for ever.

The rows of a group come from one batch, and Ray decides which rows a batch has. With --copies N a row's answer does not
depend on that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas
import pyarrow as pa
import ray
from ray.data.checkpoint import CheckpointConfig
from transformers import BertConfig, BertTokenizerFast

import fastmux


class Label:
    """A model that a worker loads once. It adds answers to batches of rows."""

    def __init__(self, model: str, column: str, copies: int, device: str | None):
        self.labeller = fastmux.Labeller(model, truncation=True, device=device)
        self.column, self.copies = column, copies
        self.new = self.labeller.columns() | {"error": pa.string()}

    def __call__(self, table: pa.Table) -> pa.Table:
        answers = self.labeller(table[self.column].to_pylist(), copies=self.copies)
        for name, kind in self.new.items():
            table = table.append_column(name, pa.array([answer.get(name) for answer in answers], kind))
        return table


def label(args: argparse.Namespace, worker: type = Label) -> None:
    """Label what is not labelled yet."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    checkpoint = Path(f"{args.output}.checkpoint").absolute()
    context.checkpoint_config = CheckpointConfig(id_column=args.id_column, checkpoint_path=str(checkpoint))
    parquet = args.input.suffix == ".parquet" or any(args.input.glob("*.parquet"))
    rows = (ray.data.read_parquet if parquet else ray.data.read_json)(str(args.input.absolute()))
    rows.map_batches(
        worker,
        fn_constructor_args=(str(args.model), args.column, args.copies, "cuda" if args.gpus else "cpu"),
        batch_size=args.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=args.models),
        num_gpus=args.gpus,
    ).write_parquet(str(args.output.absolute()))


def demonstration(folder: Path) -> list[str]:
    """Arguments for a tiny model with random weights, and a few rows."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "dull", "film"]
    tiny = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
    model.save_pretrained(folder / "model")
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder / "model")
    rows = [{"id": i, "text": f"{words[5 + i % 2]} film"} for i in range(20)] + [{"id": 20, "text": ""}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["--model", f"{folder / 'model'}", "--input", f"{folder / 'rows.jsonl'}", "--output", f"{folder / 'labels'}"]


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="A name on the Hugging Face hub, or a folder that all workers see."
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="A folder that all workers see.")
    parser.add_argument("--id_column", default="id")
    parser.add_argument("--column", default="text", help="The column that is labelled.")
    parser.add_argument("--copies", type=int, default=1, help="How many slots of a multiplexed model each row takes.")
    parser.add_argument("--models", type=int, default=1, help="How many workers, each with its own model.")
    parser.add_argument("--gpus", type=float, default=0.0, help="How many GPUs each worker has.")
    parser.add_argument("--batch_size", type=int, default=8192, help="How many rows are sorted by length together.")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        args = parse_args(argv or demonstration(Path(folder)))
        label(args)
        print(pandas.read_parquet(args.output).sort_values(args.id_column).to_string(max_rows=10))
    ray.shutdown()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
