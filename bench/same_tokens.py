"""Do copies of a token need a feed-forward pass each? All positions of a batch that hold the same token share one.

    python bench/same_tokens.py models/sst2=sst2.tsv:sentence models/qqp=qqp.tsv:sentence1,sentence2 --bf16

Each argument is a folder of a classifier of rows (BERT's layers), a table of rows that it was not trained on, and the
columns of its text. In a layer that shares, attention runs at every position; up to ``--copies`` positions of the batch
that hold the same token, those whose places are nearest, give their mean to the feed-forward layer, and each adds what
comes out to its own state: ``e_i = LN(a_i + FFN(mean of a over the copies of i's token))``. Answers then depend on the
rows beside a row.

Beside it stands the plain original with so many neurons that its feed-forward layers cost the same, those that the text
needs most. Both learn the original's answers in as many steps, from the same rows. The speed is a bound: the measured
times of embeddings, layers and feed-forward layers (one thread of processor time, torch float32, in turns), less the
share of passes that is spared, as if it cost nothing to find the copies.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from bench.contests import Contest, contest_options, run_contests
from fastmux.distillation.teacher import padded
from fastmux.labelling.classifier import Classifier
from fastmux.models.windows import feed_forward_change
from fastmux.searching.measure import Part
from fastmux.searching.rows import SearchRows
from fastmux.training.formatting import table
from fastmux.training.programs import positive, run_program


def groups_of(input_ids: Tensor, keep: Tensor, copies: int) -> Tensor:
    """Which positions share a pass.

    Args:
        input_ids: Tokens, (B, L), integers.
        keep: What is no padding, (B, L), of 0 and 1 or bool. Padding shares with nothing.
        copies: How many positions share a pass, at most.

    Returns:
        The number of each position's group, from 0, (B * L), int64.

    Example:
        >>> import torch
        >>> from bench.same_tokens import groups_of
        >>> ids = torch.tensor([[1, 7, 7], [1, 7, 0]])
        >>> groups_of(ids, ids != 0, 2).tolist()  # the 7s at place 1 share, the one at place 2 is left over
        [0, 1, 2, 0, 1, 3]
    """
    rows, length = input_ids.shape
    kept = keep.flatten() != 0
    alone = input_ids.max() + 1 + torch.arange(rows * length, device=input_ids.device)
    tokens = torch.where(kept, input_ids.flatten(), alone)
    by_place = torch.arange(rows * length, device=tokens.device).view(rows, length).T.flatten()
    order = by_place[torch.argsort(tokens[by_place], stable=True)]
    places = torch.arange(len(order), device=tokens.device)
    begins = torch.ones_like(kept)
    begins[1:] = tokens[order][1:] != tokens[order][:-1]
    first = torch.cummax(torch.where(begins, places, 0), 0).values
    groups = torch.empty_like(order)
    groups[order] = torch.cumsum((places - first) % copies == 0, 0) - 1
    return groups


class SharedFeedForward:
    """A copy of a classifier, some of whose layers share feed-forward passes between copies of a token.

    Args:
        original: With BERT's layers. It is not changed.
        copies: How many positions share a pass, at most; with 1 the model is the original.
        layers: The numbers of the layers that share.
    """

    def __init__(self, original: PreTrainedModel, copies: int, layers: Sequence[int]):
        self.model, self.copies = copy.deepcopy(original), copies
        self.positions = self.passes = 0
        self.model.base_model.register_forward_pre_hook(self._read, with_kwargs=True)
        for number in layers:
            layer = self.model.base_model.encoder.layer[number]
            layer.feed_forward_chunk = partial(self._run, layer)

    @property
    def spared(self) -> float:
        """The share of the feed-forward passes that no position needed, of what has run so far."""
        return 1 - self.passes / self.positions

    def _read(self, module: nn.Module, args: tuple, given: dict) -> None:
        ids = given["input_ids"] if "input_ids" in given else args[0]
        keep = given["attention_mask"] if given.get("attention_mask") is not None else torch.ones_like(ids)
        self._groups = groups_of(ids, keep, self.copies)
        self._sizes = torch.bincount(self._groups)
        kept = int(keep.sum())
        self.positions += kept
        self.passes += len(self._sizes) - (keep.numel() - kept)  # padding has groups of its own

    def _run(self, layer: nn.Module, attended: Tensor) -> Tensor:
        states = attended.flatten(0, 1)
        sums = states.new_zeros(len(self._sizes), states.shape[1]).index_add(0, self._groups, states)
        change = feed_forward_change(layer, sums / self._sizes[:, None])
        return layer.output.LayerNorm(change[self._groups].view(attended.shape) + attended)


class SharingContest(Contest):
    """Layers that share, beside narrower ones of the same cost, of one original; see `Contest`."""

    first_only = False

    def __init__(self, classifier: Classifier, rows: SearchRows, options: argparse.Namespace, folder: Path):
        super().__init__(classifier, rows, options, folder)
        reporting = rows.reporting[: options.max_reported_rows]
        self.reporting = rows.dataset(reporting)
        self.part = Part(rows.tokens.select(reporting), self.answers(self.original), classifier.problem_type)

    @torch.no_grad()
    def answers(self, model: PreTrainedModel) -> np.ndarray:
        """A model's logits of the rows that are reported on, in batches as they come."""
        found = []
        for begin in range(0, len(self.reporting), self.options.batch):
            some = np.arange(begin, min(begin + self.options.batch, len(self.reporting)))
            found.append(model(**padded(self.reporting, some, self.tokenizer)).logits.float().numpy())
        return np.concatenate(found)

    def agreement(self, model: PreTrainedModel) -> float:
        """The share of the reported rows with the original's label."""
        return float(self.part.share([self.answers(model)]).mean)

    def trained(self, name: str, model: PreTrainedModel) -> float:
        """`agreement` once the model learnt, rows sharing a batch at random, as they do where they are reported on."""
        set_seed(0)
        return self.agreement(self.learnt(name, model, train_sampling_strategy="random"))

    def __call__(self) -> dict:
        layer = self.original.base_model.encoder.layer[0]
        took = self.seconds({"feed-forward": lambda inputs, states, keep: layer.feed_forward_chunk(states)})
        original, entries = took["embeddings"] + self.layers * took["layer"], []
        for copies in self.options.copies:
            for name, layers in {"all layers": range(self.layers), "first half": range(self.layers // 2)}.items():
                shared = SharedFeedForward(self.original, copies, layers)
                untrained = self.agreement(shared.model)
                spared = shared.spared * len(layers) / self.layers
                narrow = copy.deepcopy(self.source.narrowed(1 - spared, 1.0))
                entry = {
                    "name": f"{copies} copies, {name}",
                    "spared": spared,
                    "speed_bound": original / (original - self.layers * spared * took["feed-forward"]),
                    "untrained": untrained,
                    "narrow_untrained": self.agreement(narrow),
                    "agreement": self.trained(f"shared-{copies}-{name}", shared.model),
                    "narrow_agreement": self.trained(f"narrow-{copies}-{name}", narrow),
                }
                entries.append(entry)
                print(entry, flush=True)
        rows = {"learning": len(self.learning), "reporting": len(self.reporting)}
        return {"rows": rows, "tokens": float(np.mean(self.learning["length"])), "seconds": took, "entries": entries}


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    options = result["options"]
    yield (
        f"Positions of a batch of {options['batch']} rows with the same token share feed-forward passes, beside the "
        f"original with as many neurons fewer; each learnt for {options['steps']} steps. `python bench/same_tokens.py`."
    )
    lines = [{"task": task["task"], **entry} for task in result["same_tokens"] for entry in task["entries"]]
    columns = {"task": "{task}", "share": "{name}", "passes spared": "{spared:.1%}", "x at most": "{speed_bound:.2f}"}
    columns |= {"same labels, untrained": "{untrained:.3f}", "same labels": "{agreement:.3f}"}
    columns |= {"narrower, untrained": "{narrow_untrained:.3f}", "narrower": "{narrow_agreement:.3f}"}
    yield table(lines, columns)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = contest_options(__doc__, batch=64)
    parser.set_defaults(max_rows=12000)
    parser.add_argument("--copies", type=positive, nargs="+", default=[2, 4], help="Positions that share a pass.")
    parser.add_argument("--max_reported_rows", type=positive, default=1000, help="Rows that are reported on.")
    return run_contests(SharingContest, parser, argv, section, key="same_tokens", file="same_tokens.json")


if __name__ == "__main__":
    run_program(main)
