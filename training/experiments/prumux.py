"""SST-2 by a text classifier that is pruned, multiplexed, or both: fewer heads and feed-forward units, N states in one
(PruMUX, Su et al., 2023).

Needs Torch-Pruning: ``pip install '.[pruning]'`` in a clone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from fastmux import JoinedForSequenceClassification
from fastmux.distillation.speed import engine_of
from fastmux.distillation.teacher import captured_states
from fastmux.distillation.trainer import distillation_loss
from fastmux.distribution import of_extra
from fastmux.models.loading import read_pretrained, read_tokenizer
from fastmux.models.problems import SingleLabel
from fastmux.passes.timer import CLOCKS, rates
from fastmux.passes.tokens import Tokens
from fastmux.settings import integer, number, one_of
from fastmux.training.experiments.base import Experiment, Fit, Metric, Multiplexing, Rows, right, select
from fastmux.training.features import encode_sequences
from fastmux.training.tasks.glue import Sst2Task

#: Rows of a pass while the original is asked, and while gradients are summed up.
PASS_ROWS = 64


@dataclass(frozen=True)
class Prumux(Experiment):
    """The original loses heads and units, N of its states are joined, and what is left is distilled from the original,
    all cells on the same rows for as long; then it is timed beside the original, in turns.

    Attributes:
        original: The folder or name of a trained classifier of SST-2, with its tokenizer, of a kind that
            `fastmux.JoinedForSequenceClassification` takes. There is no default.
        sparsity: The share of the heads, and of the units of the feed-forward networks, that go from every layer; about
            that share of the layers' weights. 0 leaves all.
        join, row_layers, last_layers: See `fastmux.JoinedConfig`; N is the multiplexing's.
        importance_rows: The training rows whose gradients say which heads and units matter.
        train_rows: How many training rows the seed draws.
        max_length: The tokens of a row; longer ones are cut.
        timed_rows: The test rows on which speed is measured, at their own lengths.
        clock: "wall"; or "cpu", the time that the processor worked, for a machine that has other work to do.
    """

    original: str | None = None
    sparsity: float = number(0.0, 0, 1, below=True)
    join: str = "positions"
    row_layers: int = 1
    last_layers: int = 1
    importance_rows: int = integer(512, 1)
    train_rows: int = integer(16000, 1)
    max_length: int = integer(64, 1)
    timed_rows: int = integer(128, 1)
    clock: str = one_of("wall", tuple(CLOCKS))

    name = "prumux"
    inputs = ("input_ids", "attention_mask")
    metrics = (Metric("accuracy"),)
    over = "x original"

    @property
    def slots(self) -> bool:  # of joined positions, each row has its own
        return self.join == "rows"

    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        if self.original is None:
            raise ValueError(
                "original is needed, a trained classifier of SST-2 as training/front.py leaves it: --original "
                "runs/front/original/model"
            )
        if self.sparsity:
            torch_pruning()
        return read_reviews(data_dir, self.original, self.max_length, self.train_rows, seed)

    def model(self, multiplexing: Multiplexing) -> nn.Module:
        if multiplexing != Multiplexing(multiplexing.num_instances):
            raise ValueError("multiplexers and demultiplexers are not for joined layers; give join and row_layers")
        # Dense for the time being: what does not fit the original is said before anything is trained.
        return WithStates(self._joined(read_original(self.original), multiplexing.num_instances))

    def _joined(self, original: PreTrainedModel, num_instances: int) -> JoinedForSequenceClassification:
        structure = {"join": self.join, "row_layers": self.row_layers, "last_layers": self.last_layers}
        return JoinedForSequenceClassification.from_backbone(original, num_instances, **structure)

    def loss(self, outputs: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
        logits, states, wanted = *outputs, rows["teacher_states"]
        said = (states[:, None], wanted[:, None], logits, rows["teacher_logits"], None)
        return distillation_loss(*said, state_variance=float(wanted.var()), problem=SingleLabel())

    def measure(self, outputs: tuple[Tensor, Tensor], rows: Rows) -> Rows:
        return {"accuracy": right(outputs[0], rows["label"])}

    def train(self, model: nn.Module, fit: Fit) -> Mapping[str, float]:
        number, device = model.model.config.num_instances, model.model.device
        original, tokenizer = read_original(self.original).to(device), read_tokenizer(self.original)
        plain, dense = engine_of(copy.deepcopy(original), tokenizer), layer_weights(original)
        if self.sparsity:
            prune(original, select(fit.train, slice(self.importance_rows)), self.sparsity)
            model.model = self._joined(original, number)
        if self.sparsity or number > 1:
            fit()
        ids, mask = (fit.test[name][: self.timed_rows].numpy() for name in self.inputs)
        tokens = Tokens.of_padded(ids, mask)
        engines = {"original": plain, "own": engine_of(model.model, tokenizer)}
        calls = {name: functools.partial(engine.run, tokens) for name, engine in engines.items()}
        found = {name: rate.rows_per_second for name, rate in rates(calls, len(ids), clock=self.clock).items()}
        return {
            "layer weights left": layer_weights(original) / dense,
            "instances/s": found["own"],
            self.over: found["own"] / found["original"],
        }


class WithStates(nn.Module):
    """input_ids, attention_mask (B, L) -> logits (B, 2) and the last hidden states at the first position (B, d)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        longest = int(attention_mask.sum(1).max())  # the columns have room for the longest row of all
        with captured_states(self.model) as states:
            said = self.model(input_ids=input_ids[:, :longest], attention_mask=attention_mask[:, :longest])
        return said.logits, states[-1][:, 0]


