"""What fastmux adds to the start of a program: to ``import transformers``, and to loading an encoder's checkpoint.

    python bench/loading.py                  # base size; writes bench/results/<device>/loading.json

Each figure is the median of repeats that take turns. Imports run in fresh processes. Checkpoints are loaded from a warm
page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import transformers
from transformers import AutoModel, BertConfig, BertModel

import fastmux
from bench.machine import machine_info, results_folder
from fastmux.files import write_json
from training.formatting import markdown

IMPORTS = {
    "import transformers": "import transformers",
    "import transformers, fastmux": "import transformers, fastmux",
    "from transformers import BertModel": "from transformers import BertModel",
    "the same, and fastmux.TMux": "from transformers import BertModel; import fastmux; fastmux.TMux",
}


def import_seconds(statement: str) -> float:
    """The wall time of a statement in a fresh Python."""
    code = f"import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of what each call returns. Calls take turns, and a first turn does not count."""
    turns = [{name: call() for name, call in calls.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(turn[name] for turn in turns[1:]) for name in calls}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_hidden_layers", type=int, default=12)
    parser.add_argument("--output", type=Path, help="JSON file; default: loading.json in the device's results folder")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    imports = medians({name: lambda s=s: import_seconds(s) for name, s in IMPORTS.items()}, args.repeats)

    with tempfile.TemporaryDirectory() as folder:
        encoder, mux = Path(folder, "encoder"), Path(folder, "mux")
        model = BertModel(BertConfig(num_hidden_layers=args.num_hidden_layers), add_pooling_layer=False)
        model.save_pretrained(encoder)
        multiplexed = fastmux.TMux(model, num_instances=10)
        multiplexed.save_pretrained(mux)
        extra = sum(p.numel() for p in multiplexed.parameters()) / sum(p.numel() for p in model.parameters())
        plain = {"add_pooling_layer": False}  # as saved: a new one would be drawn at random
        checkpoints = {
            "AutoModel, the encoder": lambda: seconds(lambda: AutoModel.from_pretrained(encoder, **plain)),
            "fastmux.TMux, multiplexed": lambda: seconds(lambda: fastmux.TMux.from_pretrained(mux, **plain)),
            "AutoModel, multiplexed": lambda: seconds(lambda: AutoModel.from_pretrained(mux, **plain)),
        }
        loading = medians(checkpoints, args.repeats)

    result = {"machine": machine_info(torch.device("cpu")), "repeats": args.repeats}
    result |= {"num_hidden_layers": args.num_hidden_layers, "imports": imports, "loading": loading}
    output = args.output or results_folder(torch.device("cpu")) / "loading.json"
    write_json(output, result)
    print("\n\n".join(section(result)))
    print(f"\nThe multiplexed checkpoint has {extra:.3f} times the encoder's parameters.\nwritten: {output}")


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield f"Seconds, medians of {result['repeats']}: `python bench/loading.py`."
    rows = [[f"`{name}`" if "import" in name else name, f"{s:.3f}"] for name, s in result["imports"].items()]
    rows += [[f"load a checkpoint: {name}", f"{seconds:.3f}"] for name, seconds in result["loading"].items()]
    yield markdown(["", "s"], rows)


if __name__ == "__main__":
    main()
