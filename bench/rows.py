"""Memory and speed of `fastmux.predict` on many rows through a tiny model, and how long the first rows take.

    python bench/rows.py --rows 200000              # about a minute
    python bench/rows.py --rows 10000000            # shows its progress; needs 4 GB of disk

Rows have a few words each, in a file of JSON lines. The model has two layers, d = 16 and N = 10. Memory is the peak of
the process that runs the model and of those that tokenise. A run of 1,000 rows also holds the library and the model, so
the difference to it is what more rows cost. The peaks of the run's quarters say whether the first process still grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import transformers
from transformers import BertConfig, BertTokenizerFast

import fastmux
from bench.machine import default_device, machine_info, results_folder
from bench.processes import environment
from bench.record import positive
from fastmux.files import write_json

_FEW = 1_000
_WORDS = [f"word{number}" for number in range(1000)]
_SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def store_model(folder: Path, num_instances: int, layers: int = 2) -> None:
    tokenizer = BertTokenizerFast(
        vocab={word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS])}
    )
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_hidden_layers=layers, **_SIZES)
    model = fastmux.TMuxForSequenceClassification.from_backbone(config, num_instances, num_labels=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts_of_words(draw: random.Random) -> list[str]:
    """10,000 texts of one to eight words."""
    return [" ".join(draw.choices(_WORDS, k=draw.randint(1, 8))) for _ in range(10_000)]


def write_rows(path: Path, rows: int) -> None:
    """Rows of a number and a text."""
    texts = texts_of_words(random.Random(0))
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(f'{{"id": {number}, "text": "{texts[number % len(texts)]}"}}\n')


def measured(model: str, source: str, output: str, num_workers: int) -> None:
    """Runs in this process, and prints the report and the peaks of memory, in bytes, as JSON."""
    transformers.utils.logging.set_verbosity_error()
    sizes: list[int] = []
    peaks: dict[Path, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            sizes.append(memory(Path("/proc/self"), "VmRSS"))
            for thread in Path("/proc/self/task").iterdir():
                for child in (thread / "children").read_text().split():
                    with contextlib.suppress(OSError, IndexError):  # it has ended
                        peaks[Path("/proc", child)] = memory(Path("/proc", child), "VmHWM")

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    report = fastmux.predict(model, source, output, num_workers=num_workers).report
    done.set()
    watching.join()
    found = {
        "rows": report.labelled,
        "rows_per_second": report.labelled / report.times.total,
        "until_first_rows_seconds": report.times.starting,
        "stages": vars(report.times),
        "peak_bytes": memory(Path("/proc/self"), "VmHWM"),
        "peak_bytes_of_other_processes": sum(peaks.values()),
        "bytes_by_quarter": [max(part, default=0) for part in quarters(sizes)],
    }
    print(json.dumps(found))


def quarters(sizes: list[int]) -> list[list[int]]:
    return [sizes[part * len(sizes) // 4 : (part + 1) * len(sizes) // 4] for part in range(4)]


def memory(process: Path, name: str) -> int:
    """The bytes that a line of a process's status gives."""
    return 1024 * int((process / "status").read_text().split(f"{name}:")[1].split()[0])


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    many, quarters = result["many"], [f"{size / 2**20:.0f}" for size in result["many"]["bytes_by_quarter"]]
    yield (
        f"A file of {many['rows']:,} short rows through a model of 2 layers, d = 16, N = {result['num_instances']}: "
        f"{many['rows_per_second']:,.0f} rows/s, the first ready after {many['until_first_rows_seconds']:.1f} s; "
        f"{result['beyond_the_model_bytes'] / 2**20:.0f} MiB more, in all processes, than {result['few']['rows']:,} "
        f"rows take; in the quarters of the run the first process held at most {', '.join(quarters)} MiB. "
        "`python bench/rows.py`."
    )


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=200_000, help="(default: 200000)")
    parser.add_argument("--num_instances", type=positive, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that tokenise (default: 1)")
    parser.add_argument("--work_dir", type=Path, help="folder for 400 bytes a row (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file; default: rows.json in the device's results folder")
    args = parser.parse_args(argv)
    device = default_device()
    result = {"machine": machine_info(device), "num_instances": args.num_instances, "num_workers": args.num_workers}
    with tempfile.TemporaryDirectory(dir=args.work_dir) as name:
        folder = Path(name)
        store_model(folder / "model", args.num_instances)
        for part, rows in (("few", min(_FEW, args.rows)), ("many", args.rows)):
            source, output = folder / f"{part}.jsonl", folder / f"{part}-labelled.jsonl"
            write_rows(source, rows)
            # No file of a program: processes that tokenise would run it first, and load torch.
            files = ", ".join(repr(str(file)) for file in (folder / "model", source, output))
            command = [sys.executable, "-c", f"import bench.rows\nbench.rows.measured({files}, {args.num_workers})"]
            done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
            result[part] = json.loads(done.stdout.splitlines()[-1])
            output.unlink()
    both = [result[part]["peak_bytes"] + result[part]["peak_bytes_of_other_processes"] for part in ("few", "many")]
    result["beyond_the_model_bytes"] = both[1] - both[0]
    write_json(args.output or results_folder(device) / "rows.json", result)
    print(*section(result))
    return result


if __name__ == "__main__":
    main()
