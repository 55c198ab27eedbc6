"""A training step of an encoder on a CPU: in float32, under bfloat16 autocast, and under it with float32 attention.

    python bench/bf16_steps.py
    python bench/bf16_steps.py --hidden_size 768 --num_heads 12 --num_layers 12 --rows 16

Forward and backward of a BERT with random weights, without dropout, as students learn: the three ways take turns, and
the median of their processor times counts.

- ``float32``, ``bf16``: seconds of a step.
- ``bf16, float32 attention``: seconds of a step as `fastmux.distillation.attention` has it, which students take.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from transformers import AutoModel, BertConfig, PreTrainedModel

from bench.machine import CPU, machine_info, results_folder
from fastmux.distillation.attention import attention_in_float32
from fastmux.training.formatting import table
from fastmux.training.programs import finish, options_of, positive

#: Name -> (under autocast, attention in float32).
WAYS = {"float32": (False, False), "bf16": (True, False), "bf16, float32 attention": (True, True)}


def step(model: PreTrainedModel, ids: torch.Tensor, bf16: bool, wide: bool) -> float:
    """The processor time of a step, in seconds."""
    mask, started = torch.ones_like(ids), time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), attention_in_float32(wide):
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    states.float().square().mean().backward()
    model.zero_grad()
    return time.process_time() - started


def compared(model: PreTrainedModel, rows: int, length: int, repeats: int) -> dict[str, float]:
    """The three ways on rows of one length, in turns, after one turn that warms up."""
    ids = torch.randint(5, model.config.vocab_size, (rows, length))
    turns = [{name: step(model, ids, *way) for name, way in WAYS.items()} for _ in range(repeats + 1)][1:]
    return {name: statistics.median(turn[name] for turn in turns) for name in WAYS}


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    sizes = result["sizes"]
    yield (
        f"A training step of {sizes['num_layers']} layers × {sizes['hidden_size']}, {sizes['num_heads']} heads, on "
        f"{sizes['rows']} rows: processor seconds, the median of {sizes['repeats']}. `python bench/bf16_steps.py`."
    )
    columns = {"positions": "{length}"} | {name: f"{{{name}:.3f}}" for name in WAYS}
    yield table(result["bf16_steps"], columns | {"of bf16": lambda row: f"{row[list(WAYS)[2]] / row['bf16']:.2f}"})


def main(argv: list[str] | None = None) -> list[dict]:
    parser = options_of(__doc__)
    for name, default in {"hidden_size": 384, "num_heads": 12, "num_layers": 6, "rows": 32, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=positive, default=default)
    parser.add_argument("--lengths", type=positive, nargs="+", default=[16, 32, 64, 128, 256])
    args = parser.parse_args(argv)
    if args.hidden_size % args.num_heads:
        parser.error(f"--hidden_size is {args.hidden_size}, expected a multiple of --num_heads, {args.num_heads}")
    config = BertConfig(
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.num_heads,
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=max(args.lengths),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).train()
    model.get_input_embeddings().requires_grad_(False)
    found = []
    for length in args.lengths:
        found.append({"length": length, **compared(model, args.rows, length, args.repeats)})
        print(found[-1], flush=True)
    sizes = {name: getattr(args, name) for name in ("hidden_size", "num_heads", "num_layers", "rows", "repeats")}
    result = {"machine": machine_info(CPU), "sizes": sizes, "bf16_steps": found}
    finish(result, section, args.output or results_folder(CPU) / "bf16_steps.json")
    return found


if __name__ == "__main__":
    main()
