"""Handwritten digits, by an MLP or a CNN (DataMUX, section 5, images)."""

from __future__ import annotations

import functools
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastmux.modules import IMAGE_MULTIPLEXERS
from fastmux.settings import one_of
from fastmux.training.experiments.base import Experiment, Metric, Multiplexing, Rows, convolution, right
from fastmux.training.tasks.readers import find_files

SIDE = 28
CLASSES = 10
FILES = {
    f"{split} {what}": (f"{name}-{what}-idx{dimensions}-ubyte",)
    for split, name in (("train", "train"), ("test", "t10k"))
    for what, dimensions in (("images", 3), ("labels", 1))
}
#: Of the training images' pixels, from 0 to 1.
MEAN, DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True)
class Mnist(Experiment):
    """Attributes:
    network: "mlp", two hidden layers on the flattened image; "cnn", two convolutions and a hidden layer, as a
        multiplexer of images or of pixels is put before; "stem", one wide convolution a row, behind which rows are
        bound channel by channel, and two convolutions on what they share.
    hidden_size: The width of the MLP's layers, and of the hidden layer behind convolutions.
    channels: Those of the CNN's second convolution, of which the first has half; and of the stem.
    """

    network: str = one_of("cnn", ("mlp", "cnn", "stem"))
    hidden_size: int = 128
    channels: int = 32

    name = "mnist"
    inputs = ("image",)
    metrics = (Metric("accuracy"),)

    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        return read_mnist(data_dir)

    def model(self, multiplexing: Multiplexing) -> nn.Module:
        # Features last in memory: convolutions on a CPU are a third faster, and binding needs no copy.
        return self._model(multiplexing).to(memory_format=torch.channels_last)

    def _model(self, multiplexing: Multiplexing) -> nn.Module:
        hidden = self.hidden_size
        shape = {"out_width": hidden, "head": nn.Linear(hidden, CLASSES)}
        if self.network == "stem":
            stem, body = stem_and_body(self.channels, hidden)
            return multiplexing.wrap(body, self.channels, stem=stem, **shape)
        if self.network == "mlp":
            layers = [nn.Flatten(), nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        else:
            inner, outer = self.channels // 2, self.channels
            layers = [nn.Conv2d(1, inner, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(inner, outer, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Flatten(), nn.Linear(outer * (SIDE // 4) ** 2, hidden), nn.ReLU()]
        if multiplexing.multiplexer in IMAGE_MULTIPLEXERS:
            return multiplexing.wrap(nn.Sequential(*layers), 1, **shape)
        return multiplexing.wrap(nn.Sequential(*layers), SIDE * SIDE, feature_dim=None, **shape)

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        return nn.functional.cross_entropy(outputs, rows["label"])

    def measure(self, outputs: Tensor, rows: Rows) -> Rows:
        return {"accuracy": right(outputs, rows["label"])}


def stem_and_body(channels: int, hidden_size: int) -> tuple[nn.Module, nn.Module]:
    """What every row goes through, (B, 1, 28, 28) -> (B, channels, 14, 14), and what rows share, -> (G, hidden_size).

    Normalisation comes behind the binding, where it costs one row in N.
    """
    stem = nn.Sequential(nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.ReLU())
    first, second = convolution(channels, channels, 3), convolution(channels, channels, 3, stride=2)
    last = nn.Linear(channels * (SIDE // 4) ** 2, hidden_size)
    return stem, nn.Sequential(nn.BatchNorm2d(channels), first, second, nn.Flatten(), last, nn.ReLU())


@functools.lru_cache(maxsize=1)
def read_mnist(data_dir: str) -> tuple[Rows, Rows]:
    """Training and test rows: image, float32 (rows, 1, 28, 28), normalised; label, int64 (rows).

    Raises:
        ValueError: A file is missing or damaged, or has images of another size.
    """
    paths = find_files("mnist", data_dir, FILES, "IDX, packed with gzip or not")
    found = []
    for split in ("train", "test"):
        image, label = read_idx(paths[f"{split} images"], 3), read_idx(paths[f"{split} labels"], 1)
        if image.shape[1:] != (SIDE, SIDE):
            size = "x".join(map(str, image.shape[1:]))
            raise ValueError(f"{paths[f'{split} images']}: images of {size} pixels, expected {SIDE}x{SIDE}")
        if len(image) != len(label):
            raise ValueError(f"{paths[f'{split} labels']}: {len(label)} labels for {len(image)} images")
        if len(label) and label.max() >= CLASSES:
            raise ValueError(f"{paths[f'{split} labels']}: label {label.max()}, expected 0 to {CLASSES - 1}")
        pixels = torch.from_numpy(image).to(torch.float32)[:, None].div_(255).sub_(MEAN).div_(DEVIATION)
        found.append({"image": pixels, "label": torch.from_numpy(label).to(torch.int64)})
    return found[0], found[1]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file, in its shape.

    Raises:
        ValueError: The file is damaged, or no IDX file of so many dimensions.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    start = 4 * (1 + dimensions)
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic or len(content) < start:
        wanted = f"{magic.hex()}, IDX of {dimensions} dimensions"
        raise ValueError(f"{path} starts with {content[:4].hex()}, expected {wanted}")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) - start != int(np.prod(shape)):
        raise ValueError(f"{path} says it holds {shape} bytes, and holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
