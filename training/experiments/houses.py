"""Prices of houses from four photographs and four numbers (Ahmed and Moustafa, 2016, "House price estimation from
visual and textual features"): a CNN and an MLP, each on N houses at once, whose outputs meet house by house."""

from __future__ import annotations

import functools
import zipfile
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastmux.settings import one_of
from fastmux.training.experiments.base import (
    Experiment,
    Metric,
    Multiplexing,
    Rows,
    convolution,
    draw_split,
    scales,
    select,
)
from fastmux.training.tasks.readers import find_files

PHOTOS, SIDE = 4, 64
#: Photographs are averaged over squares of so many pixels: with some hundred houses, detail is noise.
SQUARE = 2
#: Columns of the file's features.
FEATURES = ("bedrooms", "bathrooms", "area", "zip code")
SEES = ("photos and numbers", "photos", "numbers")
#: Of the houses are for testing; which ones, the seed draws.
TEST_SHARE = 0.25
#: So many zip codes, those of most houses to train on and of at least so many, are categories; 0 is every other one.
ZIP_CODES, LEAST_HOUSES = 32, 3


@dataclass(frozen=True)
class Houses(Experiment):
    """Attributes:
    sees: "photos and numbers", "photos" or "numbers".
    channels: Those of the convolutions. The first one is each house's own; behind it N houses share a pass.
    hidden_size: The width of the MLP, and of what either branch gives the last layer.
    zip_size: The width of a zip code's embedding.
    dropout: Dropout of whole channels behind the first convolution, and of features before the last layer.
    """

    sees: str = one_of(SEES[0], SEES)
    channels: int = 32
    hidden_size: int = 64
    zip_size: int = 8
    dropout: float = 0.3

    name = "houses"
    inputs = ("photos", "numbers", "zip")
    metrics = (Metric("MAE"), Metric("MAPE"))
    splits_by_seed = True

    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        return prepare(*read_houses(data_dir), seed)

    def model(self, multiplexing: Multiplexing) -> nn.Module:
        return HouseNetwork(self, multiplexing)

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        return nn.functional.smooth_l1_loss(outputs, (rows["price"].log() - rows["center"]) / rows["scale"])

    def measure(self, outputs: Tensor, rows: Rows) -> Rows:
        return errors((outputs.float() * rows["scale"] + rows["center"]).exp(), rows["price"])

    def references(self, train: Rows, test: Rows) -> dict[str, Rows]:
        return {"always the median": errors(train["price"].median(), test["price"])}


class HouseNetwork(nn.Module):
    """photos (B, 12, 32, 32), numbers (B, 3), zip (B) of ids -> (B), the price's logarithm, standardised."""

    def __init__(self, experiment: Houses, multiplexing: Multiplexing):
        super().__init__()
        channels, hidden = experiment.channels, experiment.hidden_size
        self.branches = nn.ModuleDict()
        if "photos" in experiment.sees:
            deeper = (convolution(channels, channels, 3, stride=2) for _ in range(2))
            last = nn.Linear(channels * (SIDE // SQUARE // 8) ** 2, hidden)
            body = nn.Sequential(*deeper, nn.Flatten(), last, nn.ReLU())
            stem = nn.Sequential(convolution(3 * PHOTOS, channels, 5, stride=2), nn.Dropout2d(experiment.dropout))
            self.branches["photos"] = multiplexing.wrap(body, channels, out_width=hidden, stem=stem)
        if "numbers" in experiment.sees:
            self.zip = nn.Embedding(1 + ZIP_CODES, experiment.zip_size)
            stem = nn.Sequential(nn.Linear(len(FEATURES) - 1 + experiment.zip_size, hidden), nn.ReLU())
            body = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
            self.branches["numbers"] = multiplexing.wrap(body, hidden, stem=stem)
        self.last = nn.Sequential(nn.Dropout(experiment.dropout), nn.Linear(len(self.branches) * hidden, 1))

    def forward(self, photos: Tensor, numbers: Tensor, zip: Tensor) -> Tensor:
        if self.training and "photos" in self.branches:  # a room is worth as much in a mirror
            mirrored = torch.rand(len(photos), 1, 1, 1, device=photos.device) < 0.5
            photos = torch.where(mirrored, photos.flip(-1), photos)
        inputs = {"photos": photos}
        if "numbers" in self.branches:
            inputs["numbers"] = torch.cat([numbers, self.zip(zip)], -1)
        return self.last(torch.cat([branch(inputs[name]) for name, branch in self.branches.items()], -1)).squeeze(-1)


def errors(price: Tensor, true: Tensor) -> Rows:
    """How far each house's price is off, (B), in dollars and as a share of the true price."""
    off = (price - true).abs()
    return {"MAE": off, "MAPE": off / true}


def prepare(images: np.ndarray, features: np.ndarray, price: np.ndarray, seed: int) -> tuple[Rows, Rows]:
    """Training and test rows of a split that the seed draws; everything is scaled by the training rows alone."""
    train, test = draw_split(len(price), TEST_SHARE, seed)
    photos = torch.from_numpy(images).to(torch.float32).permute(0, 1, 4, 2, 3).flatten(1, 2)
    photos = nn.functional.avg_pool2d(photos, SQUARE)
    # Rooms are counted, areas are told apart by ratios.
    numbers = torch.from_numpy(np.column_stack([features[:, :2], np.log(features[:, 2])]).astype(np.float32))
    # Of as many houses, the lower code comes first.
    most = Counter(sorted(features[train.numpy(), 3])).most_common(ZIP_CODES)
    places = {code: place for place, (code, houses) in enumerate(most, 1) if houses >= LEAST_HOUSES}
    zips = torch.tensor([places.get(code, 0) for code in features[:, 3]])
    rows = {
        "photos": (photos - photos[train].mean((0, 2, 3), keepdim=True)) / photos[train].std((0, 2, 3), keepdim=True),
        "numbers": (numbers - numbers[train].mean(0)) / numbers[train].std(0).clamp(min=1e-6),
        "zip": zips,
        "price": torch.from_numpy(price),
        **scales(torch.from_numpy(np.log(price)), train),
    }
    return select(rows, train), select(rows, test)


@functools.lru_cache(maxsize=1)
def read_houses(data_dir: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """images uint8 (houses, 4, 64, 64, 3), features float32 (houses, 4): `FEATURES`, price float32 (houses).

    Raises:
        ValueError: The file or an array is missing or damaged, an array has another shape, a price or an area is not
            above 0, or there are too few houses.
    """
    layout = "arrays images (houses, 4, 64, 64, 3), features (houses, 4), price (houses)"
    path = find_files("houses", data_dir, {"images": ("images.npz",)}, layout)["images"]
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    shapes = {"images": (PHOTOS, SIDE, SIDE, 3), "features": (len(FEATURES),), "price": ()}
    if missing := shapes.keys() - arrays.keys():
        raise ValueError(f"{path} has no array {', '.join(sorted(missing))}; expected {layout}")
    images, features, price = (arrays[name] for name in shapes)
    for name, shape in shapes.items():
        if arrays[name].shape != (len(price), *shape):
            raise ValueError(f"{path}: {name} has shape {arrays[name].shape}, expected {(len(price), *shape)}")
    for what, column in (("price", price), ("area", features[:, 2])):
        if len(bad := np.flatnonzero(~(column > 0))):
            raise ValueError(f"{path}: the {what} of house {bad[0]} is {column[bad[0]]}, expected a number above 0")
    if len(price) < 8:
        raise ValueError(f"{path}: {len(price)} houses, expected at least 8, to train on and to test")
    return images, features, price.astype(np.float32)
