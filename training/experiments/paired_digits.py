"""Is the first of two handwritten digits at most the second? 1,000 pairs of 14 x 14 pixels to learn it from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmux.settings import integer, number, one_of
from fastmux.training.experiments.base import Experiment, Metric, Multiplexing, Rows, convolution, right
from fastmux.training.experiments.mnist import CLASSES, read_mnist

SIDE = 14


@dataclass(frozen=True)
class PairedDigits(Experiment):
    """Attributes:
    network: "basic", the two images are two channels of one; "shared", each goes through the same network, and what
        it says of both is compared. With N = 2 the two of a pair share a pass of it.
    auxiliary_weight: The weight of a loss that asks each image for its digit, beside the pair's; only "shared" has it.
    shift: The pixels by which training images are moved each way, at most.
    channels: Those behind the first convolution.
    hidden_size: The width of the hidden layer.
    dropout: Dropout behind the hidden layer.
    pairs: How many there are to train on, and as many to test on.
    """

    network: str = one_of("shared", ("basic", "shared"))
    auxiliary_weight: float = number(0.0)
    shift: int = integer(0, 0, SIDE - 1)
    channels: int = 32
    hidden_size: int = 128
    dropout: float = 0.0
    pairs: int = 1000

    name = "paired_digits"
    inputs = ("pair",)
    metrics = (Metric("accuracy"), Metric("digits"))
    splits_by_seed = True
    slots = False  # a row is a pair, with a slot for each of its images

    def __post_init__(self):
        super().__post_init__()
        if self.network == "basic" and self.auxiliary_weight:
            raise ValueError("network 'basic' sees no single digit, expected auxiliary_weight 0")

    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        """Training and test pairs, each image in one pair at most: pair, float32 (rows, 2, 14, 14); digits, int64
        (rows, 2); target, int64 (rows), 1 where the first is at most the second."""
        draw = torch.Generator().manual_seed(seed)
        parts = []
        for rows in read_mnist(data_dir):
            if len(rows["label"]) < 2 * self.pairs:
                raise ValueError(f"{self.name}: {len(rows['label'])} images, expected at least 2 x pairs={self.pairs}")
            index = torch.randperm(len(rows["label"]), generator=draw)[: 2 * self.pairs]
            image = nn.functional.avg_pool2d(rows["image"][index], 2)
            digits = rows["label"][index].view(-1, 2)
            target = (digits[:, 0] <= digits[:, 1]).long()
            parts.append({"pair": image.view(-1, 2, SIDE, SIDE), "digits": digits, "target": target})
        return parts[0], parts[1]

    def model(self, multiplexing: Multiplexing) -> nn.Module:
        inner, hidden = self.channels, self.hidden_size
        basic = self.network == "basic"
        stem = nn.Sequential(nn.Conv2d(2 if basic else 1, inner, 3, padding=1), nn.ReLU())
        first, second, pool = convolution(inner, 2 * inner, 3), convolution(2 * inner, 2 * inner, 3), nn.MaxPool2d(2)
        last = nn.Linear(2 * inner * (SIDE // 4) ** 2, hidden)
        body = nn.Sequential(nn.BatchNorm2d(inner), first, pool, second, pool, nn.Flatten(), last, nn.ReLU())
        head = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(hidden, 2 if basic else CLASSES))
        network = multiplexing.wrap(body, inner, out_width=hidden, stem=stem, head=head)
        return Paired(network, basic, self.shift).to(memory_format=torch.channels_last)

    def loss(self, outputs: tuple[Tensor, Tensor | None], rows: Rows) -> Tensor:
        compared, digits = outputs
        loss = nn.functional.cross_entropy(compared, rows["target"])
        if not self.auxiliary_weight:
            return loss
        return loss + self.auxiliary_weight * nn.functional.cross_entropy(digits.mT, rows["digits"])

    def measure(self, outputs: tuple[Tensor, Tensor | None], rows: Rows) -> Rows:
        compared, digits = outputs
        measured = {"accuracy": right(compared, rows["target"])}
        if self.auxiliary_weight:  # else nothing has told the network which of its outputs is which digit
            measured["digits"] = right(digits, rows["digits"]).mean(1)
        return measured


class Paired(nn.Module):
    """Two images at a time: pair (B, 2, 14, 14) -> the comparison's logits (B, 2), and each image's (B, 2, 10), which
    the "basic" network does not have.

    In training, images share a pass with any other ones of the batch, in a new order each time: what they say is
    brought together again afterwards. Otherwise the two of a pair share it.
    """

    def __init__(self, network: nn.Module, basic: bool, shift: int):
        super().__init__()
        self.network, self.shift = network, shift
        self.compare = None
        if not basic:
            self.compare = nn.Sequential(nn.Linear(2 * CLASSES, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.training and self.shift:
            pair = moved(pair, self.shift)
        if self.compare is None:
            return self.network(pair), None
        images = pair.flatten(0, 1)[:, None]
        order = torch.randperm(len(images), device=images.device) if self.training else slice(None)
        logits = torch.empty(len(images), CLASSES, device=images.device)
        logits[order] = self.network(images[order]).float()
        logits = logits.view(-1, 2, CLASSES)
        return self.compare(logits.flatten(1)), logits


def moved(images: Tensor, shift: int) -> Tensor:
    """Each image moved by up to ``shift`` pixels up or down and left or right, filled from its border: (B, C, H, W)."""
    padded = nn.functional.pad(images, (shift,) * 4, mode="replicate")
    windows = padded.unfold(-2, images.shape[-2], 1).unfold(-2, images.shape[-1], 1)  # (B, C, down, right, H, W)
    down, across = torch.randint(0, 2 * shift + 1, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, across]
