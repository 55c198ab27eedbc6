"""A VGG-style CNN on handwritten digits, pruned layer by layer: sparsity and multiplexing together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from fastmux.settings import one_of
from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.experiments.base import Fit, Multiplexing, convolution
from fastmux.training.experiments.mnist import CLASSES, SIDE, Mnist


@dataclass(frozen=True)
class Pruning(Mnist):
    """The smallest weights of every layer but the first go, after training; then the rest is trained on.

    Attributes:
        network: "vgg", four convolutions in two blocks and a hidden layer, behind a first convolution, the stem, behind
            which rows are bound.
        channels: Those of the stem; the blocks have twice and four times as many.
        least_sparsity, most_sparsity: The share of weights that go from the second layer and from the last, linear in
            between; the first layer stays dense. 0 and 0 leave all.
        fine_tuning_epochs, fine_tuning_learning_rate: How the network is trained after pruning.
    """

    network: str = one_of("vgg", ("vgg",))
    channels: int = 16
    least_sparsity: float = 0.7
    most_sparsity: float = 0.95
    fine_tuning_epochs: float = 5.0
    fine_tuning_learning_rate: float = 5e-4

    name = "pruning"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.least_sparsity <= self.most_sparsity < 1:
            raise ValueError(
                f"least_sparsity is {self.least_sparsity} and most_sparsity {self.most_sparsity}, expected "
                "0 <= least_sparsity <= most_sparsity < 1"
            )

    def _model(self, multiplexing: Multiplexing) -> nn.Module:
        c, hidden = self.channels, self.hidden_size
        stem = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        layers: list[nn.Module] = [nn.BatchNorm2d(c)]
        for inner, outer in ((c, 2 * c), (2 * c, 4 * c)):
            layers += [convolution(inner, outer, 3), convolution(outer, outer, 3), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(4 * c * (SIDE // 8) ** 2, hidden), nn.ReLU()]
        head = nn.Linear(hidden, CLASSES)
        return multiplexing.wrap(nn.Sequential(*layers), c, out_width=hidden, stem=stem, head=head)

    def train(self, model: nn.Module, fit: Fit) -> Mapping[str, float]:
        fit()
        if not self.most_sparsity:
            return {}
        found = {"before pruning": fit.score()["accuracy"]}
        layers = [m for m in model.network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        dense = [layer.weight.detach().clone() for layer in layers]
        shares = torch.linspace(self.least_sparsity, self.most_sparsity, len(layers))
        for layer, amount in zip(layers, shares, strict=True):
            layer.to(memory_format=torch.contiguous_format)  # all that torch's pruning takes
            prune.l1_unstructured(layer, "weight", float(amount))
        found["pruned"] = fit.score()["accuracy"]
        fit(num_train_epochs=self.fine_tuning_epochs, learning_rate=self.fine_tuning_learning_rate)
        for layer in layers:
            prune.remove(layer, "weight")
        left = sum(int(p.count_nonzero()) for p in model.parameters())
        found["weights left"] = left / sum(p.numel() for p in model.parameters())
        draw_weights(fit.folder / "weights.png", dense, [layer.weight.detach() for layer in layers])
        return found


def draw_weights(path: Path, before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    """Histograms of each pruned layer's weights: before pruning, and what is left after fine-tuning, without zeros."""
    panels = []
    for number, (old, new) in enumerate(zip(before, after, strict=True), 2):
        parts, lines = {"dense": old.flatten(), "left": new[new != 0]}, []
        reach = float(torch.cat(list(parts.values())).abs().max())
        for label, values in parts.items():
            counts, edges = np.histogram(values.float().numpy(), bins=60, range=(-reach, reach))
            style = {"label": label, "drawstyle": "steps-post", "marker": ""}
            lines.append(Line(list(zip(edges[:-1], counts, strict=True)), style=style))
        title = f"layer {number}, {len(parts['left']) / new.numel():.0%} left"
        panels.append(Panel(lines, {"title": title, "yscale": "log"}))
    draw(path, "", panels, (3.0, 2.8))
