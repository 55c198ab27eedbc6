"""What fastmux adds to the start of a program: to ``import transformers``, and to loading an encoder's checkpoint.

    python bench/loading.py                  # base size; writes bench/results/<device>/loading.json

Each figure is the median of repeats that take turns. Imports run in fresh processes. Checkpoints are loaded from a warm
page cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import transformers
from transformers import AutoModel, BertConfig, BertModel

import fastmux
from bench.machine import CPU, machine_info, results_folder
from bench.timing import medians
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of, positive

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


def load_seconds(auto_class: type, folder: Path) -> float:
    """The wall time of loading a checkpoint."""
    start = time.perf_counter()
    auto_class.from_pretrained(folder, add_pooling_layer=False)  # as saved: a new layer would be drawn at random
    return time.perf_counter() - start


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield f"Seconds, medians of {result['repeats']}: `python bench/loading.py`."
    rows = {f"`{name}`" if "import" in name else name: seconds for name, seconds in result["imports"].items()}
    rows |= {f"load a checkpoint: {name}": seconds for name, seconds in result["loading"].items()}
    yield table([{"what": what, "s": seconds} for what, seconds in rows.items()], {"": "{what}", "s": "{s:.3f}"})
    if "parameters_ratio" in result:
        yield f"The multiplexed checkpoint has {result['parameters_ratio']:.3f} times the encoder's parameters."


def main(argv: list[str] | None = None) -> None:
    parser = options_of(__doc__)
    parser.add_argument("--repeats", type=positive, default=5, help="The turns that count.")
    parser.add_argument("--num_hidden_layers", type=positive, default=12, help="The encoder's layers.")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    imports = medians({name: lambda s=s: import_seconds(s) for name, s in IMPORTS.items()}, args.repeats, 1)
    with tempfile.TemporaryDirectory() as folder:
        encoder, mux = Path(folder, "encoder"), Path(folder, "mux")
        model = BertModel(BertConfig(num_hidden_layers=args.num_hidden_layers), add_pooling_layer=False)
        model.save_pretrained(encoder)
        multiplexed = fastmux.TMux(model, num_instances=10)
        multiplexed.save_pretrained(mux)
        checkpoints = {
            "AutoModel, the encoder": lambda: load_seconds(AutoModel, encoder),
            "fastmux.TMux, multiplexed": lambda: load_seconds(fastmux.TMux, mux),
            "AutoModel, multiplexed": lambda: load_seconds(AutoModel, mux),
        }
        loading = medians(checkpoints, args.repeats, 1)
    result = {"machine": machine_info(CPU), **vars(args), "imports": imports, "loading": loading}
    result["parameters_ratio"] = multiplexed.num_parameters() / model.num_parameters()
    del result["output"]
    finish(result, section, args.output or results_folder(CPU) / "loading.json")


if __name__ == "__main__":
    main()