def prune(model: PreTrainedModel, rows: Rows, sparsity: float) -> None:
    """Takes that share of heads and of feed-forward units from every layer of a BERT-like classifier, in place.

    It is those whose going changes the loss of these rows least, to first order (Molchanov et al., CVPR 2019).
    """
    tp = torch_pruning()
    layers = model.base_model.encoder.layer
    model.eval().zero_grad()
    for start in range(0, len(rows["label"]), PASS_ROWS):
        part = {n: column.to(model.device) for n, column in select(rows, slice(start, start + PASS_ROWS)).items()}
        logits, _ = WithStates(model)(part["input_ids"], part["attention_mask"])
        nn.functional.cross_entropy(logits, part["label"], reduction="sum").backward()
    attentions = [layer.attention.self for layer in layers]
    states = [block.output for layer in layers for block in (layer.attention, layer)]  # their width stays
    pruner = tp.pruner.BasePruner(
        # The layers alone: what goes lies within each of them.
        nn.Sequential(*layers),
        torch.randn(1, 4, attentions[0].query.in_features, device=model.device),
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=sparsity,
        head_pruning_ratio=sparsity,
        num_heads={getattr(a, name): a.num_attention_heads for a in attentions for name in ("query", "key", "value")},
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[part for output in states for part in output.children()],
    )
    pruner.step()
    for attention in attentions:
        attention.all_head_size = attention.query.out_features
        attention.num_attention_heads = attention.all_head_size // attention.attention_head_size
    model.zero_grad()


def layer_weights(model: PreTrainedModel) -> int:
    """The number of parameters of a plain encoder's layers, without embeddings and head."""
    return sum(p.numel() for p in model.base_model.encoder.layer.parameters())


def torch_pruning():
    """The package. Raises MissingExtraError where it is not installed."""
    with of_extra("pruning", "sparsity"):
        import torch_pruning
    return torch_pruning


def read_original(name: str) -> PreTrainedModel:
    """The classifier, in eval mode. Raises ValueError for another number of labels, or where there is none."""
    original = read_pretrained(AutoModelForSequenceClassification, name, "original").eval()
    if original.config.num_labels != 2:
        raise ValueError(f"original {name!r} has {original.config.num_labels} labels, expected SST-2's 2")
    return original


@functools.lru_cache(maxsize=1)
def read_reviews(data_dir: str, original: str, max_length: int, train_rows: int, seed: int) -> tuple[Rows, Rows]:
    """Training and development rows of SST-2: input_ids, attention_mask, int64 (rows, L), padded; label and length,
    int64 (rows). Training rows have what the original says of them: teacher_logits (rows, 2), teacher_states (rows, d).

    Raises:
        ValueError: A file, the tokenizer or the original is missing or malformed.
    """
    tokenizer, model = read_tokenizer(original), WithStates(read_original(original))
    data = Sst2Task().checked(data_dir)
    order = np.random.default_rng(seed).permutation(len(data.train))[:train_rows]
    parts = (data.train.select(order), data.evaluation["validation"])
    train, test = (columns(encode_sequences(tokenizer, part, max_length), tokenizer) for part in parts)
    return {**train, **asked(model, train)}, test


def columns(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Encoded rows as tensors, padded to the longest."""
    padded = tokenizer.pad({"input_ids": rows["input_ids"][:]}, return_tensors="pt")
    return {**padded, "label": torch.tensor(rows["labels"]), "length": padded["attention_mask"].sum(1)}


@torch.no_grad()
def asked(model: WithStates, rows: Rows) -> Rows:
    """The original's outputs for each row. Rows of similar length share a pass."""
    order = rows["length"].argsort()
    parts = [model(*(rows[name][part] for name in Prumux.inputs)) for part in order.split(PASS_ROWS)]
    back = order.argsort()
    named = zip(("teacher_logits", "teacher_states"), zip(*parts, strict=True), strict=True)
    return {name: torch.cat(own)[back] for name, own in named}
